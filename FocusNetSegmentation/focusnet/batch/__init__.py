"""Whole archives: each case once, whatever happens on the way."""

from focusnet.batch.cases import case_files, content_hash, find_archive
from focusnet.batch.manifest import Manifest, Row
from focusnet.batch.run import BatchOptions, find_number, run_batch
from focusnet.batch.watch import WatchOptions, arrivals, check_watched

__all__ = [
    "BatchOptions",
    "Manifest",
    "Row",
    "WatchOptions",
    "arrivals",
    "case_files",
    "check_watched",
    "content_hash",
    "find_archive",
    "find_number",
    "run_batch",
]
