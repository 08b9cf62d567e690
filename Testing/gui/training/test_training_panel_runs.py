import json

import pytest
from focusnet.errors import FocusNetError
from FocusNetTrainingLib.run_folder import RunFolder

ROWS = [
    {"stage": "snet", "step": 50, "score": 0.4, "loss_dice": 0.9, "dsc_brainstem": 0.85, "dsc_lens_l": 0.3},
    {"stage": "snet", "step": 100, "score": 0.6, "loss_dice": 0.5, "dsc_brainstem": 0.8, "dsc_lens_l": 0.4},
    {"stage": "sol", "step": 20, "score": -0.02, "loss_heatmap": 0.2, "error_mm_lens_l": 2.25},
    {"stage": "aae", "step": 20, "score": 0.99, "loss_shape": 0.2, "dsc_lens_l": 0.99},
]


def table(widget):
    return [[widget.item(r, c).text() for c in range(widget.columnCount)] for r in range(widget.rowCount)]


def test_from_start_to_finish(ready, workers, outside, scene):
    ui = ready.ui
    ui.startButton.click()
    (worker,) = workers.all
    assert not ui.startButton.enabled
    assert ui.pauseButton.enabled
    assert ui.stopButton.enabled
    assert not ui.presetComboBox.enabled
    assert ui.statusLabel.text.startswith("Starting")
    worker.train(ROWS)
    ready.panel.poll()
    assert ui.statusLabel.text.startswith(
        "Training. adversarial autoencoder: step 120 of 400 (30%), about 1 h 7 min left"
    )
    assert ui.progressBar.value == 30
    assert table(ui.organsTable) == [["Brainstem", "0.800", "0.850", ""], ["Left eye lens", "0.400", "0.400", "2.2"]]
    worker.end(kind="outcome", state="finished")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Finished")
    assert not ui.startButton.enabled
    assert ui.installButton.enabled
    assert outside.settings["run"] == ui.runPathEdit.currentPath
    ui.lastStageComboBox.setCurrentIndex(1)
    assert ui.startButton.enabled  # other stages than the finished ones may be asked for


def test_curves_are_plot_nodes(ready, workers, outside, scene):
    import slicer

    ready.ui.startButton.click()
    workers.all[0].train(ROWS[:1])
    ready.panel.poll()
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode")  # nobody has asked for them
    ready.ui.showDscButton.click()
    workers.all[0].train(ROWS)
    ready.panel.poll()
    ready.ui.showLossButton.click()
    dsc, loss = outside.charts
    assert dsc.GetTitle() == "Validation DSC, my run"
    names = [dsc.GetNthPlotSeriesNode(n).GetName() for n in range(dsc.GetNumberOfPlotSeriesNodes())]
    assert names == ["mean (S-Net)", "Brainstem (S-Net)", "Left eye lens (S-Net)"]
    series = dsc.GetNthPlotSeriesNode(1)
    table = series.GetTableNode().GetTable()
    assert [table.GetColumnByName("step").GetValue(n) for n in range(2)] == [50, 100]
    assert [table.GetColumnByName(series.GetYColumnName()).GetValue(n) for n in range(2)] == [0.85, 0.8]
    assert loss.GetNumberOfPlotSeriesNodes() == 3
    tables = [node.GetTable() for node in slicer.util.getNodesByClass("vtkMRMLTableNode")]
    assert len(tables) == 3
    assert tables[1].GetColumnByName("step").GetValue(0) == 120  # S-Net's 100 steps come before


@pytest.fixture
def runs(tmp_path):
    """Two finished runs with as many rows."""
    for name, dsc in (("first", 0.8), ("second", 0.125)):
        rows = [{"stage": "snet", "step": n, "score": dsc, "loss_dice": 1.0, "dsc_brainstem": dsc} for n in (5, 10)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "last.pt").touch()
        (tmp_path / name / "status.json").write_text('{"state": "finished"}')
    return tmp_path / "first", tmp_path / "second"


def test_charts_belong_to_the_shown_run(ready, outside, runs):
    def shown():
        chart = outside.charts[-1]
        series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
        columns = [s.GetTableNode().GetTable().GetColumnByName("dsc_brainstem") for s in series]
        return chart.GetTitle(), [column.GetValue(1) for column in columns]

    for run, value in ((runs[0], 0.8), (runs[1], 0.125), (runs[0], 0.8)):
        ready.ui.runPathEdit.currentPath = str(run)
        ready.panel.poll()
        ready.ui.showDscButton.click()
        assert shown() == (f"Validation DSC, {run.name}", [value] * 2)


@pytest.fixture
def closed_folder(tmp_path, monkeypatch):
    """A folder of a colleague, which this user may not read."""
    folder, refresh = tmp_path / "colleague", RunFolder.refresh

    def refused(self):
        if self.path == folder:
            raise PermissionError(13, "Permission denied")
        return refresh(self)

    monkeypatch.setattr(RunFolder, "refresh", refused)
    return folder


def test_a_folder_that_cannot_be_read_is_told_and_nothing_starts(ready, workers, outside, runs, closed_folder):
    ui = ready.ui
    ui.runPathEdit.currentPath = str(runs[0])
    ready.panel.poll()
    ui.runPathEdit.currentPath = str(closed_folder)
    for _ in range(2):
        assert ui.statusLabel.text.startswith("E_RUN: The run folder")
        assert "Permission denied" in ui.statusLabel.text
        assert not ui.startButton.enabled
        assert not ui.installButton.enabled
        assert not ui.curvesCollapsibleButton.isVisibleTo(ready.parent)
        ready.panel.poll()
    ui.startButton.click()
    assert workers.all == []
    assert outside.settings["run"] == ""
    ui.runPathEdit.currentPath = str(runs[0])
    assert ui.statusLabel.text.startswith("Finished")


def test_a_run_that_is_no_longer_readable_is_let_go(ready, workers, outside, monkeypatch):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:1])

    def gone(self):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "refresh", gone)
        ui.pauseButton.click()
        assert "Input/output error" in ui.statusLabel.text
        ready.panel.poll()
        assert ui.statusLabel.text.startswith("E_RUN")
        assert not ui.stopButton.enabled
    ready.enter()
    assert ui.statusLabel.text.startswith("Training")
    assert outside.settings["run"] == ui.runPathEdit.currentPath


def test_a_remembered_folder_that_cannot_be_read_does_not_stop_the_module(
    training_module, outside, workers, closed_folder
):
    outside.settings["run"] = str(closed_folder)
    widget = training_module.FocusNetTrainingWidget()
    widget.setup()
    assert widget.ui.statusLabel.text.startswith("E_RUN")
    assert widget.evaluatePanel._parameters is not None
    widget.cleanup()


def test_pause_and_resume(ready, workers):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ui.pauseButton.click()
    assert ui.statusLabel.text.startswith("Pausing")
    assert not ui.pauseButton.enabled
    workers.all[0].end(kind="outcome", state="paused")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Paused at step 120 of 400")
    assert ui.startButton.text == "Resume"
    assert not ui.presetComboBox.enabled
    ui.hoursSpinBox.value = 1.0
    ui.startButton.click()
    assert len(workers.all) == 2
    request = RunFolder(workers.all[1].folder).read_request()
    assert (request.preset, request.hours) == ("phantom22", 1.0)


def test_stop_asks_and_ends_the_whole_tree(ready, workers, outside):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ready.panel.poll()
    outside.answer = False
    ui.stopButton.click()
    assert workers.ended == []
    outside.answer = True
    ui.stopButton.click()
    assert workers.ended == [workers.all[0].pid]
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Ended at step 120 of 400 (30%); the last checkpoint is kept")
    assert ui.startButton.text == "Resume"
    assert ui.startButton.enabled


def test_a_killed_child_and_a_refusal_show_their_cause(ready, workers):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].end(2, kind="error", code="E_DATASET", message="Label values [9] are not defined.")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("E_DATASET: Label values [9] are not defined.")
    assert "E_DATASET" in ui.logTextEdit.toPlainText()
    ui.startButton.click()
    workers.all[1].end(-9)
    ready.panel.poll()
    assert "for lack of memory" in ui.statusLabel.text
    assert ui.startButton.enabled


def test_closing_the_scene_leaves_the_run_alone(ready, workers, outside, scene):
    import slicer

    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:1])
    ready.panel.poll()
    ui.showDscButton.click()
    assert slicer.util.getNodesByClass("vtkMRMLTableNode")
    scene.Clear(0)
    assert workers.ended == []
    ready.panel.poll()
    for kind in ("vtkMRMLTableNode", "vtkMRMLPlotSeriesNode", "vtkMRMLPlotChartNode"):
        assert not slicer.util.getNodesByClass(kind)  # the new scene is the user's
    assert ui.runPathEdit.currentPath == str(workers.all[0].folder)  # by the setting of this computer
    workers.all[0].train(ROWS[:2])
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Training")
    ui.showDscButton.click()
    (table_node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert table_node.GetTable().GetNumberOfRows() == 2


def test_a_later_session_finds_the_run(training_module, ready, workers, scene):
    ready.ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ready.cleanup()
    assert workers.ended == []
    scene.Clear(1)
    later = training_module.FocusNetTrainingWidget()
    later.setup()
    assert later.ui.runPathEdit.currentPath == str(workers.all[0].folder)
    assert later.ui.dataPathEdit.currentPath == ready.ui.dataPathEdit.currentPath
    assert later.ui.statusLabel.text.startswith("Training")
    assert later.ui.stopButton.enabled
    assert later.ui.organsTable.rowCount == 2
    later.cleanup()


def test_install_asks_before_it_replaces(ready, workers, outside):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS)
    workers.all[0].end(kind="outcome", state="finished")
    ready.panel.poll()
    ui.installButton.click()
    assert outside.tasks[0].arguments == {"run": ui.runPathEdit.currentPath, "overwrite": False}
    assert ui.statusLabel.text.startswith("Reading: 25%")
    outside.tasks[0].error = FocusNetError("E_OUTPUT_EXISTS", "there")
    ready.panel.poll()
    assert "Replace it" in outside.asked[-1]
    assert outside.tasks[1].arguments["overwrite"]
    outside.tasks[1].result = {"name": "mine", "mean_dsc": 0.8125}
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Installed model mine, mean validation DSC 0.812.")
