"""Swapped sides and missing organs never escape, whatever the organ; the page on the flags names all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from focusnet.quality import Code, check_output


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["lose", "swap", "swap_all", "swap_alone"])
def test_no_missing_or_mis_sided_organ_escapes(
    kind: str, shared_data: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(root / "Benchmarks"))
    from injected import errors
    from injected.cases import contour_cases

    inject: Callable = getattr(errors, kind)
    case = next(iter(contour_cases(shared_data / "contours", "report")))
    injected = [inject(case, key, np.random.default_rng(0)) for key in case.organs]
    spoiled = [error for error in injected if error is not None]
    assert len(spoiled) == (21 if kind == "lose" else 16)  # 8 pairs and 5 unpaired organs
    for error in spoiled:
        flags = check_output(error.case.labels, None, case.organs)
        assert error.wanted & {(flag.code, flag.organ) for flag in flags}, error.wanted


def test_the_page_defines_every_flag(root: Path) -> None:
    page = (root / "Docs" / "quality-flags.md").read_text(encoding="utf-8")
    assert [code for code in get_args(Code) if f"| `{code}` |" not in page] == []
