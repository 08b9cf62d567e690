"""What the scripts for 3D Slicer without a window have in common; they run in plain Python as well."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from focusnet.errors import Cancelled, FocusNetError

from FocusNetSegmentationLib.packages import missing_packages
from FocusNetSegmentationLib.runtime import in_application

DONE, FAILED, REFUSED, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 130


class Parser(argparse.ArgumentParser):
    """Refuses in one line with a reason code."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(REFUSED, f"E_USAGE: {message}; see {self.prog} -- --help.\n")


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """What follows ``--``; everything where it is missing."""
    everything = list(arguments)
    return everything[everything.index("--") + 1 :] if "--" in everything else everything


def require_packages() -> None:
    """See to it that what segmentation and training need is installed, before any work.

    Raises:
        FocusNetError: ``E_PACKAGE`` with what is missing and the command that installs it.
    """
    if missing := missing_packages():
        raise _package_error(missing)


def guarded(work: Callable[[], int]) -> int:
    """Exit code of some work; no exception leaves, for it would keep 3D Slicer open."""
    try:
        return work()
    except SystemExit as ended:  # argparse has said what is wrong, or printed the help
        return ended.code if isinstance(ended.code, int) else REFUSED
    except Cancelled as error:
        return _told(str(error), CANCELLED)
    except FocusNetError as error:
        return _told(str(error), REFUSED)
    except KeyboardInterrupt:
        return _told("Interrupted.", INTERRUPTED)
    except ModuleNotFoundError as error:
        return _module_missing(error)
    except Exception as error:
        text = " ".join(str(error).split())
        return _told(f"E_INTERNAL: {type(error).__name__}: {text}; please report this.", FAILED)


def end(code: int) -> None:
    """End the process, which in 3D Slicer is the application, with an exit code."""
    if in_application():
        import slicer.util

        slicer.util.exit(code)
    else:
        sys.exit(code)


def _module_missing(error: ModuleNotFoundError) -> int:
    """Tell what to install for a module that is not there: of what we require, all that is missing."""
    module = (error.name or "").split(".")[0]
    missing = missing_packages()
    if module and module not in (line.split(">=")[0] for line in missing):
        missing = [module]
    if not missing or module.lower().startswith("focusnet"):
        return _told(f"E_INTERNAL: ModuleNotFoundError: {error}; please report this.", FAILED)
    return _told(str(_package_error(missing)), REFUSED)


def _package_error(missing: Sequence[str]) -> FocusNetError:
    python = "PythonSlicer" if in_application() else "python"
    quoted = " ".join(f'"{line}"' for line in missing)
    return FocusNetError("E_PACKAGE", f"Missing: {', '.join(missing)}; install by: {python} -m pip install {quoted}")


def _told(line: str, code: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return code
