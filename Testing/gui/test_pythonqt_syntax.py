"""PythonQt is stricter than PySide: what its rules forbid in the code of the panels is found without running it."""

import ast
import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6 and the libraries it loads", exc_type=ImportError)

FILES = (
    "FocusNetSegmentation/FocusNetSegmentation.py",
    "FocusNetSegmentation/FocusNetSegmentationLib/panel.py",
    "FocusNetSegmentation/FocusNetSegmentationLib/widgets.py",
    "FocusNetTraining/FocusNetTraining.py",
    "FocusNetTraining/FocusNetTrainingLib/data_panel.py",
    "FocusNetTraining/FocusNetTrainingLib/evaluate_panel.py",
    "FocusNetTraining/FocusNetTrainingLib/train_panel.py",
)
SIGNAL = re.compile(r"\w+\([\w,:<>*& ]*\)")
# Getters that PythonQt offers as properties only, and ways of PySide that it does not know.
CALLED_PROPERTIES = {
    *("text", "checked", "isChecked", "value", "currentIndex", "currentText", "currentPath", "enabled", "isEnabled"),
    *("visible", "isVisible", "toolTip", "title", "collapsed", "maximum", "minimum", "plainText", "rowCount", "count"),
}
FOREIGN = {"emit", "Signal", "Slot", "Property", "exec_"}


def faults(source: str) -> list[str]:
    """Lines that PythonQt would refuse."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found += _call_faults(node, node.func)
        if isinstance(node, ast.Attribute) and node.attr in FOREIGN:
            found.append(f"{node.lineno}: .{node.attr} is PySide's")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            if any(n.split(".")[0] in ("PySide6", "PySide2", "PyQt5", "PyQt6", "PythonQt") for n in names):
                found.append(f"{node.lineno}: Qt comes from the module qt")
        if isinstance(node, ast.Attribute) and _dotted(node).startswith(("qt.Qt.CheckState", "qt.Qt.Orientation")):
            found.append(f"{node.lineno}: enumerators are flat in PythonQt")
    return found


def _call_faults(call: ast.Call, function: ast.Attribute) -> list[str]:
    owner = _dotted(function.value)
    widget = ".ui." in f".{owner}." or owner.startswith(("ui.", "qt.")) or owner in ("table", "combo", "timer", "edit")
    found = []
    if function.attr == "connect":
        first = call.args[0] if call.args else None
        if len(call.args) != 2 or not isinstance(first, ast.Constant) or not SIGNAL.fullmatch(str(first.value)):
            found.append(f"{call.lineno}: connect takes the signal's C++ signature and a slot")
    if widget and function.attr in CALLED_PROPERTIES and not call.args and not isinstance(function.value, ast.Call):
        found.append(f"{call.lineno}: {owner}.{function.attr} is a property, not a method")
    return found


def _dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def stored(source: str) -> set[tuple[str, str]]:
    """Widget and attribute of each assignment ``ui.widget.attribute = value``."""
    targets = (t for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign) for t in n.targets)
    names = (_dotted(t).split(".") for t in targets if isinstance(t, ast.Attribute))
    return {(parts[-2], parts[-1]) for parts in names if len(parts) >= 3 and parts[-3] in ("ui", "evaluateUi")}


@pytest.mark.parametrize("name", FILES)
def test_panels_use_only_what_pythonqt_knows(root, name):
    assert faults((root / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", FILES)
def test_only_properties_that_exist_are_set(root, name, standins):
    """PythonQt refuses an unknown attribute when the line is reached, which may be months later."""
    from PySide6 import QtCore

    house = (root / name).relative_to(root).parts[0]
    classes = {}
    for file in (root / house / "Resources" / "UI").glob("*.ui"):
        pairs = re.findall(r'<widget class="(\w+)" name="(\w+)"', file.read_text(encoding="utf-8"))
        classes |= {widget: kind for kind, widget in pairs}
    for widget, attribute in stored((root / name).read_text(encoding="utf-8")):
        found = inspect.getattr_static(standins.CLASSES[classes[widget]], attribute, None)
        assert isinstance(found, property | QtCore.Property), f"{widget}.{attribute}"


@pytest.mark.parametrize(
    "line",
    [
        "self.ui.button.clicked.connect(f)",
        "self.ui.button.connect('clicked', f)",
        "self.ui.button.connect('clicked(bool)')",
        "x = self.ui.label.text()",
        "if self.ui.box.isChecked(): y()",
        "n = table.rowCount()",
        "item.setCheckState(qt.Qt.CheckState.Checked)",
        "self.ui.button.clicked.emit()",
        "from PySide6 import QtWidgets",
        "dialog.exec_()",
    ],
)
def test_what_pythonqt_does_not_know_is_found(line):
    assert len(faults(line)) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "self.ui.button.connect('clicked(bool)', f)",
        "edit.connect('currentPathChanged(QString)', f)",
        "x = self.ui.label.text",
        "self.ui.label.text = 'a'",
        "t = self.ui.table.item(0, 1).text()",
        "item.setCheckState(qt.Qt.Checked)",
        "n = names.count(3)",
    ],
)
def test_what_pythonqt_knows_is_not(line):
    assert faults(line) == []


def test_every_panel_is_looked_at(root: Path):
    panels = {p.relative_to(root).as_posix() for p in root.glob("FocusNet*/FocusNet*Lib/*panel.py")}
    assert panels <= set(FILES)
