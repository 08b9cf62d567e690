import itertools
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume
from focusnet.organs import CATALOGUE
from focusnet.quality import SEVERITY, Flag, check_input, check_output
from focusnet.quality_contacts import may_touch

SPACING_MM = 2.0
SHAPE = (120, 110, 100)  # 240 x 220 x 200 mm
ORIGIN = (-99.0, -109.0, -119.0)

# LPS centre and size in mm; every size is plausible for its organ.
BOXES = {
    "brainstem": ((0, 20, 40), (28, 28, 36)),
    "mandible": ((0, -50, -10), (70, 30, 28)),
    "larynx": ((0, -30, -50), (32, 32, 28)),
    "parotid_l": ((56, 10, 10), (24, 34, 34)),
    "parotid_r": ((-56, 10, 10), (24, 34, 34)),
    "eye_l": ((32, -60, 44), (20, 20, 20)),
    "eye_r": ((-32, -60, 44), (20, 20, 20)),
    "lens_l": ((32, -72, 44), (8, 4, 8)),
    "lens_r": ((-32, -72, 44), (8, 4, 8)),
    "cochlea_l": ((26, 16, 30), (4, 4, 4)),
    "cochlea_r": ((-26, 16, 30), (4, 4, 4)),
}
KEYS = tuple(BOXES)
Item = TypeVar("Item", Volume, LabelMap)
GEOMETRY = Geometry.from_parts(SHAPE, (SPACING_MM,) * 3, ORIGIN)


def world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = np.meshgrid(*(np.arange(n) * SPACING_MM for n in SHAPE), indexing="ij", sparse=True)
    return x + ORIGIN[0], y + ORIGIN[1], z + ORIGIN[2]


def paint(boxes: dict[str, tuple[tuple, tuple]] = BOXES) -> LabelMap:
    x, y, z = world()
    array = np.zeros(SHAPE, np.uint8)
    for key, ((cx, cy, cz), (sx, sy, sz)) in boxes.items():
        inside = (abs(x - cx) < sx / 2) & (abs(y - cy) < sy / 2) & (abs(z - cz) < sz / 2)
        array[inside] = KEYS.index(key) + 1
    return LabelMap(array, GEOMETRY, dict(enumerate(KEYS, 1)))


@cache
def head_ct() -> Volume:
    """A head with skull and airway on a neck with a spine, in air."""
    x, y, z = world()
    hu = np.full(SHAPE, -1000.0, np.float32)
    head = (x / 78) ** 2 + (y / 98) ** 2 < 1
    neck = (x / 62) ** 2 + (y / 70) ** 2 < 1
    body = np.where(z > -40, head, neck)
    hu[body] = 40
    hu[head & ((x / 70) ** 2 + (y / 90) ** 2 > 1) & (z > -20)] = 900
    hu[(x**2 + (y - 40) ** 2 < 15**2) & (z <= -20)] = 500
    hu[(x**2 + (y + 25) ** 2 < 8**2) & (z < 40)] = -1000
    hu.setflags(write=False)
    return Volume(hu, GEOMETRY)


def codes(flags: list[Flag]) -> set[tuple[str, str | None]]:
    return {(f.code, f.organ) for f in flags}


def check(labelmap: LabelMap, volume: Volume | None = None) -> set[tuple[str, str | None]]:
    return codes(check_output(labelmap, volume, KEYS))


def moved(key: str, centre: tuple | None = None, size: tuple | None = None) -> dict:
    old_centre, old_size = BOXES[key]
    return {**BOXES, key: (centre or old_centre, size or old_size)}


def reordered(item: Item, order: tuple[int, ...], flips: tuple[int, ...]) -> Item:
    """The same voxels in the same place of the world, with the array's axes permuted and flipped."""
    array = item.array.transpose(order)[tuple(slice(None, None, f) for f in flips)]
    affine = item.geometry.affine.copy()
    columns = affine[:3, :3][:, ::-1][:, list(order)] * flips
    start = [n - 1 if flips[order.index(axis)] < 0 else 0 for axis, n in enumerate(SHAPE)]
    affine[:3, :3] = columns[:, ::-1]
    affine[:3, 3] = item.geometry.index_to_world(start)
    geometry = Geometry(array.shape, affine)
    if isinstance(item, LabelMap):
        return LabelMap(array, geometry, item.organs)
    return Volume(array, geometry)


def swapped(labelmap: LabelMap, *stems: str) -> LabelMap:
    array = labelmap.array.copy()
    for stem in stems:
        left, right = labelmap.label_of(f"{stem}_l"), labelmap.label_of(f"{stem}_r")
        array[labelmap.array == left] = right
        array[labelmap.array == right] = left
    return LabelMap(array, labelmap.geometry, labelmap.organs)


def without(labelmap: LabelMap, *keys: str) -> LabelMap:
    array = labelmap.array.copy()
    for key in keys:
        array[labelmap.array == labelmap.label_of(key)] = 0
    return LabelMap(array, labelmap.geometry, labelmap.organs)


def test_plausible_anatomy_has_no_flag() -> None:
    assert check(paint(), head_ct()) == set()
    assert check_input(head_ct()) == []


def test_missing_organ() -> None:
    labelmap = without(paint(), "eye_r", "larynx")
    assert check(labelmap) == {("missing", "eye_r"), ("missing", "larynx")}
    assert codes(check_output(labelmap, None, ["eye_l"])) == set()
    assert ("missing", "pituitary") in codes(check_output(labelmap, None, ["pituitary"]))


@pytest.mark.parametrize("stems", [("parotid",), ("lens", "eye"), ("parotid", "eye", "lens", "cochlea")])
def test_swapped_sides(stems: tuple[str, ...]) -> None:
    expected = {("sides_swapped", f"{stem}_{side}") for stem in stems for side in "lr"}
    assert check(swapped(paint(), *stems), head_ct()) == expected


def test_organ_alone_on_the_wrong_side_is_told_by_the_midline_of_the_others() -> None:
    labelmap = without(swapped(paint(), "parotid"), "parotid_r")
    assert check(labelmap) == {("missing", "parotid_r"), ("sides_swapped", "parotid_l")}


def test_organ_alone_on_the_wrong_side_is_told_by_the_body() -> None:
    only_left = without(paint(), *(k for k in KEYS if k != "parotid_l"))
    only_right = LabelMap(only_left.array, GEOMETRY, {only_left.label_of("parotid_l"): "parotid_r"})
    assert codes(check_output(only_left, head_ct(), ["parotid_l"])) == set()
    assert codes(check_output(only_right, head_ct(), ["parotid_r"])) == {("sides_swapped", "parotid_r")}
    assert codes(check_output(only_right, None, ["parotid_r"])) == set()


def test_two_organs_of_a_pair_on_one_side() -> None:
    found = check(paint(moved("cochlea_l", centre=(-14, 16, 70))))
    assert found == {("sides_swapped", "cochlea_l")}


@pytest.mark.parametrize("degrees", [-20, 20])
def test_a_tilted_head_is_not_a_swapped_one(degrees: float) -> None:
    turn = np.eye(4)
    angle = np.radians(degrees)
    turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    labelmap, ct = paint(), head_ct()
    tilted = LabelMap(labelmap.array, GEOMETRY.transformed(turn), labelmap.organs)
    assert check(tilted, Volume(ct.array, tilted.geometry)) == set()
    expected = {("sides_swapped", f"{stem}_{side}") for stem in ("eye", "lens") for side in "lr"}
    assert check(swapped(tilted, "eye", "lens")) == expected


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_axis_order_gives_the_same_flags(order: tuple[int, int, int], flips: tuple[int, int, int]) -> None:
    labelmap = swapped(paint(moved("larynx", centre=(0, -70, -50))), "parotid")
    wanted = {("sides_swapped", "parotid_l"), ("sides_swapped", "parotid_r"), ("outside_body", "larynx")}
    ct = reordered(head_ct(), order, flips)
    assert check(reordered(labelmap, order, flips), ct) == wanted
    assert check_input(ct) == []


def test_labels_and_ct_may_have_different_axis_orders() -> None:
    labelmap = paint(moved("larynx", centre=(0, -70, -50)))
    ct = reordered(head_ct(), (2, 0, 1), (-1, 1, -1))
    assert check(labelmap, ct) == {("outside_body", "larynx")}


def test_outside_the_body_counts_enclosed_air_as_inside() -> None:
    assert check(paint(moved("larynx", centre=(0, -25, -50))), head_ct()) == set()
    assert check(paint(moved("eye_l", centre=(32, -98, 44))), head_ct()) == {("outside_body", "eye_l")}
    assert check(paint(moved("eye_l", centre=(32, -98, 44))), None) == set()


def test_body_is_found_on_another_grid() -> None:
    ct = head_ct()
    coarse = Volume(ct.array[::2, ::2, ::2], Geometry.from_parts((60, 55, 50), (4, 4, 4), ORIGIN))
    assert check(paint(), coarse) == set()
    assert check(paint(moved("eye_l", centre=(32, -98, 44))), coarse) == {("outside_body", "eye_l")}


def test_several_components() -> None:
    labelmap = paint()
    array = labelmap.array.copy()
    array[10:16, 50:56, 50:56] = labelmap.label_of("parotid_l")
    assert check(LabelMap(array, GEOMETRY, labelmap.organs)) == {("several_components", "parotid_l")}
    array = labelmap.array.copy()
    array[10, 50, 50] = labelmap.label_of("parotid_l")
    assert check(LabelMap(array, GEOMETRY, labelmap.organs)) == set()


def test_organs_of_several_pieces_are_not_flagged_for_it() -> None:
    array = np.zeros(SHAPE, np.uint8)
    array[40:55, 40:55, 20:30] = array[40:55, 40:55, 60:70] = 1
    assert codes(check_output(LabelMap(array, GEOMETRY, {1: "buccal_mucosa"}), None, [])) == set()


def test_volume_out_of_range() -> None:
    assert check(paint(moved("brainstem", size=(16, 16, 20)))) == {("volume_out_of_range", "brainstem")}
    assert check(paint(moved("brainstem", size=(40, 40, 50)))) == {("volume_out_of_range", "brainstem")}


def test_asymmetric_partners() -> None:
    small = check(paint(moved("parotid_r", size=(24, 34, 14))))
    assert small == {("asymmetric", "parotid_l"), ("asymmetric", "parotid_r")}
    assert check(paint(moved("parotid_r", size=(24, 34, 20)))) == set()


def test_cut_organ_is_not_judged_by_its_volume() -> None:
    labelmap = paint(moved("parotid_r", centre=(-98, 10, 10)))
    assert check(labelmap) == {("cut_by_field_of_view", "parotid_r")}
    z = int((10 + 119) / SPACING_MM)
    cropped = labelmap.crop(Box((z, 0, 0), SHAPE))
    assert check(cropped) >= {("cut_by_field_of_view", "parotid_l")}
    assert not {c for c in check(cropped) if c[0] in ("volume_out_of_range", "asymmetric")}


def test_touching_a_neighbour_it_can_not_touch() -> None:
    # 10 voxels of 2 mm by 10: 400 mm² of faces between the eye and the parotid gland.
    boxes = moved("eye_l", centre=(56, -17, 10), size=(20, 22, 20))
    boxes.pop("lens_l")
    labelmap = paint(boxes)
    flags = [f for f in check_output(labelmap, None, boxes) if f.code == "touching"]
    assert codes(flags) == {("touching", "eye_l"), ("touching", "parotid_l")}
    assert all("400 mm²" in f.message for f in flags)


def test_a_contact_that_anatomy_knows_is_not_flagged() -> None:
    assert check(paint(moved("lens_l", centre=(32, -70, 44)))) == set()


@pytest.mark.parametrize(
    ("first", "second", "answer"),
    [
        ("eye_l", "lens_l", True),
        ("eye_l", "lens_r", False),
        ("eye_l", "eye_r", False),
        ("optic_nerve_l", "optic_nerve_r", True),
        ("optic_nerve_r", "optic_chiasm", True),
        ("mandible", "tmj_r", True),
        ("mandible_l", "tmj_r", False),
        ("mandible_l", "mandible_r", True),
        ("mandible", "brainstem", False),
        ("lung_l", "lung_r", True),
        ("parotid_l", "submandibular_l", True),
        ("parotid_l", "parotid_r", False),
        ("spinal_cord", "spinal_canal", True),
    ],
)
def test_contacts_by_hand(first: str, second: str, answer: bool) -> None:
    assert may_touch(first, second) is answer
    assert may_touch(second, first) is answer


def test_contacts_are_the_same_on_both_sides() -> None:
    for a, b in itertools.combinations(CATALOGUE.values(), 2):
        assert may_touch(a.key, b.key) == may_touch(a.partner or a.key, b.partner or b.key)


def test_errors_come_first_and_every_severity_is_the_code_s() -> None:
    boxes = {**moved("parotid_r", centre=(-98, 10, 10)), "brainstem": ((0, 20, 40), (16, 16, 20))}
    flags = check_output(without(paint(boxes), "larynx"), None, KEYS)
    assert [f.severity for f in flags] == ["error", "warning", "info"]
    assert all(f.severity == SEVERITY[f.code] for f in flags)
    assert flags[0].message == "Larynx: not found."
    assert flags[1].message == "Brainstem: 5.12 ml is not plausible (14 to 45 ml)."


def test_empty_map_and_unknown_keys() -> None:
    empty = LabelMap(np.zeros(SHAPE, np.uint8), GEOMETRY, {1: "brainstem"})
    assert codes(check_output(empty, head_ct(), ["brainstem"])) == {("missing", "brainstem")}
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        check_output(empty, None, ["heart"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hu: hu + 1024,  # no rescale
        lambda hu: (hu + 1000) / 1900,  # normalised
        lambda hu: np.where(hu > -500, 300 + hu, 0),  # an MR
        lambda hu: np.full_like(hu, -1000),  # nobody there
        lambda hu: np.where(hu < -500, -2000, hu + 1024),  # no rescale, padded
        lambda hu: np.full_like(hu, np.nan),
    ],
)
def test_not_hounsfield_units(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    ct = head_ct()
    assert codes(check_input(ct.with_array(spoil(ct.array)))) == {("not_hu", None)}


def test_body_without_face_or_neck() -> None:
    x, y, z = world()
    chest = np.where((x / 97) ** 2 + (y / 105) ** 2 < 1, 40, -1000) + 0 * z
    chest = np.where(((abs(x) - 45) / 30) ** 2 + (y / 60) ** 2 < 1, -800, chest)
    assert codes(check_input(Volume(chest.astype(np.float32), GEOMETRY))) == {("not_head_and_neck", None)}
    leg = np.where(x**2 + y**2 < 75**2, 40, -1000) + 0 * z
    leg = np.where((x**2 + y**2 < 14**2), 800, leg)
    assert codes(check_input(Volume(leg.astype(np.float32), GEOMETRY))) == {("not_head_and_neck", None)}


def test_truncated_scan() -> None:
    ct = head_ct()
    assert codes(check_input(ct.crop(Box((40, 0, 0), (75, *SHAPE[1:]))))) == {("truncated", None)}
    flags = check_input(ct.crop(Box((0, 0, 35), SHAPE)))
    assert codes(flags) == {("truncated", None)}
    assert "side of the image" in flags[0].message


@pytest.mark.parametrize("flip", [1, -1])
def test_cut_shoulders_are_no_fault(flip: int) -> None:
    ct = head_ct()
    hu = ct.array.copy()
    hu[:22, 35:75, :42] = hu[:22, 35:75, 58:] = 40  # from one side of the image to the other
    hu[:22, 50:60, [*range(5, 12), *range(88, 95)]] = 500
    shoulders = reordered(ct.with_array(hu), (0, 1, 2), (flip, 1, 1))
    assert check_input(shoulders) == []


def test_nothing_here_needs_torch(root: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; import focusnet.quality, focusnet.terminology"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root / "FocusNetSegmentation")
