"""Segmentation files: every structure comes back with its name, colour, term, side and place."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap
from focusnet.io.segmentation import Segment, Segmentation, labels_path, read_segmentation, write_segmentation
from focusnet.io.segmentation_header import parse_segments
from focusnet.organs import PHANTOM_26, find, organ
from focusnet.terminology import terminology_string
from hypothesis import given, settings
from hypothesis import strategies as st

FORMATS = ["a.seg.nrrd", "a.nrrd", "a.nii.gz", "a.nii", "a.mha"]
SHAPE = (6, 8, 10)
ORGANS = {1: "parotid_l", 2: "parotid_r", 7: "brainstem", 9: "lens_l"}
TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])


def grid(mirror=(1, 1, 1)) -> Geometry:
    return Geometry.from_parts(SHAPE, (0.9, 1.1, 2.5), (-4.5, 3.25, -100), TURN * mirror)


def labelmap(geometry=None, dtype=np.uint8) -> LabelMap:
    """All organs but the lens, which is named and empty."""
    array = np.random.default_rng(0).choice(np.array([0, 0, 1, 2, 7], dtype), SHAPE)
    return LabelMap(array, geometry or grid(), ORGANS)


def refusal(call, *arguments, **options) -> FocusNetError:
    with pytest.raises(FocusNetError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("mirror", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_label_map_round_trip(tmp_path, name, mirror):
    original = labelmap(grid(mirror))
    write_segmentation(original, tmp_path / name)
    again = read_segmentation(tmp_path / name)
    assert again.geometry.is_close(original.geometry, atol_mm=1e-3)
    assert again.names == [organ(key).tg263 for key in ORGANS.values()]
    for key in ORGANS.values():
        o = organ(key)
        segment = again[o.tg263]
        np.testing.assert_array_equal(segment.mask, original.mask(key))
        assert segment.colour == o.colour
        assert segment.terminology == terminology_string(o)


@pytest.mark.parametrize("name", FORMATS)
def test_sides_stay_where_they_are_in_the_world(tmp_path, name):
    """The array counts towards the patient's right, so the left parotid has the low indices."""
    geometry = Geometry.from_parts(SHAPE, (10, 10, 10), (45, 0, 0), np.diag([-1.0, 1.0, 1.0]))
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 3:5, 1:3], array[2:4, 3:5, 7:9] = 1, 2
    write_segmentation(LabelMap(array, geometry, {1: "parotid_l", 2: "parotid_r"}), tmp_path / name)
    again = read_segmentation(tmp_path / name)
    for segment, x_mm in (("Parotid_L", 30.0), ("Parotid_R", -30.0)):
        centre = again.geometry.index_to_world(np.argwhere(again[segment].mask)).mean(axis=0)
        assert centre[0] == pytest.approx(x_mm, abs=1e-3)


def test_header_is_what_simpleitk_reads(tmp_path):
    """An independent reader sees the same labels, grid and fields."""
    original = labelmap()
    write_segmentation(original, tmp_path / "a.seg.nrrd")
    image = sitk.ReadImage(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), original.array)
    np.testing.assert_allclose(image.GetSpacing(), original.geometry.spacing_xyz)
    np.testing.assert_allclose(image.GetOrigin(), original.geometry.origin_xyz)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), original.geometry.direction, atol=1e-12)
    assert image.GetMetaData("Segment2_Name") == "Brainstem"
    assert image.GetMetaData("Segment2_LabelValue") == "7"
    assert image.GetMetaData("Segment2_Extent") == "0 9 0 7 0 5"


@given(st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=30)
def test_any_overlap_comes_back(tmp_path_factory, patterns, data):
    shape = (3, 2, 2)
    masks = [np.array([(bits >> n) & 1 for n in range(12)], bool).reshape(shape) for bits in patterns]
    segments = [Segment(f"structure {n}", mask, colour=(n, 100, 200)) for n, mask in enumerate(masks)]
    path = tmp_path_factory.mktemp("overlap") / "a.seg.nrrd"
    write_segmentation(Segmentation(Geometry.from_parts(shape), segments), path)
    again = read_segmentation(path)
    assert again.names == [segment.name for segment in segments]
    for written, read in zip(segments, again.segments, strict=True):
        np.testing.assert_array_equal(read.mask, written.mask)
        assert read.colour == written.colour
    if not np.stack(masks).sum(axis=0).max() > 1:
        assert sitk.ReadImage(str(path)).GetNumberOfComponentsPerPixel() == 1


def test_names_in_any_script_and_with_odd_signs(tmp_path):
    names = ["Слюнная железа", "視神経 左", "a|b:=c", "back\\slash", "two\nlines", "same", "same"]
    masks = np.eye(len(names), 3 * 4 * 5, dtype=bool).reshape(-1, 3, 4, 5)
    geometry = Geometry.from_parts((3, 4, 5))
    write_segmentation(
        Segmentation(geometry, [Segment(n, m) for n, m in zip(names, masks, strict=True)]), tmp_path / "a.seg.nrrd"
    )
    again = read_segmentation(tmp_path / "a.seg.nrrd")
    assert again.names == [*names[:3], "back/slash", "two lines", "same", "same"]
    for mask, segment in zip(masks, again.segments, strict=True):
        np.testing.assert_array_equal(segment.mask, mask)


def test_stamp_is_kept_with_the_mark_unreviewed(tmp_path):
    stamp = {"model": "openkbp7 1.0", "weights": "sha256:ab|c"}
    write_segmentation(labelmap(), tmp_path / "a.seg.nrrd", stamp=stamp)
    assert b"FocusNet:UNREVIEWED; model=openkbp7 1.0; weights=sha256-ab/c|" in (tmp_path / "a.seg.nrrd").read_bytes()
    write_segmentation(labelmap(), tmp_path / "b.nii.gz", stamp=stamp)
    beside = json.loads((tmp_path / "b.labels.json").read_text())
    assert beside["status"] == "UNREVIEWED"
    assert beside["made_by"] == stamp
    assert beside["labels"] == {"1": "Parotid_L", "2": "Parotid_R", "7": "Brainstem", "9": "Lens_L"}


def test_stamp_does_not_disturb_the_terms(tmp_path):
    write_segmentation(labelmap(), tmp_path / "a.seg.nrrd", stamp={"model": "x"})
    assert read_segmentation(tmp_path / "a.seg.nrrd")["Brainstem"].terminology == terminology_string(organ("brainstem"))


def test_names_can_be_given_for_a_plain_label_map(tmp_path):
    path = tmp_path / "labels.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(labelmap().array.astype(np.float32)), str(path))
    again = read_segmentation(path, names={1: "OAR left", 2: "Parotid_R", 5: "Larynx"})
    assert again.names == ["OAR left", "Parotid_R", "Larynx", "label 7"]
    assert not again["Larynx"].mask.any()
    assert again["Parotid_R"].colour == organ("parotid_r").colour
    assert again["OAR left"].colour is None
    np.testing.assert_array_equal(again["label 7"].mask, labelmap().array == 7)


def test_label_map_without_any_names(tmp_path):
    path = tmp_path / "labels.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(labelmap().array), str(path))
    assert read_segmentation(path).names == ["label 1", "label 2", "label 7"]


def test_old_slicer_files_have_a_layer_per_segment():
    metadata = {"Segment0_ID": "a", "Segment0_Name": "Brain", "Segment1_ID": "b", "Segment1_Name": "Cord"}
    assert [(e.name, e.layer, e.label) for e in parse_segments(metadata)] == [("Brain", 0, 1), ("Cord", 1, 1)]


def test_more_segments_than_eight_bits_hold(tmp_path):
    masks = np.eye(300, dtype=bool).reshape(300, 5, 6, 10)
    geometry = Geometry.from_parts((5, 6, 10))
    write_segmentation(
        Segmentation(geometry, [Segment(f"s{n}", mask) for n, mask in enumerate(masks)]), tmp_path / "a.seg.nrrd"
    )
    again = read_segmentation(tmp_path / "a.seg.nrrd")
    np.testing.assert_array_equal(again.segments[299].mask, masks[299])
    np.testing.assert_array_equal(again.segments[43].mask, masks[43])


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_wide_label_types(tmp_path, dtype):
    original = labelmap(dtype=dtype)
    for name in ("a.seg.nrrd", "a.nii.gz"):
        write_segmentation(original, tmp_path / name)
        np.testing.assert_array_equal(read_segmentation(tmp_path / name)["Brainstem"].mask, original.array == 7)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path, name):
    write_segmentation(labelmap(), tmp_path / name)
    before = (tmp_path / name).read_bytes()
    other = LabelMap(np.zeros(SHAPE, np.uint8), grid(), {1: "larynx"})
    assert refusal(write_segmentation, other, tmp_path / name).code == "E_OUTPUT_EXISTS"
    assert (tmp_path / name).read_bytes() == before
    write_segmentation(other, tmp_path / name, overwrite=True)
    assert read_segmentation(tmp_path / name).names == ["Larynx"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_unknown_output_format(tmp_path):
    assert refusal(write_segmentation, labelmap(), tmp_path / "a.png").code == "E_OUTPUT_FORMAT"
    assert list(tmp_path.iterdir()) == []


def test_overlap_needs_a_segmentation_file(tmp_path):
    full = np.ones(SHAPE, bool)
    both = Segmentation(grid(), [Segment("Eye_L", full), Segment("Lens_L", full)])
    assert refusal(write_segmentation, both, tmp_path / "a.nii.gz").code == "E_OUTPUT_FORMAT"
    assert list(tmp_path.iterdir()) == []


def test_segments_without_overlap_become_a_label_map(tmp_path):
    array = labelmap().array
    segments = [Segment("Left Parotid", array == 1), Segment("Parotid_R", array, label=2)]
    write_segmentation(Segmentation(grid(), segments), tmp_path / "a.nii.gz")
    again = read_segmentation(tmp_path / "a.nii.gz")
    assert again.names == ["Parotid_L", "Parotid_R"]
    np.testing.assert_array_equal(again["Parotid_R"].mask, array == 2)
    unknown = Segmentation(grid(), [Segment("GTV", array == 1)])
    assert refusal(write_segmentation, unknown, tmp_path / "b.nii.gz").code == "E_UNKNOWN_ORGAN"


def test_labels_without_an_organ(tmp_path):
    stray = LabelMap(labelmap().array, grid(), {1: "parotid_l", 2: "parotid_r"})
    error = refusal(write_segmentation, stray, tmp_path / "a.seg.nrrd")
    assert error.code == "E_LABELS"
    assert str((stray.array == 7).sum()) in error.message
    assert list(tmp_path.iterdir()) == []


def test_sheared_grid(tmp_path):
    affine = np.eye(4)
    affine[1, 2] = 0.3
    sheared = labelmap(Geometry(SHAPE, affine))
    assert refusal(write_segmentation, sheared, tmp_path / "a.seg.nrrd").code == "E_BAD_GEOMETRY"


def test_segment_of_another_shape():
    assert refusal(Segmentation, grid(), [Segment("a", np.zeros((2, 2, 2), bool))]).code == "E_BAD_GEOMETRY"


def test_damaged_fields_and_truncated_files(tmp_path):
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(labelmap(), path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Segment1_LabelValue:=2", b"Segment1_LabelValue:=x"))
    assert refusal(read_segmentation, path).code == "E_UNREADABLE"
    path.write_bytes(content.replace(b"Segment1_Layer:=0", b"Segment1_Layer:=3"))
    assert refusal(read_segmentation, path).code == "E_UNREADABLE"
    path.write_bytes(content[:-20])
    assert refusal(read_segmentation, path).code == "E_UNREADABLE"


def test_image_that_is_no_label_map(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.linspace(-1, 1, 480).reshape(SHAPE)), str(tmp_path / "a.nrrd"))
    assert refusal(read_segmentation, tmp_path / "a.nrrd").code == "E_UNREADABLE"


def test_damaged_table_of_names(tmp_path):
    write_segmentation(labelmap(), tmp_path / "a.nii.gz")
    labels_path(tmp_path / "a.nii.gz").write_text("{")
    assert refusal(read_segmentation, tmp_path / "a.nii.gz").code == "E_UNREADABLE"


def test_missing_segment_is_named(tmp_path):
    with pytest.raises(KeyError, match="Parotid_L"):
        Segmentation(grid(), [Segment("Parotid_L", np.zeros(SHAPE, bool))])["Larynx"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.nii.gz", "a.labels.json"), ("x/case 1.v2.nrrd", "x/case 1.v2.labels.json"), ("b.mha", "b.labels.json")],
)
def test_place_of_the_table_of_names(path, expected):
    assert labels_path(path).as_posix() == expected


# --- real contours --------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_every_real_contour_has_the_voxels_place_and_side_that_the_data_state(shared_data):
    folder = shared_data / "contours"
    cases = json.loads((folder / "contours.json").read_text())["cases"]
    assert len(cases) == 7
    for case in cases.values():
        offset_mm = np.multiply(case["box_offset"], case["voxel_mm"])
        for annotator in case["annotators"].values():
            segmentation = read_segmentation(folder / annotator["file"])
            np.testing.assert_allclose(segmentation.geometry.origin_xyz, case["origin"] + offset_mm, atol=1e-3)
            assert segmentation.names == list(annotator["organs"])
            x_mm = {}
            for segment in segmentation.segments:
                mask = segment.mask
                assert np.count_nonzero(mask) == annotator["organs"][segment.name]["voxels"]
                x_mm[find(segment.name).key] = np.flatnonzero(mask.any(axis=(0, 1))).mean()
            for key in x_mm:
                if organ(key).side == "left":
                    assert x_mm[key] > x_mm[organ(key).partner]


@pytest.mark.realdata
def test_real_overlapping_contours_round_trip(shared_data, tmp_path):
    original = read_segmentation(shared_data / "contours" / "0522c0014" / "oncologist.seg.nrrd")
    write_segmentation(original, tmp_path / "a.seg.nrrd")
    again = read_segmentation(tmp_path / "a.seg.nrrd")
    assert again.geometry.is_close(original.geometry)
    assert again.names == original.names
    for before, after in zip(original.segments, again.segments, strict=True):
        assert np.array_equal(before.mask, after.mask)
        assert before.colour == after.colour
        assert after.terminology == terminology_string(find(before.name))


def test_all_phantom_organs_fit_one_layer(tmp_path):
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    original = LabelMap(array, Geometry.from_parts(array.shape), dict(enumerate(PHANTOM_26, start=1)))
    write_segmentation(original, tmp_path / "a.seg.nrrd")
    again = read_segmentation(tmp_path / "a.seg.nrrd")
    assert [int(np.argmax(segment.mask)) for segment in again.segments] == list(range(1, 27))
