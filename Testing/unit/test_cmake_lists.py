"""A file that CMake does not list is silently missing from the extension."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOUSES = ("FocusNetSegmentation", "FocusNetTraining")
NOT_SHIPPED = {"CMakeLists.txt"}
CACHES = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}

# What stands for Slicer's CMake package: copies the listed files as Slicer does, and notes how it was called.
SLICER_CONFIG = """
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/nothing.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/cpack.cmake)
"""
SLICER_USE = """
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR lib/qt-scripted-modules)
set(BUILD_TESTING ON)
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown arguments ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MY_SCRIPTS} ${MY_RESOURCES})
    get_filename_component(folder ${file} DIRECTORY)
    file(COPY ${CMAKE_CURRENT_SOURCE_DIR}/${file}
         DESTINATION ${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${folder})
  endforeach()
  if(MY_WITH_GENERIC_TESTS AND NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_NAME}.py)
    message(FATAL_ERROR "Generic tests need ${MY_NAME}.py")
  endif()
endmacro()
function(slicer_add_python_unittest)
endfunction()
"""
SLICER_CPACK = """
foreach(name HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS RECOMMENDS)
  if("${EXTENSION_${name}}" STREQUAL "")
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
message(STATUS "extension ${PROJECT_NAME}: ${EXTENSION_DEPENDS}")
"""


def cmake_list(root: Path, house: str, name: str) -> list[str]:
    text = (root / house / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({name}\s+(.*?)\)", text, re.DOTALL)
    assert found is not None
    return found.group(1).replace("${MODULE_NAME}", house).split()


def shipped(root: Path, house: str) -> set[str]:
    paths = (p.relative_to(root / house) for p in (root / house).rglob("*") if p.is_file())
    return {p.as_posix() for p in paths if p.name not in NOT_SHIPPED and not CACHES & set(p.parts)}


@pytest.mark.parametrize("house", HOUSES)
def test_every_file_is_listed_once_and_every_listed_file_is_there(root, house):
    scripts, resources = (cmake_list(root, house, f"MODULE_PYTHON_{kind}") for kind in ("SCRIPTS", "RESOURCES"))
    listed = scripts + resources
    assert len(set(listed)) == len(listed)
    on_disk = shipped(root, house)
    assert set(listed) - on_disk == set(), "listed, not on disk"
    assert on_disk - set(listed) == set(), "on disk, not listed in CMakeLists.txt"
    assert all(name.endswith(".py") for name in scripts)
    assert not any(name.endswith(".py") for name in resources)


@pytest.mark.parametrize("house", HOUSES)
def test_only_the_module_lies_at_the_top(root, house):
    """Slicer tries to load every top-level .py as a module; paths outside would be installed elsewhere."""
    listed = cmake_list(root, house, "MODULE_PYTHON_SCRIPTS") + cmake_list(root, house, "MODULE_PYTHON_RESOURCES")
    assert {name for name in listed if "/" not in name} <= {f"{house}.py"}
    assert not [name for name in listed if name.startswith(("/", "..")) or "Testing" in name]


def test_no_two_files_of_the_modules_meet_in_the_common_folder(root):
    lists = [
        name
        for house in HOUSES
        for kind in ("SCRIPTS", "RESOURCES")
        for name in cmake_list(root, house, f"MODULE_PYTHON_{kind}")
    ]
    assert len(set(lists)) == len(lists)


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory) -> Path:
    """The folder that Slicer would load the modules from."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    package = tmp_path_factory.mktemp("Slicer")
    for name, text in (
        ("SlicerConfig.cmake", SLICER_CONFIG),
        ("use.cmake", SLICER_USE),
        ("cpack.cmake", SLICER_CPACK),
        ("nothing.cmake", ""),
    ):
        (package / name).write_text(text)
    build = tmp_path_factory.mktemp("build")
    command = [cmake, "-S", str(root), "-B", str(build), f"-DSlicer_DIR={package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "extension FocusNet: PyTorch" in done.stdout
    return build / "lib" / "qt-scripted-modules"


def run(installed: Path, code: str) -> str:
    """Run Python that sees only the installed tree of our code, from elsewhere."""
    start = f"import sys; sys.path[:0] = [{str(installed)!r}]\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", start + code], capture_output=True, text=True, check=False, cwd=installed.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_library_works_alone(installed):
    out = run(
        installed,
        "import json, focusnet.cli, focusnet.evaluation, focusnet.segment, focusnet_training\n"
        "from focusnet import model_store\n"
        "from FocusNetSegmentationLib import packages, runtime\n"
        "shipped = [b.name for b in model_store.list_bundles() if 'qt-scripted-modules' in str(b.folder)]\n"
        "print(json.dumps([focusnet.__file__, str(runtime.TERMINOLOGY_FILE.is_file()), shipped,\n"
        "                  packages._requirements()]))",
    )
    file, terminology, models, requirements = json.loads(out)
    assert Path(file).is_relative_to(installed)
    assert terminology == "True"
    assert requirements
    assert models == sorted(p.parent.name for p in (installed / "focusnet" / "Models").glob("*/bundle.json"))


def test_installed_bridge_and_script_work(installed):
    pytest.importorskip("slicer", reason="needs the slicer-core wheel")
    run(
        installed,
        "import numpy as np\n"
        "from FocusNetSegmentationLib import runtime\n"
        "scene = runtime.ensure()\n"
        "from FocusNetSegmentationLib import job, logic, mrml, storage\n"
        "from focusnet.geometry import Geometry, LabelMap, Volume\n"
        "g = Geometry.from_parts((4, 5, 6))\n"
        "ct = mrml.volume_to_node(Volume(np.zeros((4, 5, 6), np.int16), g), 'CT')\n"
        "labels = LabelMap(np.ones((4, 5, 6), np.uint8), g, {1: 'brainstem'})\n"
        "assert mrml.segmentations_from_labelmap(labels, ct).nodes['brainstem'].GetName() == 'Brainstem'\n",
    )
    script = installed / "Scripts" / "segment.py"
    done = subprocess.run(
        [sys.executable, str(script), "--", "--input", "missing", "--output", "x.mrb"],
        capture_output=True, text=True, check=False, cwd=installed.parent,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("E_UNREADABLE")


def test_installed_logics_of_both_modules_run(installed):
    pytest.importorskip("slicer", reason="needs the slicer-core wheel")
    out = run(
        installed,
        "import time, types\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from focusnet.geometry import Geometry, LabelMap, Volume\n"
        "from focusnet.inference import OrganResult\n"
        "from FocusNetSegmentationLib import runtime\n"
        "runtime.ensure()\n"
        "from FocusNetSegmentationLib import mrml\n"
        "from FocusNetSegmentationLib.logic import SegmentationLogic\n"
        "hu = np.full((20, 30, 30), -1000, np.int16)\n"
        "hu[2:18, 3:27, 3:27] = 40\n"
        "ct = mrml.volume_to_node(Volume(hu, Geometry.from_parts(hu.shape, (3, 3, 3))), 'CT')\n"
        "def predict(volume, organs, progress, cancel):\n"
        "    array = np.zeros(volume.array.shape, np.uint8)\n"
        "    array[5:9, 8:14, 8:14] = 1\n"
        "    results = {'brainstem': OrganResult(1.0, 0.9, 0.9)}\n"
        "    labels = LabelMap(array, volume.geometry, {1: 'brainstem'})\n"
        "    return types.SimpleNamespace(labelmap=labels, organs=results, notes=(), settings={})\n"
        "logic = SegmentationLogic(lambda options: types.SimpleNamespace(predict=predict))\n"
        "sides = tuple(logic.segment(ct).result.unique_nodes for _ in range(2))\n"
        "from FocusNetTrainingLib.evaluate_job import EvaluationJob\n"
        "from FocusNetTrainingLib.evaluate_request import EvaluationRequest\n"
        "job = EvaluationJob(sides, EvaluationRequest())\n"
        "while job.poll():\n"
        "    time.sleep(0.05)\n"
        "assert job.error is None, job.error\n"
        "from FocusNetTrainingLib.training_run import TrainingRun\n"
        "run = TrainingRun(Path('no run here'))\n"
        "print(job.outcome.rows[0].organ, job.outcome.rows[0].dsc)\n",
    )
    assert out.splitlines()[-1] == "brainstem 1.0"
    for script in ("evaluate.py", "segment.py", "train.py"):
        done = subprocess.run(
            [sys.executable, str(installed / "Scripts" / script), "--", "--help"],
            capture_output=True, text=True, check=False, cwd=installed.parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
