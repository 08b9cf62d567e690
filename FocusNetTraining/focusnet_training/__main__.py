"""``python -m focusnet_training ...`` is ``focusnet train ...`` in a form that ``torchrun`` can start several times."""

import os
import sys

from focusnet.cli import main

if __name__ == "__main__":
    others_are_quiet = ["--quiet"] if int(os.environ.get("RANK", "0")) > 0 else []
    sys.argv[1:] = ["train", *sys.argv[1:], *others_are_quiet]
    main()
