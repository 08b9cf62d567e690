"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real data; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("FOCUSNET_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("shared data folder is absent")
    return folder


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Gives the module of a file that is in no package."""
    return _load


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set of six tiny cases in nnU-Net v2 raw layout; training on it takes seconds."""
    blobs = _load(ROOT / "Testing" / "training" / "conftest.py")
    folder: Path = blobs.write_blobs(tmp_path_factory.mktemp("small dataset"))
    return folder
