"""The measurement of the shape constraint: what it compares is SOS-Net."""

import importlib.util

import pytest
from focusnet_training import validation
from focusnet_training.datasets import prepare, read_dataset
from focusnet_training.phantom import write_dataset
from focusnet_training.trainer import TrainingOptions


@pytest.fixture
def benchmark(root):
    spec = importlib.util.spec_from_file_location("shape_constraint", root / "Benchmarks" / "shape_constraint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_arm_is_measured_by_the_answers_of_its_sos_net(benchmark, tmp_path, monkeypatch):
    """Logits moved far up and down give more and fewer voxels."""
    monkeypatch.setattr(validation, "PEAK_THRESHOLD", 0.0)  # SOL-Net has hardly learned
    data = tmp_path / "phantoms"
    write_dataset(data, 2, 1, benchmark.PHANTOMS)
    base = benchmark.train_base(tmp_path / "base", data, TrainingOptions(device="cpu"), 1)
    start = benchmark.with_new_sos_nets(base, 1, tmp_path / "start.pt")
    trainer = benchmark.train_arm(benchmark.arm_configuration(1, "none", 1, 0, 0.5), start, tmp_path / "none", data)
    dataset = read_dataset(data)
    cases = prepare(dataset, dataset.validation, benchmark.ORGANS, benchmark.PHANTOMS.spacing_xyz, tmp_path / "cache")
    little, much = (benchmark.measure(trainer, cases, offset) for offset in (-50.0, 50.0))
    # Outside the ROIs the hardly trained S-Net answers in both.
    difference = [much[organ]["volume"][0] - little[organ]["volume"][0] for organ in benchmark.SMALL]
    assert sum(difference) > 1
