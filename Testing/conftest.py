"""Fixtures shared by all tests."""

import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

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


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set of six tiny cases in nnU-Net v2 raw layout; training on it takes seconds."""
    spec = spec_from_file_location("small_dataset", ROOT / "Testing" / "training" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_blobs(tmp_path_factory.mktemp("small dataset"))
    return folder
