"""Compare segmentations with reference contours without a window, in 3D Slicer or plain Python; needs no torch.

    Slicer --no-splash --no-main-window --python-script evaluate.py -- --reference REF --prediction PRED --output DIR
    python evaluate.py -- --reference REF --prediction PRED --output DIR

Writes metrics.csv, metrics.json and, where the Python package jinja2 is installed, report.html. Exit codes: 0 done;
1 at least one case failed, the others are done; 2 wrong usage or refused input; 3 cancelled; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from FocusNetSegmentationLib.headless import DONE, FAILED, Parser, end, guarded, own_arguments


def main(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    return guarded(lambda: _evaluate(_options(arguments)))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="evaluate.py", description="Compare contours with those of a reference.", allow_abbrev=False)
    parser.add_argument("--reference", required=True, type=Path, help="file, folder or pattern with *: label maps, ...")
    parser.add_argument("--prediction", required=True, type=Path, help="the same for the contours to be judged")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--second", type=Path, help="contours of another method, for paired tests")
    parser.add_argument("--observer", type=Path, help="contours of a second observer, the human yardstick")
    parser.add_argument("--ct", type=Path, help="CTs, for pictures and for RTSTRUCT files")
    parser.add_argument("--organs", help="only these organs, separated by commas")
    parser.add_argument("--label-names", type=Path, help="JSON file with the names of label values")
    parser.add_argument("--spellings", type=Path, help="table of own organ names: CSV or JSON")
    parser.add_argument("--table", action="append", default=[], help="table for a paper: markdown, latex; repeatable")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="only errors")
    return parser.parse_args(arguments)


def _evaluate(chosen: argparse.Namespace) -> int:
    from focusnet.evaluation import EvaluationOptions, evaluate
    from focusnet.evaluation.summary import mean_over_organs, summarise_rows
    from focusnet.organs import organ_keys, split_names

    names = split_names(chosen.organs)
    options = EvaluationOptions(
        others={} if chosen.second is None else {"second": chosen.second},
        observer=chosen.observer,
        ct=chosen.ct,
        organs=None if names is None else organ_keys(names),
        label_names=chosen.label_names,
        spellings=chosen.spellings,
        tables=tuple(chosen.table),
        jobs=1,  # each process of a pool would start another 3D Slicer
        overwrite=chosen.overwrite,
    )
    shown = None if chosen.quiet else lambda done, count, case: _tell(f"{case}: {done} of {count}")
    result = evaluate(chosen.reference, chosen.prediction, chosen.output, options, shown)
    for case, error in result.failed.items():
        _tell(f"{case}: {error}")
    means = {name: mean_over_organs(summarise_rows(rows), "dsc") for name, rows in result.rows.items()}
    if chosen.json:
        answer = {
            "written": {name: str(path) for name, path in result.written.items()},
            "failed": {case: str(error) for case, error in result.failed.items()},
            "mean_dsc": {name: None if mean is None else mean[0] for name, mean in means.items()},
        }
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    elif not chosen.quiet:
        for name, mean in means.items():
            if mean is not None:
                print(f"{name}: mean DSC over {mean[1]} organs {mean[0]:.3f}", flush=True)
    return FAILED if result.failed else DONE


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    end(main(own_arguments(sys.argv[1:])))
