"""The panel of FocusNetSegmentation with a child process that a test plays."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap, Volume

KEYS = {1: "parotid_l", 2: "parotid_r", 3: "brainstem"}
FLAGS = (
    {"code": "truncated", "organ": "", "severity": "warning", "message": "The scan is short."},
    {"code": "asymmetric", "organ": "brainstem", "severity": "error", "message": "Brainstem: odd."},
)


class Child:
    """Stands for the child process."""

    def __init__(self, arguments):
        self.folder = Path(arguments[2])
        self.lines, self.code, self.ended = [], None, False

    def poll(self):
        lines, self.lines = self.lines, []
        return lines, self.code

    def end(self):
        self.ended, self.code = True, -9

    def say(self, **message):
        self.lines.append("@focusnet " + json.dumps(message))

    def finish(self):
        from FocusNetSegmentationLib.exchange import Report, read_request, write_report

        volume, options = read_request(self.folder)
        labels = LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, KEYS)
        organs = {key: {"volume_ml": 1.5, "confidence": 0.9, "flags": []} for key in KEYS.values()}
        organs["lens_l"] = {"volume_ml": 0.0, "confidence": 0.0, "flags": []}
        stamp = {"model": str(options.model)}
        percent = Volume((volume.array // 10).astype(np.uint8), volume.geometry)
        uncertainty = percent if options.output.uncertainty else None
        write_report(self.folder, Report(labels, organs, FLAGS, ("memory was short",), stamp, 12.3, uncertainty))
        self.code = 0


@pytest.fixture
def add_ct(scene):
    """Adds a CT with three blocks for organs."""
    import slicer

    def add(name="CT"):
        array = np.zeros((12, 20, 30), np.int16)
        array[2:5, 4:9, 20:27] = 100
        array[2:5, 4:9, 3:10] = 200
        array[6:11, 8:15, 12:18] = 300
        return slicer.util.addVolumeFromArray(array, np.diag([-2.0, -2.0, 3.0, 1.0]), name)

    return add


@pytest.fixture
def outside(module, world, monkeypatch, tmp_path):
    """What lies outside of the panel, to be changed by a test."""
    from FocusNetSegmentationLib.panel import ModelChoice

    world.children, world.save_path = [], ""
    world.models = [
        ModelChoice("openkbp7", "Seven organs.", ("parotid_l", "parotid_r", "brainstem", "lens_l")),
        ModelChoice("phantom22", "All organs.", ("eye_l", "eye_r")),
        ModelChoice("broken", "", (), "E_BUNDLE_SCHEMA: damaged."),
    ]

    def install_model(path):
        if path.name == "bad.zip":
            raise FocusNetError("E_BUNDLE_FORMAT", "no bundle")
        return "phantom22"

    real = module.FocusNetSegmentationLogic.services
    monkeypatch.setattr(
        module.FocusNetSegmentationLogic,
        "services",
        lambda self: replace(
            real(self),
            **world.services(),
            models=lambda: [] if world.missing else world.models,
            install_model=install_model,
            ask_save=lambda title, kind: world.save_path,
        ),
    )
    import FocusNetSegmentationLib.job as job

    monkeypatch.setattr(
        job, "start_python", lambda arguments: world.children.append(Child(arguments)) or world.children[-1]
    )
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    world.temporary = tmp_path / "temporary"
    return world


@pytest.fixture
def widget(module, outside, add_ct):
    """The panel with one CT in the scene."""
    add_ct()
    widget = module.FocusNetSegmentationWidget()
    widget.setup()
    yield widget
    widget.cleanup()


@pytest.fixture
def segment(widget, outside):
    """Presses Segment and lets the child finish."""

    def press():
        widget.ui.segmentButton.click()
        outside.children[-1].finish()
        widget.panel.poll()

    return press
