"""The panels under stand-ins for 3D Slicer's Qt part: real .ui files, real MRML scene, real Qt, no display."""

import os
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("slicer", reason="needs the slicer-core wheel")
pytest.importorskip("PySide6.QtUiTools", reason="needs PySide6 and the libraries it loads", exc_type=ImportError)


def load(name: str, path: Path) -> Any:
    """Module from a file."""
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class World(SimpleNamespace):
    """What lies outside of a panel, as a test sets it, and what the panel asked of it."""

    def __init__(self) -> None:
        super().__init__(missing=[], installed=[], asked=[], answer=True, open_path="")

    def services(self) -> dict[str, Any]:
        """Those services that every panel with packages to install has."""
        return {
            "missing_packages": lambda: self.missing,
            "install_packages": self._install,
            "confirm": lambda text: self.asked.append(text) or self.answer,
            "ask_open": lambda title, kind: self.open_path,
        }

    def _install(self, missing: list[str], wheels: Path | None) -> None:
        self.installed.append((list(missing), wheels))
        self.missing = []


@pytest.fixture
def world() -> World:
    """The world outside, with nothing missing and a user who agrees."""
    return World()


@pytest.fixture(scope="session")
def standins() -> Any:
    """The stand-ins."""
    return load("gui_standins", Path(__file__).with_name("standins.py"))


@pytest.fixture
def scene() -> Iterator[Any]:
    """The scene, empty before and after."""
    from FocusNetSegmentationLib import runtime

    scene = runtime.ensure()
    scene.Clear(1)
    yield scene
    scene.Clear(1)


@pytest.fixture
def application(standins: Any, scene: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stand-in for the application with the resources of FocusNetSegmentation."""
    import slicer

    failures: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: failures.append(error))
    standins.install(monkeypatch, root / "FocusNetSegmentation" / "Resources")
    _forget_panels()
    yield slicer.app
    _forget_panels()
    # Qt and VTK only print what a slot or an observer raises.
    assert failures == []


@pytest.fixture
def module(application: Any, root: Path) -> Any:
    """The module file, loaded as Slicer loads it."""
    return load("FocusNetSegmentation", root / "FocusNetSegmentation" / "FocusNetSegmentation.py")


@pytest.fixture
def training_module(standins: Any, scene: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module FocusNetTraining, loaded as Slicer loads it, under the stand-in for the application."""
    failures: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: failures.append(error))
    standins.install(monkeypatch, root / "FocusNetTraining" / "Resources")
    _forget_panels()
    yield load("FocusNetTraining", root / "FocusNetTraining" / "FocusNetTraining.py")
    _forget_panels()
    assert failures == []


def _forget_panels() -> None:
    """Forget what was loaded with the stand-ins of one test."""
    for name in list(sys.modules):
        if name.startswith("FocusNet") and name.endswith(("Segmentation", "Training", "panel", ".widgets")):
            del sys.modules[name]
