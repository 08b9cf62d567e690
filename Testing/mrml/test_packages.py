import subprocess
import sys
import types
from importlib import metadata

import pytest
from focusnet.errors import FocusNetError
from FocusNetSegmentationLib import packages


@pytest.fixture
def slicer(monkeypatch):
    """Stand-in for the application; ``calls`` lists what was asked of it."""
    module = types.ModuleType("slicer")
    module.util = types.ModuleType("slicer.util")
    module.calls = []
    module.util.pip_install = lambda what: module.calls.append(("pip", what))
    monkeypatch.setitem(sys.modules, "slicer", module)
    monkeypatch.setitem(sys.modules, "slicer.util", module.util)
    monkeypatch.setattr(packages, "missing_of", lambda requirements: [])
    return module


@pytest.fixture
def torch_extension(slicer, monkeypatch):
    """Stand-in for the PyTorch extension."""
    extension = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        installed = False
        result = object()

        def torchInstalled(self):  # noqa: N802
            return self.installed

        def installTorch(self, **wanted):  # noqa: N802
            slicer.calls.append(("torch", wanted))
            return self.result

    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    return PyTorchUtilsLogic


def versions(**installed):
    def version_of(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    return version_of


def test_missing_and_outdated_packages_are_found():
    all_there = {"torch": "2.13.0+cpu", "pydantic": "2.14.3", "rich": "15", "safetensors": "0.10.1", "typer": "0.29.2"}
    assert packages.missing_packages(versions(**all_there)) == []
    assert packages.missing_packages(versions(**{**all_there, "torch": "2.3.1"})) == ["torch>=2.4"]
    assert packages.missing_packages(versions(**{**all_there, "pydantic": "1.10.21"})) == ["pydantic>=2.7"]
    assert packages.missing_packages(versions()) == [
        "torch>=2.4",
        "pydantic>=2.7",
        "rich>=13",
        "safetensors>=0.4",
        "typer>=0.12",
    ]


def test_requirements_leave_slicers_own_packages_alone():
    names = {line.split(">=")[0].lower() for line in packages._requirements()}
    assert names.isdisjoint({"numpy", "scipy", "simpleitk", "pydicom", "vtk", "torch"})


def test_new_slicer_installs_through_its_packaging(slicer, torch_extension, monkeypatch):
    slicer.packaging = types.SimpleNamespace(
        load_requirements=lambda path: path.read_text().splitlines()[1:],
        pip_ensure=lambda requirements, **options: slicer.calls.append(("ensure", requirements, options)),
    )
    packages.install(["torch>=2.4", "pydantic>=2.7", "typer>=0.12"])
    assert slicer.calls == [
        ("torch", {"torchVersionRequirement": ">=2.4"}),
        ("ensure", ["pydantic>=2.7", "typer>=0.12"], {"prompt_install": False, "requester": "FocusNet"}),
    ]


def test_a_package_that_no_file_lists_comes_through_pip(slicer):
    slicer.packaging = types.SimpleNamespace(load_requirements=lambda path: ["pydantic>=2.7"])
    packages.install(["jinja2>=3.1"])
    assert slicer.calls == [("pip", "jinja2>=3.1")]


def test_slicer_5_10_installs_through_pip(slicer):
    packages.install(["pydantic>=2.7", "typer>=0.12"])
    assert slicer.calls == [("pip", "pydantic>=2.7 typer>=0.12")]


def test_without_internet_all_comes_from_a_folder(slicer, tmp_path):
    folder = tmp_path / "Wheels für Slicer"
    packages.install(["torch>=2.4", "pydantic>=2.7"], folder)
    assert slicer.calls == [("pip", ["--no-index", "--find-links", str(folder), "torch>=2.4", "pydantic>=2.7"])]


def test_missing_torch_extension_is_named(slicer, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(FocusNetError, match="Extensions Manager"):
        packages.install(["torch>=2.4"])


def test_old_torch_is_not_replaced_behind_the_users_back(slicer, torch_extension):
    torch_extension.installed = True
    with pytest.raises(FocusNetError, match="older"):
        packages.install(["torch>=2.4"])
    assert slicer.calls == []


def test_failed_installations_say_why(slicer, torch_extension):
    torch_extension.result = None
    with pytest.raises(FocusNetError, match="E_PACKAGE"):
        packages.install(["torch>=2.4"])

    def fail(what):
        raise subprocess.CalledProcessError(1, "pip")

    slicer.util.pip_install = fail
    with pytest.raises(FocusNetError, match=r"pydantic>=2.7 failed: .*status 1"):
        packages.install(["pydantic>=2.7"])


@pytest.mark.parametrize(
    "error", [OSError('[WinError 126] Error loading "c10.dll"'), ImportError("DLL load failed while importing _C")]
)
def test_a_torch_that_cannot_be_loaded_is_told(slicer, torch_extension, error):
    def fail(self, **wanted):
        raise error

    torch_extension.installTorch = fail
    with pytest.raises(FocusNetError, match=r"E_PACKAGE.*(c10|DLL).*restart 3D Slicer.*Visual C\+\+"):
        packages.install(["torch>=2.4"])


@pytest.mark.parametrize(
    ("system", "machine", "refused"),
    [("darwin", "x86_64", True), ("darwin", "arm64", False), ("linux", "x86_64", False)],
)
def test_torch_is_not_offered_on_a_mac_without_a_build(slicer, torch_extension, monkeypatch, system, machine, refused):
    monkeypatch.setattr(packages.sys, "platform", system)
    monkeypatch.setattr(packages.platform, "machine", lambda: machine)
    packages.check_installable(["jinja2>=3.1"])
    for act in (packages.check_installable, packages.install):
        if refused:
            with pytest.raises(FocusNetError, match=r"E_PACKAGE.*command line 'focusnet'"):
                act(["torch>=2.4"])
        else:
            act(["torch>=2.4"])


def test_installation_without_effect_asks_for_a_restart(slicer, monkeypatch):
    monkeypatch.setattr(packages, "missing_of", lambda requirements: ["typer>=0.12"])
    with pytest.raises(FocusNetError, match="restart"):
        packages.install(["typer>=0.12"])
