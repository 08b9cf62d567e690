"""``python -m focusnet``."""

from focusnet.cli import main

if __name__ == "__main__":
    main()
