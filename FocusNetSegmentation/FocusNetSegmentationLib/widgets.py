"""What the panels do alike with their widgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt

from FocusNetSegmentationLib.packages import check_installable

PARAMETER_NAME = "SlicerParameterName"
NOT_INSTALLED = "Not started: the Python packages are not installed."


class LogView:
    """Shows a log that grows.

    Args:
        edit: The plain text edit to show it in.
    """

    def __init__(self, edit: Any) -> None:
        self._edit = edit
        self._shown = 0

    def clear(self) -> None:
        """Forget what is shown; another log begins."""
        self._edit.clear()
        self._shown = 0

    def show(self, log: Sequence[str]) -> None:
        """Append the lines that are new since the last call."""
        for line in log[self._shown :]:
            self._edit.appendPlainText(line)
        self._shown = len(log)


def bound_widgets(ui: Any) -> dict[str, Any]:
    """The widgets that show a parameter, by its name, for ``connectParametersToGui``.

    ``connectGui`` finds them itself but gives no tag in released versions of 3D Slicer, so that what it has connected
    stays so for ever and writes the values of a list that is being filled into the parameter node.
    """
    widgets = ((widget.property(PARAMETER_NAME), widget) for widget in vars(ui).values())
    return {name: widget for name, widget in widgets if name}


def make_timer(milliseconds: int, slot: Callable[[], None]) -> Any:
    """A timer, not yet started, that calls a slot each time it is up."""
    timer = qt.QTimer()
    timer.interval = milliseconds
    timer.connect("timeout()", slot)
    return timer


def fill_row(table: Any, row: int, texts: Sequence[str], hint: str = "") -> None:
    """Write texts into a table's row from its first column on, all with the same hint."""
    for column, text in enumerate(texts):
        item = qt.QTableWidgetItem(text)
        item.setToolTip(hint)
        table.setItem(row, column, item)


def colour_row(table: Any, row: int, columns: Sequence[int], colour: str) -> None:
    """Colour the texts in some columns of a row that is filled."""
    for column in columns:
        table.item(row, column).setForeground(qt.QBrush(qt.QColor(colour)))


def may_install(confirm: Callable[[str], bool], work: str, missing: Sequence[str]) -> bool:
    """Ask the user whether the packages that some work needs may be installed.

    Raises:
        FocusNetError: ``E_PACKAGE`` when they can't be.
    """
    check_installable(missing)
    return confirm(
        f"{work} needs these Python packages in 3D Slicer: {', '.join(missing)}.\n\n"
        "Install them now? PyTorch is large; this can take several minutes."
    )
