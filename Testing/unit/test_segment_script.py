import json
import os
import subprocess
import sys
import types

import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="needs the slicer-core wheel")


@pytest.fixture
def script(root):
    return root / "FocusNetSegmentation" / "Scripts" / "segment.py"


@pytest.fixture
def module(script, load_script):
    return load_script(script)


def test_one_node_per_organ_in_the_scene(script, ct_file, tiny_model, tmp_path):
    from FocusNetSegmentationLib import runtime

    out = tmp_path / "Szene für später.mrb"
    command = [sys.executable, script, "--", "--input", ct_file, "--output", out, "--model", tiny_model, "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["case"] == "pt_1"
    assert "Traceback" not in done.stderr

    scene = runtime.ensure()
    scene.Clear(0)
    assert scene.ReadFromMRB(str(out))
    present = [key for key, values in report["organs"].items() if values["volume_ml"] > 0]
    assert present
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == len(present)
    assert scene.GetFirstNodeByName("pt_1").GetImageData().GetDimensions() == (44, 40, 14)
    scene.Clear(0)


def test_label_file_and_one_node(module, ct_file, ct, tiny_model, tmp_path, capsys):
    from FocusNetSegmentationLib import runtime

    common = ["--input", str(ct_file), "--model", tiny_model, "--quiet"]
    assert module.main([*common, "--output", str(tmp_path / "labels.seg.nrrd")]) == 0
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels.seg.nrrd")))
    assert labels.shape == ct.array.shape
    assert labels.any()
    assert module.main([*common, "--output", str(tmp_path / "one.mrb"), "--one-node"]) == 0
    scene = runtime.ensure()
    assert scene.ReadFromMRB(str(tmp_path / "one.mrb"))
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    scene.Clear(0)
    capsys.readouterr()


def test_folder_of_cases_to_scenes(module, ct_file, tiny_model, tmp_path):
    (ct_file.parent / "bad.nrrd").write_text("no image")
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["--input", str(ct_file.parent), "--output", str(out), "--format", "mrb", "--model", tiny_model, "-q"]
    assert module.main(arguments) == 1
    assert [p.name for p in out.iterdir()] == ["pt_1.mrb"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "E_USAGE"),
        (["--input", "x.nrrd"], "E_USAGE"),
        (["--input", "missing.nrrd", "--output", "out.mrb"], "E_UNREADABLE"),
        (["--input", "missing.nrrd", "--output", "out.mrb", "--what"], "E_USAGE"),
    ],
)
def test_refusals_are_one_line_and_exit_2(script, tmp_path, arguments, code):
    done = subprocess.run(
        [sys.executable, str(script), "--", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{code}: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_refused_ct_leaves_no_scene(module, ct, tiny_model, tmp_path, capsys):
    from focusnet.io.image import write_image

    write_image(ct.with_array(ct.array * 0), tmp_path / "empty.nrrd")
    arguments = ["--input", str(tmp_path / "empty.nrrd"), "--output", str(tmp_path / "x.mrb"), "--model", tiny_model]
    assert module.main(arguments) == 2
    assert "E_" in capsys.readouterr().err
    assert not (tmp_path / "x.mrb").exists()


def test_no_exception_leaves(module, monkeypatch, capsys):
    import focusnet.cli

    monkeypatch.setattr(focusnet.cli, "run", lambda command: 1 / 0)
    assert module.main(["--input", "a", "--output", "b"]) == 1
    assert capsys.readouterr().err.startswith("E_INTERNAL: ZeroDivisionError")


@pytest.mark.parametrize("missing", [("torch", "typer"), ("torch",)])
def test_missing_packages_are_named_with_the_command_that_installs_them(script, ct_file, tmp_path, missing):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib import metadata\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "real = metadata.version\n"
        "def version(name):\n"
        f"    if name in {missing!r}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
    )
    command = [sys.executable, str(script), "--", "--input", str(ct_file), "--output", str(tmp_path / "x.mrb")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    lines = [line for line in ("torch>=2.4", "typer>=0.12") if line.split(">=")[0] in missing]
    quoted = " ".join(f'"{line}"' for line in lines)
    assert done.stderr == f"E_PACKAGE: Missing: {', '.join(lines)}; install by: python -m pip install {quoted}\n"


def test_arguments_after_the_dashes(module):
    assert module.own_arguments(["--", "--input", "a"]) == ["--input", "a"]
    assert module.own_arguments(["--input", "a"]) == ["--input", "a"]


def test_in_slicer_the_application_is_ended_with_the_code(script, tmp_path):
    """A stand-in for the application takes the exit code, also after an error."""
    (tmp_path / "slicer").mkdir()
    (tmp_path / "slicer" / "__init__.py").write_text("app = object()\n")
    (tmp_path / "slicer" / "util.py").write_text("def exit(code):\n    print('exit', code)\n")
    start = (
        "import runpy, sys; import slicer\n"
        "sys.argv = ['segment.py', '--', '--input', 'no', '--output', 'x.mrb']\n"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", start],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "exit 2\n")


def test_pool_of_processes_is_refused_inside_slicer(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "slicer", types.SimpleNamespace(app=object()))
    assert module.main(["--input", "a", "--output", "b", "--jobs=2"]) == 2
    assert capsys.readouterr().err.startswith("E_USAGE: --jobs")


def test_dicom_folder_to_structure_set_in_one_call(script, dicom_folder, tiny_model, tmp_path):
    from pydicom import dcmread

    out = tmp_path / "für den Plan.dcm"
    command = [sys.executable, script, "--", "--input", dicom_folder, "--output", out, "--model", tiny_model, "--quiet"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = dcmread(out)
    source = dcmread(next(dicom_folder.iterdir()))
    assert written.Modality == "RTSTRUCT"
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert written.StudyInstanceUID == source.StudyInstanceUID
    assert len(written.StructureSetROISequence) > 0
