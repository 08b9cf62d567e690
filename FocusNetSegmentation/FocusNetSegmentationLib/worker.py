"""Segmentation in a child process: ``python -m FocusNetSegmentationLib.worker FOLDER PARENT_PID``.

Takes the CT from the folder, tells its progress in lines of :mod:`protocol` and puts the result into the folder. Exit
codes are those of the command line. When its parent is gone, it ends and takes the folder with it.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from focusnet.errors import FocusNetError

from FocusNetSegmentationLib.process import is_running
from FocusNetSegmentationLib.protocol import emit

DONE, FAILED, REFUSED = 0, 1, 2
WATCH_SECONDS = 1.0
MIN_STEP_SECONDS = 0.1


def main(folder: Path, parent_pid: int) -> int:
    """Segment the CT of the folder and return the exit code."""
    end_with_parent(folder, parent_pid)
    return report_errors(lambda: _segment(folder))


def report_errors(work: Callable[[], None]) -> int:
    """Do the work of a child process, tell its parent why it failed, and return the exit code."""
    try:
        work()
    except FocusNetError as error:
        emit("error", code=error.code, message=error.message)
        return REFUSED
    except MemoryError:
        emit("error", code="E_OUT_OF_MEMORY", message="Memory does not suffice; close programs or crop the CT.")
        return FAILED
    except ImportError as error:
        emit("error", code="E_PACKAGE", message=f"A Python package is missing or damaged: {error}; install it again.")
        return FAILED
    except OSError as error:
        reason = error.strerror or str(error)
        emit("error", code="E_DISK", message=f"Reading or writing failed: {reason}; check free disk space.")
        return FAILED
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        emit("error", code="E_INTERNAL", message=f"{type(error).__name__}: {text}; please report this with the log.")
        return FAILED
    return DONE


def _segment(folder: Path) -> None:
    emit("progress", stage="loading the model", share=0.0, seconds_left=None)
    from focusnet.analysis import analyse
    from focusnet.devices import keep_memory
    from focusnet.organs import organ_keys
    from focusnet.segment import make_predictor

    from FocusNetSegmentationLib.exchange import Report, read_request, write_report

    keep_memory()
    volume, options = read_request(folder)
    told = 0.0

    def progress(stage: str, share: float, seconds_left: float | None) -> None:
        nonlocal told
        if time.monotonic() - told >= MIN_STEP_SECONDS:
            told = time.monotonic()
            emit("progress", stage=stage, share=share, seconds_left=seconds_left)

    organs = None if options.organs is None else organ_keys(options.organs)
    report = Report.of(analyse(volume, make_predictor(options), organs, progress), options)
    emit("progress", stage="writing", share=1.0, seconds_left=0.0)
    write_report(folder, report)


def end_with_parent(folder: Path, parent_pid: int) -> None:
    """Watch the parent from now on; when it is gone, end and take the folder along."""
    threading.Thread(target=_watch, args=(folder, parent_pid), daemon=True).start()


def _watch(folder: Path, parent_pid: int) -> None:
    while is_running(parent_pid):
        time.sleep(WATCH_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
