"""Evaluation of segmentations: metrics, statistics, reading and report; needs neither torch nor Slicer."""

from focusnet.evaluation.case import CaseSettings, Row, evaluate_case
from focusnet.evaluation.plan import EvaluationOptions
from focusnet.evaluation.run import EvaluationResult, compare, evaluate

__all__ = [
    "CaseSettings",
    "EvaluationOptions",
    "EvaluationResult",
    "Row",
    "compare",
    "evaluate",
    "evaluate_case",
]
