"""Small models for the tests of bundles, prediction and the command line."""

from pathlib import Path

import pytest
import torch
from focusnet.bundle import Architecture, Bundle, ModelSpec, save_bundle
from focusnet.networks import builders

SMALL = ("lens_l", "optic_chiasm")
ARGUMENTS = {
    "num_classes": 6,
    "num_small": len(SMALL),
    "widths": (4, 6, 8),
    "growth": 4,
    "dilations": (1, 2),
    "roi_shape_zyx": (4, 16, 16),
}
SPEC = ModelSpec(
    name="tiny",
    description="Random weights for tests.",
    architecture=Architecture(name="focusnetv2", arguments=ARGUMENTS),
    organs=("brainstem", "parotid_l", "parotid_r", *SMALL),
    small_organs=SMALL,
    spacing_mm_xyz=(4.0, 4.0, 4.0),
    chunk_shape_zyx=(16, 48, 48),
    overlap_zyx=(4, 8, 8),
    roi_shape_zyx=(4, 16, 16),
    peak_threshold=0.01,
    training_data="None: random weights.",
)


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """Description of a model with two small organs."""
    return SPEC


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of that model with random weights; don't change its folder."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = builders.build("focusnetv2", **ARGUMENTS)
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    return save_bundle(folder, SPEC, network, "# tiny\n\nRandom weights.")
