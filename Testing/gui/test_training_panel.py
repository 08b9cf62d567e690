import re
from dataclasses import replace
from types import SimpleNamespace

import pytest


@pytest.fixture
def outside(training_module, monkeypatch, tmp_path):
    """What lies outside of the panel, to be changed by a test."""
    from FocusNetTrainingLib.presets import PresetChoice

    world = SimpleNamespace(missing=[], installed=[], asked=[], answer=True, open_path="", folder="", charts=[])
    world.settings = {"run": ""}
    world.presets = [
        PresetChoice("phantom22", "phantom22", "All organs.", ("snet", "sol", "sos"), "phantom22"),
        PresetChoice("openkbp", "openkbp", "Seven organs.", ("snet",), "openkbp7"),
    ]

    def install(missing, wheels):
        world.installed.append((list(missing), wheels))
        world.missing = []

    real = training_module.FocusNetTrainingLogic.trainServices
    monkeypatch.setattr(
        training_module.FocusNetTrainingLogic,
        "trainServices",
        lambda self: replace(
            real(self),
            presets=lambda: [] if world.missing else world.presets,
            missing_packages=lambda: world.missing,
            install_packages=install,
            show_chart=world.charts.append,
            confirm=lambda text: world.asked.append(text) or world.answer,
            ask_open=lambda title, kind: world.open_path,
            ask_folder=lambda title: world.folder,
            recall_run=lambda: world.settings["run"],
            remember_run=lambda path: world.settings.update(run=path),
        ),
    )
    return world


@pytest.fixture
def widget(training_module, outside):
    widget = training_module.FocusNetTrainingWidget()
    widget.setup()
    yield widget
    widget.cleanup()


def test_what_a_user_sees_first(widget):
    ui = widget.ui
    assert ui.tabWidget.tabText(0) == "Train"
    assert ui.presetComboBox.currentText == "phantom22"
    assert ui.presetInfoLabel.text == "All organs."
    stages = [ui.lastStageComboBox.itemText(n) for n in range(ui.lastStageComboBox.count)]
    assert stages == ["All", "up to S-Net", "up to SOL-Net", "up to SOS-Net"]
    assert ui.startButton.text == "Start"
    for button in (ui.startButton, ui.pauseButton, ui.stopButton, ui.checkButton, ui.installButton):
        assert not button.enabled
    assert not ui.curvesCollapsibleButton.isVisibleTo(widget.parent)
    assert "Research use only" in ui.disclaimerLabel.text


def test_module_introduces_itself(training_module):
    parent = SimpleNamespace()
    training_module.FocusNetTraining(parent)
    assert parent.title == "FocusNet Training"
    assert parent.categories == ["Segmentation"]
    assert "FocusNetSegmentation" in parent.dependencies
    assert "Research use only" in parent.helpText
    assert "Medical Image Analysis" in parent.acknowledgementText


def test_self_test_of_the_module_passes(training_module, scene):
    training_module.FocusNetTrainingTest().runTest()


def test_code_and_ui_file_name_the_same_widgets(root, training_module):
    house = root / "FocusNetTraining"
    text = (house / "Resources/UI/FocusNetTraining.ui").read_text()
    names = set(re.findall(r'<widget class="\w+" name="(\w+)"', text))
    files = [house / "FocusNetTraining.py", *(house / f"FocusNetTrainingLib/{n}_panel.py" for n in ("train", "data"))]
    code = "".join(path.read_text() for path in files)
    assert set(re.findall(r"\bui\.(\w+)", code)) <= names
    bound = set(re.findall(r'"SlicerParameterName"[^>]*>\s*<string[^>]*>(\w+)<', text))
    assert bound == {"device", "hours"}
    for name in bound:
        assert hasattr(training_module.FocusNetTrainingParameterNode, name)
