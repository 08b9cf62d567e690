import itertools
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focusnet import inference
from focusnet.bundle import Architecture, Bundle, BundleSpec, Weights
from focusnet.computation import Computation
from focusnet.errors import Cancelled, FocusNetError
from focusnet.geometry import Geometry, Volume
from focusnet.inference import STAGES, Predictor
from focusnet.organs import CATALOGUE
from torch import Tensor, nn

ORGANS = ("mandible", "parotid_l", "parotid_r", "optic_chiasm")
LEVELS_HU = (900.0, 300.0, 600.0, 700.0)
WINDOW = (-200.0, 1000.0)


class Output(NamedTuple):
    logits: Tensor
    features: Tensor
    heatmaps: Tensor


class Paint(nn.Module):
    """Knows each organ by its HU; answers as FocusNetv2 does, with the chiasm through SOL and SOS."""

    def __init__(self, largest: float = float("inf")) -> None:
        super().__init__()
        low, high = WINDOW
        levels = torch.tensor([(hu - low) * 2 / (high - low) - 1 for hu in LEVELS_HU])
        self.register_buffer("levels", levels[None, :, None, None, None])
        self.largest = largest
        self.seen: list[tuple[int, ...]] = []
        self.hush = False

    def snet(self, ct: Tensor) -> SimpleNamespace:
        self.seen.append(tuple(ct.shape[2:]))
        if ct[0, 0].numel() > self.largest:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate a lot.")
        near = (ct - self.levels).abs() < 0.08  # 48 HU
        share = F.avg_pool3d(near.float(), 3, 1, 1)  # thin rims of another organ's HU do not count
        logits = torch.cat([torch.zeros_like(ct), 30 * share - 9], 1)
        logits[:, 4] -= 30 * float(self.hush)  # S-Net itself misses the chiasm
        return SimpleNamespace(logits=logits, features=share)

    def forward(self, ct: Tensor) -> Output:
        out = self.snet(ct)
        heat = F.avg_pool3d(out.features[:, 3:], 5, 1, 2)
        return Output(out.logits, out.features, heat)

    def refine(self, organ: int, features: Tensor, ct: Tensor) -> Tensor:
        assert features.shape[2:] == ct.shape[2:] == (6, 16, 16)
        return 30 * features[:, 3:] - 9


def bundle(network: nn.Module, **values) -> Bundle:
    described = {
        "name": "paint",
        "description": "",
        "architecture": Architecture(name="focusnetv2", arguments={"num_classes": 5, "num_small": 1}),
        "organs": ORGANS,
        "small_organs": ("optic_chiasm",),
        "spacing_mm_xyz": (3.0, 3.0, 3.0),
        "window_hu": WINDOW,
        "chunk_shape_zyx": (16, 48, 56),
        "overlap_zyx": (4, 8, 8),
        "roi_shape_zyx": (6, 16, 16),
        "peak_threshold": 0.1,
        "training_data": "none",
        "created": datetime.now(UTC),
        "software": {},
        "weights": Weights(sha256="0" * 64, bytes=1, precision="fp32"),
    }
    return Bundle(Path("nowhere"), BundleSpec(**(described | values)), network)


CENTRES_MM = {
    "mandible": (0.0, -30.0, -5.0),
    "parotid_l": (36.0, 8.0, 4.0),
    "parotid_r": (-36.0, 6.0, 2.0),
    "optic_chiasm": (4.0, 10.0, 32.0),
}
RADII_MM = {"mandible": 15.0, "parotid_l": 14.0, "parotid_r": 14.0, "optic_chiasm": 9.0}


def patient(geometry: Geometry, without: str = "") -> Volume:
    """Soft tissue in air with one ball per organ, the same in the world on any grid."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape_zyx], indexing="ij"), -1)
    world = geometry.index_to_world(index)
    x, y, _ = np.moveaxis(world, -1, 0)
    hu = np.where((x / 68) ** 2 + (y / 60) ** 2 < 1, 40, -1000)
    for key, level in zip(ORGANS, LEVELS_HU, strict=True):
        if key != without:
            hu[np.linalg.norm(world - CENTRES_MM[key], axis=-1) < RADII_MM[key]] = level
    return Volume(hu.astype(np.int16), geometry)


def axial(shape=(24, 66, 72), spacing=(2.1, 2.3, 4.0)) -> Geometry:
    half = [s * (n - 1) / 2 for s, n in zip(spacing, shape[::-1], strict=True)]
    return Geometry.from_parts(shape, spacing, [-h for h in half])


def predictor(network: nn.Module | None = None, **values) -> Predictor:
    return Predictor(bundle(network or Paint(), **values), "cpu", "fp32")


def centroid_mm(labelmap, key: str) -> np.ndarray:
    return labelmap.geometry.index_to_world(np.argwhere(labelmap.mask(key)).mean(0))


def in_other_order(volume: Volume, permutation: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same patient, array axes permuted and reversed."""
    array = volume.array.transpose(permutation)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(permutation, flips, strict=True)):
        matrix[2 - old, 2 - new] = -1 if flip else 1
        matrix[2 - old, 3] = array.shape[new] - 1 if flip else 0
    array = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, volume.geometry.affine @ matrix))


@pytest.fixture(scope="module")
def reference():
    return predictor().predict(patient(axial()))


def test_every_organ_is_where_it_is_with_its_volume(reference):
    for key in ORGANS:
        assert np.linalg.norm(centroid_mm(reference.labelmap, key) - CENTRES_MM[key]) < 1.5
        least_ml, most_ml = (4 / 3 * np.pi * (RADII_MM[key] + mm) ** 3 / 1000 for mm in (-2, 1))
        assert least_ml < reference.organs[key].volume_ml < most_ml
        counted = reference.labelmap.mask(key).sum() * reference.labelmap.geometry.voxel_volume_ml
        assert reference.organs[key].volume_ml == pytest.approx(counted)
        assert 0.5 < reference.organs[key].confidence <= 1
    assert centroid_mm(reference.labelmap, "parotid_l")[0] > 30  # the patient's left is +x
    assert reference.labelmap.geometry.is_close(axial())


def test_certainty_is_the_probability_of_the_label(reference):
    certainty = reference.certainty.array
    assert certainty.dtype == np.uint8
    assert (certainty[reference.labelmap.array == 0] >= 85).all()  # at least a third, where two organs meet it
    mask = reference.labelmap.mask("parotid_l")
    parotid = reference.organs["parotid_l"]
    assert parotid.certainty == parotid.confidence == pytest.approx(certainty[mask].mean() / 255, abs=1e-9)


def test_a_calibrated_organ_has_the_dsc_to_expect_as_its_confidence(reference):
    organs = predictor(expected_dsc={"parotid_l": (0.1, 0.5)}).predict(patient(axial())).organs
    assert organs["parotid_l"].confidence == pytest.approx(0.1 + 0.5 * reference.organs["parotid_l"].certainty)
    assert organs["parotid_r"].confidence == reference.organs["parotid_r"].certainty


ORDERS = [
    (permutation, flips)
    for permutation in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize(("permutation", "flips"), ORDERS)
def test_any_axis_order_gives_the_same_labels_in_the_world(reference, permutation, flips):
    turned = in_other_order(patient(axial()), permutation, flips)
    prediction = predictor().predict(turned)
    expected = in_other_order(Volume(reference.labelmap.array, reference.labelmap.geometry), permutation, flips)
    assert expected.geometry.is_close(prediction.labelmap.geometry)
    assert (prediction.labelmap.array != expected.array).mean() < 1e-5
    for key in ORGANS:
        shift = centroid_mm(prediction.labelmap, key) - centroid_mm(reference.labelmap, key)
        assert np.linalg.norm(shift) < 0.05


@pytest.mark.parametrize("angle_deg", [12.0, 45.0])
def test_an_oblique_grid_gives_the_same_organs_in_the_world(angle_deg):
    angle = np.deg2rad(angle_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
    direction = rotation @ tilt
    shape, spacing = (30, 80, 80), np.array([2.2, 2.0, 4.0])
    origin = -direction @ (spacing * (np.array(shape[::-1]) - 1) / 2)
    prediction = predictor().predict(patient(Geometry.from_parts(shape, spacing, origin, direction)))
    for key in ORGANS:
        assert np.linalg.norm(centroid_mm(prediction.labelmap, key) - CENTRES_MM[key]) < 1.5


def test_the_same_labels_twice_bit_by_bit(tiny_bundle):
    volume = patient(axial())
    first, second = (Predictor(tiny_bundle, "cpu").predict(volume) for _ in range(2))
    assert first.labelmap.array.any()
    np.testing.assert_array_equal(first.labelmap.array, second.labelmap.array)
    np.testing.assert_array_equal(first.certainty.array, second.certainty.array)
    assert first.settings == second.settings
    assert first.settings["weights_sha256"] == tiny_bundle.spec.weights.sha256


def test_organs_asked_for_do_not_depend_on_the_others(reference):
    prediction = predictor().predict(patient(axial()), organs=["parotid_r", "mandible"])
    assert list(prediction.organs) == ["mandible", "parotid_r"]
    for key in ("parotid_r", "mandible"):
        np.testing.assert_array_equal(prediction.labelmap.mask(key), reference.labelmap.mask(key))
    assert set(np.unique(prediction.labelmap.array)) == {0, 1, 3}


def test_sos_net_finds_what_s_net_misses():
    network = Paint()
    network.hush = True
    prediction = predictor(network).predict(patient(axial()))
    chiasm = prediction.organs["optic_chiasm"]
    assert chiasm.volume_ml > 1
    assert chiasm.peak.found
    assert np.linalg.norm(np.subtract(chiasm.peak.position_mm_xyz, CENTRES_MM["optic_chiasm"])) < 1.5


class SeesTwo(Paint):
    """SOL-Net takes the left parotid for the chiasm, even more than the chiasm itself."""

    def forward(self, ct: Tensor) -> Output:
        out = super().forward(ct)
        return out._replace(heatmaps=0.6 * out.heatmaps + F.avg_pool3d(out.features[:, 1:2], 5, 1, 2))


@pytest.mark.parametrize(("hush", "organ"), [(False, "optic_chiasm"), (True, "parotid_l")])
def test_a_place_that_s_net_supports_goes_before_a_higher_peak(hush, organ):
    network = SeesTwo()
    network.hush = hush
    peak = predictor(network).predict(patient(axial())).organs["optic_chiasm"].peak
    assert np.linalg.norm(np.subtract(peak.position_mm_xyz, CENTRES_MM[organ])) < 8
    assert (peak.height < 0.6) == (organ == "optic_chiasm")


def test_a_peak_below_the_threshold_keeps_s_net_s_answer(reference):
    prediction = predictor(peak_threshold=0.99).predict(patient(axial()))
    chiasm = prediction.organs["optic_chiasm"]
    assert not chiasm.peak.found
    assert chiasm.volume_ml == pytest.approx(reference.organs["optic_chiasm"].volume_ml, rel=0.1)


def test_an_organ_that_is_not_there_is_empty():
    prediction = predictor().predict(patient(axial(), without="optic_chiasm"))
    chiasm = prediction.organs["optic_chiasm"]
    assert (chiasm.volume_ml, chiasm.confidence, chiasm.peak.found) == (0.0, 0.0, False)


def test_a_model_without_small_organs():
    class Large(Paint):
        def forward(self, ct: Tensor) -> SimpleNamespace:
            return self.snet(ct)

    architecture = Architecture(name="snet", arguments={"num_classes": 5})
    prediction = predictor(Large(), small_organs=(), architecture=architecture).predict(patient(axial()))
    assert all(organ.peak is None and organ.volume_ml > 1 for organ in prediction.organs.values())


def test_pieces_are_padded_multiples_and_never_larger_than_the_model_allows():
    network = Paint()
    volume = patient(axial())
    predictor(network).predict(volume)
    assert set(network.seen) == {(16, 48, 52)}  # the body with its margin is 128 x 144 mm, at least
    wide = Paint()
    predictor(wide, chunk_shape_zyx=(16, 24, 24)).predict(volume)
    assert set(wide.seen) == {(16, 24, 24)}


def test_tiles_give_the_labels_of_the_whole_plane(reference):
    prediction = predictor(chunk_shape_zyx=(16, 24, 24)).predict(patient(axial()))
    assert (prediction.labelmap.array != reference.labelmap.array).mean() < 2e-3


def test_a_short_scan_is_filled_up():
    network = Paint()
    volume = patient(axial(shape=(3, 66, 72)))
    prediction = predictor(network).predict(volume)
    assert set(network.seen) == {(16, 48, 52)}
    assert prediction.labelmap.array.shape == (3, 66, 72)
    assert prediction.organs["mandible"].volume_ml > 1


def test_the_paper_s_stride_needs_fewer_pieces():
    counts = []
    for stride in (None, 16):
        network = Paint()
        Predictor(bundle(network), "cpu", "fp32", stride_slices=stride).predict(patient(axial(shape=(34, 66, 72))))
        counts.append(len(network.seen))
    assert counts == [5, 4]  # 48 working slices: 4 or 3 pieces, and one for the ROI
    for stride in (7, 17):
        with pytest.raises(FocusNetError, match="E_USAGE"):
            Predictor(bundle(Paint()), stride_slices=stride)


def test_four_grids_are_nearer_to_the_truth_than_one_on_any_axis_order(reference):
    network = Paint()
    four = Predictor(bundle(network), "cpu", "fp32", grids=4).predict(patient(axial()))
    counts = Paint()
    predictor(counts).predict(patient(axial()))
    assert len(network.seen) == 4 * len(counts.seen)
    assert set(network.seen) == set(counts.seen)
    assert (four.settings["grids"], reference.settings["grids"]) == (4, 1)
    off = {
        name: [np.linalg.norm(centroid_mm(found.labelmap, key) - CENTRES_MM[key]) for key in ORGANS]
        for name, found in (("one", reference), ("four", four))
    }
    assert np.mean(off["four"]) < np.mean(off["one"])
    assert max(off["four"]) < 0.5
    for permutation, flips in (((0, 1, 2), (False, False, True)), ((2, 0, 1), (True, False, True))):
        turned = in_other_order(patient(axial()), permutation, flips)
        got = predictor(grids=4).predict(turned).labelmap
        expected = in_other_order(Volume(four.labelmap.array, four.labelmap.geometry), permutation, flips)
        assert (got.array != expected.array).mean() < 1e-5
        assert centroid_mm(got, "parotid_l")[0] > 30


@pytest.mark.parametrize("grids", [0, 2, 5])
def test_other_numbers_of_grids_are_refused(grids):
    with pytest.raises(FocusNetError, match="E_USAGE"):
        Predictor(bundle(Paint()), "cpu", grids=grids)


def test_a_small_organ_seen_on_one_grid_alone_is_reported_there():
    class Once(Paint):
        """SOL-Net sees the chiasm in the first piece of the third grid only, S-Net never."""

        def forward(self, ct: Tensor) -> Output:
            out = super().forward(ct)
            return out._replace(heatmaps=out.heatmaps * float(len(self.seen) in self.shown))

    first = Once()
    first.shown = range(100)
    predictor(first).predict(patient(axial()))
    pieces = len(first.seen) - 1  # the last is that of the ROI
    network = Once()
    network.hush = True
    network.shown = range(2 * pieces + 1, 3 * pieces + 1)
    chiasm = predictor(network, grids=4).predict(patient(axial())).organs["optic_chiasm"]
    assert chiasm.peak.found
    assert np.linalg.norm(np.subtract(chiasm.peak.position_mm_xyz, CENTRES_MM["optic_chiasm"])) < 1.5
    assert chiasm.volume_ml == 0.0  # one voice of four


@pytest.mark.parametrize("grids", [1, 4])
def test_progress_rises_through_all_stages_and_ends_at_one(grids):
    told: list[tuple[str, float, float | None]] = []
    predictor(grids=grids).predict(patient(axial()), progress=lambda *message: told.append(message))
    stages, shares, seconds = zip(*told, strict=True)
    assert list(dict.fromkeys(stages)) == list(STAGES)
    assert list(shares) == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert all(s is None or s >= 0 for s in seconds)
    assert seconds[-1] == pytest.approx(0.0, abs=1e-6)
    assert seconds[0] is None


@pytest.mark.parametrize("after", [0, 2, 4])
def test_cancelling_stops_between_pieces(after):
    network = Paint()
    asked: Iterator[int] = itertools.count()
    with pytest.raises(Cancelled):
        predictor(network).predict(patient(axial()), cancel=lambda: next(asked) >= after)
    assert len(network.seen) <= after


def test_out_of_memory_falls_to_smaller_pieces_and_says_so(reference, monkeypatch):
    monkeypatch.setattr(inference, "LEAST_PIECE_ZYX", (8, 24, 24))
    network = Paint(largest=16 * 48 * 24)
    prediction = predictor(network).predict(patient(axial()))
    assert network.seen[0] == (16, 48, 52)
    assert any("Memory ran out" in note for note in prediction.notes)
    assert prediction.settings["piece_zyx"] == list(network.seen[-1])
    assert (prediction.labelmap.array != reference.labelmap.array).mean() < 2e-3


def test_out_of_memory_at_last_is_one_clear_error():
    with pytest.raises(FocusNetError) as caught:
        predictor(Paint(largest=10)).predict(patient(axial()))
    assert caught.value.code == "E_OUT_OF_MEMORY"


def test_other_errors_are_not_mistaken_for_a_lack_of_memory():
    class Broken(Paint):
        def forward(self, ct: Tensor) -> Output:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        predictor(Broken()).predict(patient(axial()))


def test_a_full_gpu_falls_to_the_cpu_and_says_so(monkeypatch, reference):
    main = predictor()
    main._main = replace(main._main, device=torch.device("cuda", 0), precision="fp16")
    run = Computation.run

    def full(self, ct, piece, stage):
        if self.device.type == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return run(self, ct, piece, stage)

    monkeypatch.setattr(Computation, "run", full)
    monkeypatch.setattr("focusnet.inference.resolve_precision", lambda name, device: "fp32")
    monkeypatch.setattr("focusnet.inference.release_memory", lambda device: None)
    prediction = main.predict(patient(axial()))
    np.testing.assert_array_equal(prediction.labelmap.array, reference.labelmap.array)
    assert prediction.notes[0] == "The memory of cuda:0 did not suffice; computed on the CPU instead."
    assert prediction.settings["device"] == "cpu"


def test_a_long_scan_never_holds_a_whole_map_per_class():
    class Many(nn.Module):
        """Forty organs, each in its own slices."""

        def forward(self, ct: Tensor) -> SimpleNamespace:
            logits = torch.zeros(1, 41, *ct.shape[2:])
            logits[:, 1:, :, 8:12, 8:12] = ct[..., 8:12, 8:12]
            logits[:, 0] = 12
            return SimpleNamespace(logits=logits)

    organs = tuple(CATALOGUE)[:40]
    architecture = Architecture(name="snet", arguments={"num_classes": 41})
    many = bundle(Many(), organs=organs, small_organs=(), architecture=architecture, chunk_shape_zyx=(8, 48, 48))
    volume = patient(axial(shape=(250, 66, 72), spacing=(2.1, 2.3, 3.0)))
    working_voxels = 250 * 51 * 53
    tracemalloc.start()
    Predictor(many, "cpu", "fp32").predict(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    dense = 40 * 4 * working_voxels
    assert peak < dense / 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a[:2], "E_TOO_FEW_SLICES"),
        (lambda a: np.where(a == 40, np.nan, a.astype(np.float32)), "E_NON_FINITE"),
        (lambda a: np.zeros_like(a), "E_EMPTY_IMAGE"),
        (lambda a: (a + 1000) * 2, "E_NOT_CT"),
        (lambda a: (a + 1000) / 2000, "E_NOT_HU"),
        (lambda a: np.where(np.indices(a.shape).sum(0) < 30, 40, -1000), "E_NOT_CT"),
    ],
)
def test_what_is_no_ct_is_refused_before_any_network_runs(change, code):
    network = Paint()
    array = change(patient(axial()).array)
    geometry = Geometry(array.shape, axial().affine)
    with pytest.raises(FocusNetError) as caught:
        predictor(network).predict(Volume(array, geometry))
    assert caught.value.code == code
    assert network.seen == []


def test_an_organ_that_the_model_lacks_is_refused_with_those_it_has():
    with pytest.raises(FocusNetError, match=r"E_UNKNOWN_ORGAN.*parotid_l"):
        predictor().predict(patient(axial()), organs=["lens_l"])
