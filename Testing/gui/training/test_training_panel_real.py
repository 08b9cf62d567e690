"""The Train tab with real processes on a tiny data set: check, train, install."""

import time
from dataclasses import replace

import pytest

CONFIG = """
name = "tiny"
[network]
widths = [4, 4, 4]
growth = 2
dilations = [2, 3]
roi_shape_zyx = [8, 8, 8]
[data]
spacing_xyz = [4.0, 4.0, 4.0]
chunk_zyx = [16, 24, 24]
small_voxels = 60
[augmentation]
field_of_view_cut = 0.0
[[stages]]
name = "snet"
steps = 4
validate_every = 2
"""
MAX_SECONDS = 0.2


@pytest.fixture
def widget(training_module, monkeypatch, tmp_path):
    """The panel as it is, apart from dialogs, packages and settings."""
    from FocusNetSegmentationLib import runtime

    monkeypatch.setattr(runtime, "in_application", lambda: False)  # so that this Python is started
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FOCUSNET_MODELS", "")
    real = training_module.FocusNetTrainingLogic.trainServices
    monkeypatch.setattr(
        training_module.FocusNetTrainingLogic,
        "trainServices",
        lambda self: replace(
            real(self),
            missing_packages=list,
            confirm=lambda text: True,
            show_chart=lambda chart: None,
            recall_run=str,
            remember_run=lambda path: None,
        ),
    )
    widget = training_module.FocusNetTrainingWidget()
    widget.setup()
    yield widget
    if widget.panels[0].status.is_alive:
        widget.panels[0].stop()
    widget.cleanup()


def wait(widget, done, seconds=600):
    """Let the panel work until something is reached; the longest time that it kept the window from answering."""
    longest, end = 0.0, time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, (widget.ui.statusLabel.text, widget.ui.dataSummaryLabel.text)
        start = time.thread_time()
        widget.panels[0].poll()
        longest = max(longest, time.thread_time() - start)
        time.sleep(0.1)
    return longest


def test_check_train_and_install(widget, small_dataset, tmp_path, scene):
    import slicer
    from focusnet.bundle import load_bundle
    from focusnet.model_store import find_bundle

    ui = widget.ui
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG)
    widget._parameterNode.preset = str(config)
    ui.runPathEdit.currentPath = str(tmp_path / "Lauf 1")
    ui.dataPathEdit.currentPath = str(small_dataset)
    widget.panels[0].set_parameters(widget._parameterNode)
    ui.deviceComboBox.setCurrentIndex(1)
    assert ui.presetComboBox.currentText == "tiny.toml"

    ui.checkButton.click()
    assert ui.checkButton.text == "Cancel"
    longest = wait(widget, lambda: ui.checkButton.text == "Check data")
    assert ui.dataSummaryLabel.text.startswith("4 organs; 4 cases to train, 2 cases to validate.")

    ui.startButton.click()
    longest = max(longest, wait(widget, lambda: ui.statusLabel.text.startswith("Finished")))
    assert ui.organsTable.rowCount == 4
    ui.showDscButton.click()
    tables = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert [node.GetTable().GetNumberOfRows() for node in tables] == [2]

    ui.installButton.click()
    assert ui.installButton.text == "Cancel installing"
    longest = max(longest, wait(widget, lambda: ui.installButton.text == "Install as model"))
    assert ui.statusLabel.text.startswith("Installed model Lauf-1, mean validation DSC 0.")
    bundle = load_bundle(find_bundle("Lauf-1"))
    assert set(bundle.spec.organs) == {"brainstem", "parotid_l", "lens_l", "lens_r"}
    assert longest < MAX_SECONDS

    ui.installButton.click()
    ui.installButton.click()
    assert ui.statusLabel.text == "Cancelled."
