"""Structure sets with the faults of the field: each gives the right mask and a note, or one clear reason code."""

import numpy as np
import pydicom
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry
from focusnet.io.rtstruct import RTStructRules, find_structure_sets, read_rtstruct
from focusnet.io.segmentation import write_segmentation
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian

SQUARE_VOXELS = 16 * 16


def block(rt, **options):
    """Three square contours on three slices."""
    return [rt.contour(rt.square(z, **options)) for z in (-3.0, 0.0, 3.0)]


def read_one(rt, tmp_path, grid, contours, name="Parotid_L", edit=None, **rules):
    path = rt.File({name: contours}, edit=edit).write(tmp_path / "rs.dcm")
    found = read_rtstruct(path, grid, RTStructRules(**rules))
    return found, found.structures[0]


def refusal(path, grid, **rules) -> FocusNetError:
    with pytest.raises(FocusNetError) as caught:
        read_rtstruct(path, grid, RTStructRules(**rules))
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in ("Secret", "SECRET", "1.2.826", str(path.parent)))
    return caught.value


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_plain_structure_set_lies_where_it_was_drawn(rt, grid, tmp_path):
    found, parotid = read_one(rt, tmp_path, grid, block(rt))
    assert (found.label, found.frame_of_reference, found.series_uids) == ("OAR", rt.FRAME, (rt.SERIES,))
    assert (parotid.number, parotid.name, parotid.organ, parotid.colour) == (1, "Parotid_L", "parotid_l", (255, 0, 1))
    assert parotid.mask.sum() == 3 * SQUARE_VOXELS
    world = grid.index_to_world(np.argwhere(parotid.mask))
    np.testing.assert_allclose(world.mean(axis=0), (10, 5, 0))
    assert world.min(axis=0).tolist() == [2.5, -2.5, -3.0]
    assert parotid.volume_ml == pytest.approx(16 * 16 * 9e-3)
    assert parotid.contour_volume_ml == pytest.approx(16 * 16 * 9e-3)
    assert parotid.notes == found.notes == found.unmapped == ()


def test_organs_stay_on_their_sides(rt, grid, tmp_path):
    sides = {"Parotid_L": block(rt, centre=(20.0, 0.0)), "Parotid_R": block(rt, centre=(-20.0, 0.0))}
    found = read_rtstruct(rt.File(sides).write(tmp_path / "rs.dcm"), grid)
    left, right = (grid.index_to_world(np.argwhere(found.find(f"parotid_{s}").mask))[:, 0] for s in "lr")
    assert left.min() > 0 > right.max()


def test_the_order_of_contours_does_not_matter(rt, grid, tmp_path):
    _, parotid = read_one(rt, tmp_path, grid, [block(rt)[i] for i in (2, 0, 1)])
    assert parotid.mask.sum() == 3 * SQUARE_VOXELS


def test_holes_islands_and_keyholes(rt, grid, tmp_path):
    outer, hole, island = (rt.square(0.0, half) for half in (8.0, 5.0, 2.0))
    keyhole = np.concatenate([outer, outer[:1], hole, hole[:1]])
    found = read_rtstruct(
        rt.File(
            {
                "nested": [rt.contour(p) for p in (island, outer, hole)],
                "xor": [rt.contour(p, "CLOSEDPLANAR_XOR") for p in (outer, hole)],
                "keyhole": [rt.contour(keyhole)],
            }
        ).write(tmp_path / "rs.dcm"),
        grid,
    )
    voxels = {s.name: int(s.crop.sum()) for s in found.structures}
    assert voxels == {"nested": 256 - 100 + 16, "xor": 256 - 100, "keyhole": 256 - 100}
    assert found.unmapped == ("nested", "xor", "keyhole")


def test_axial_contours_on_an_oblique_image(rt, grid, tmp_path):
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    oblique = Geometry.from_parts((24, 60, 60), (1, 1, 1.5), turn @ [-20.5, -25, -18], turn, rt.FRAME)
    _, parotid = read_one(rt, tmp_path, oblique, block(rt))
    assert parotid.volume_ml == pytest.approx(16 * 16 * 9e-3, rel=0.02)
    np.testing.assert_allclose(oblique.index_to_world(np.argwhere(parotid.mask)).mean(axis=0), (10, 5, 0), atol=0.3)


def test_a_missing_slice_is_said_and_bridged_on_request(rt, grid, tmp_path):
    planes = [rt.contour(rt.square(z)) for z in (-9.0, -6.0, -3.0, 3.0, 6.0)]
    _, parted = read_one(rt, tmp_path, grid, planes)
    _, bridged = read_one(rt, tmp_path, grid, planes, bridge_mm=6.5)
    assert parted.mask.sum() == 5 * SQUARE_VOXELS
    assert parted.notes == ("no contour on 1 slice(s) between slices 4 and 6; left empty",)
    assert bridged.mask.sum() == 6 * SQUARE_VOXELS


def test_a_small_stack_takes_the_contour_spacing_of_the_whole_set(rt, grid, tmp_path):
    """Contours drawn every 6 mm: a structure of two planes is as thick as its neighbours would have it."""
    everywhere = [rt.contour(rt.square(z, centre=(-20.0, 0.0))) for z in (-12.0, -6.0, 0.0, 6.0, 12.0)]
    pair = [rt.contour(rt.square(z)) for z in (0.0, 6.0)]
    found = read_rtstruct(rt.File({"Brain": everywhere, "Lens_L": pair}).write(tmp_path / "rs.dcm"), grid)
    assert found.find("lens_l").mask.sum() == 4 * SQUARE_VOXELS


def test_structures_can_be_chosen(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt), "Brainstem": block(rt), "xyz": block(rt)}).write(tmp_path / "rs.dcm")
    found = read_rtstruct(path, grid, RTStructRules(only={"brainstem", "xyz"}))
    assert [s.crop.any() for s in found.structures] == [False, True, True]
    assert found.structures[0].notes == ("not asked for; not filled",)


def test_overlapping_structures_become_a_segmentation(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt), "PTV": block(rt, half=12.0), "empty": []}).write(tmp_path / "rs.dcm")
    found = read_rtstruct(path, grid)
    segmentation = found.to_segmentation()
    for structure, segment in zip(found.structures, segmentation.segments, strict=True):
        assert (segment.name, segment.colour) == (structure.name, structure.colour)
        np.testing.assert_array_equal(segment.mask, structure.mask)
    write_segmentation(segmentation, tmp_path / "s.seg.nrrd")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "organ"),
    [
        ("Hirnstamm", "brainstem"),
        ("moelle épinière", "spinal_cord"),
        ("腮腺 左", None),
        ("Околоушная железа Л", None),
        ("غدة", None),
        ("PTV 70 Gy", None),
    ],
)
def test_names_of_any_language_are_kept(rt, grid, tmp_path, name, organ):
    found, structure = read_one(rt, tmp_path, grid, block(rt), name)
    assert (structure.name, structure.organ) == (name, organ)
    assert structure.mask.sum() == 3 * SQUARE_VOXELS
    assert found.unmapped == (() if organ else (name,))


def test_names_in_declared_and_undeclared_character_sets(rt, grid, tmp_path):
    def declare(charset):
        def edit(ds):
            ds.SpecificCharacterSet = charset

        return edit

    _, latin = read_one(rt, tmp_path, grid, block(rt), "Rückenmark", declare("ISO_IR 100"))
    assert latin.name == "Rückenmark"

    def undeclared_utf8(ds):
        del ds.SpecificCharacterSet
        name = pydicom.DataElement("ROIName", "LO", "Rückenmark".encode().decode("latin-1"))
        ds.StructureSetROISequence[0]["ROIName"] = name

    _, bare = read_one(rt, tmp_path, grid, block(rt), edit=undeclared_utf8)
    assert (bare.name, bare.organ) == ("Rückenmark", "spinal_cord")


def test_a_name_with_control_characters_or_none_at_all(rt, grid, tmp_path):
    _, odd = read_one(rt, tmp_path, grid, block(rt), "Parotid\t_L\n ")
    assert odd.name == "Parotid _L"
    _, none = read_one(rt, tmp_path, grid, block(rt), "")
    assert (none.name, none.organ) == ("ROI 1", None)
    assert none.crop.any()


def test_own_spellings_come_first(rt, grid, tmp_path):
    _, structure = read_one(rt, tmp_path, grid, block(rt), "OAR 7 li", names={"oar 7 LI": "parotid_l"})
    assert structure.organ == "parotid_l"


def test_two_structures_of_one_organ_are_never_chosen_between(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt), "parotis links": block(rt), "Brainstem": [], "brain stem": block(rt)})
    found = read_rtstruct(path.write(tmp_path / "rs.dcm"), grid)
    by_name = {s.name: s for s in found.structures}
    assert by_name["Parotid_L"].organ == "parotid_l"
    assert by_name["parotis links"].organ is None
    assert "all mean parotid_l" in by_name["parotis links"].notes[0]
    assert by_name["brain stem"].organ == "brainstem"
    path = rt.File({"parotis links": block(rt), "left parotid": block(rt, half=4.0)})
    unsure = read_rtstruct(path.write(tmp_path / "rs.dcm"), grid)
    assert len(unsure.unmapped) == 2
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        unsure.find("parotid_l")


# --- contours that can't be filled, or hardly -------------------------------------------------------------------------

BAD_CONTOURS = {
    "point": (lambda rt: rt.contour([[10, 5, 0]], "POINT"), "1 single point(s) left out"),
    "open": (lambda rt: rt.contour(rt.square(0.0), "OPEN_PLANAR"), "1 open contour(s) left out"),
    "open, not planar": (lambda rt: rt.contour(rt.square(0.0), "OPEN_NONPLANAR"), "1 open contour(s) left out"),
    "unknown type": (lambda rt: rt.contour(rt.square(0.0), "SPLINE"), "1 contour(s) of unknown type left out"),
    "one point": (lambda rt: rt.contour([[10, 5, 0]]), "1 contour(s) of one or two points left out"),
    "two points": (lambda rt: rt.contour([[10, 5, 0], [12, 5, 0]]), "1 contour(s) of one or two points left out"),
    "one point thrice": (lambda rt: rt.contour([[10, 5, 0]] * 3), "1 contour(s) of one or two points left out"),
    "on a line": (lambda rt: rt.contour([[0, 5, 0], [9, 5, 0], [4, 5, 0]]), "1 contour(s) without area left out"),
    "no data": (lambda rt: rt.contour([]), "1 contour(s) without coordinates left out"),
    "half a point": (
        lambda rt: rt.contour(rt.square(0.0), ContourData=["1", "2", "3", "4"]),
        "1 contour(s) with an incomplete point left out",
    ),
    "infinite": (
        lambda rt: rt.contour(np.where(np.eye(4, 3) > 0, 1e30, rt.square(0.0))),
        "1 contour(s) with impossible coordinates left out",
    ),
    "twice": (lambda rt: rt.contour(rt.square(-3.0)[::-1]), "1 drawn twice left out"),
    "crumpled": (
        lambda rt: rt.contour(rt.square(0.0, half=6.0) + np.diag([0, 0, 9.0, 0])[:4, :3]),
        "1 contour(s) that lie in no plane left out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_CONTOURS)
def test_a_bad_contour_is_left_out_and_said(rt, grid, tmp_path, fault):
    make, note = BAD_CONTOURS[fault]
    _, parotid = read_one(rt, tmp_path, grid, [*block(rt), make(rt)])
    assert parotid.mask.sum() == 3 * SQUARE_VOXELS
    assert note in parotid.notes


@pytest.mark.parametrize("text", ["1.0\\abc\\2.0", "1,5\\2,5\\0", "nan\\1\\2\\1\\1\\2\\1\\2\\2"])
def test_coordinates_that_are_no_numbers(rt, grid, tmp_path, text):
    def spoil(ds):
        item = ds.ROIContourSequence[0].ContourSequence[3]
        tag = pydicom.tag.Tag("ContourData")
        item[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(text), text.encode(), 0, True, True)

    _, parotid = read_one(rt, tmp_path, grid, [*block(rt), rt.contour(rt.square(0.0))], edit=spoil)
    assert parotid.mask.sum() == 3 * SQUARE_VOXELS
    assert len(parotid.notes) == 1


def test_closing_and_repeated_points_are_harmless(rt, grid, tmp_path):
    points = np.repeat(np.concatenate([rt.square(0.0), rt.square(0.0)[:1]]), 2, axis=0)
    _, parotid = read_one(rt, tmp_path, grid, [rt.contour(points)])
    assert parotid.mask.sum() == SQUARE_VOXELS
    assert parotid.notes == ()


def test_a_wrong_number_of_points_and_a_missing_type_are_said(rt, grid, tmp_path):
    def spoil(ds):
        del ds.ROIContourSequence[0].ContourSequence[1].ContourGeometricType

    _, parotid = read_one(
        rt,
        tmp_path,
        grid,
        [rt.contour(rt.square(0.0), NumberOfContourPoints=9), rt.contour(rt.square(3.0))],
        edit=spoil,
    )
    assert parotid.mask.sum() == 2 * SQUARE_VOXELS
    assert parotid.notes == (
        "a contour states 9 points and has 4; all were taken",
        "a contour has no type; taken as closed",
    )


@pytest.mark.parametrize("crossing", ["itself", "another"])
def test_crossing_contours_are_filled_by_the_even_odd_rule_and_said(rt, grid, tmp_path, crossing):
    corners = rt.square(0.0)
    contours = (
        [rt.contour(corners[[0, 2, 1, 3]])]
        if crossing == "itself"
        else [rt.contour(corners), rt.contour(rt.square(0.0, centre=(18.0, 5.0)))]
    )
    _, parotid = read_one(rt, tmp_path, grid, contours)
    assert parotid.mask.sum() == pytest.approx(128 if crossing == "itself" else 256, abs=10)
    assert "cross" in parotid.notes[0]


def test_lower_case_types_and_other_transfer_syntaxes(rt, grid, tmp_path):
    file = rt.File({"Parotid_L": [rt.contour(rt.square(0.0), "closed_planar")]})
    dataset = file.dataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(tmp_path / "big.dcm", dataset, implicit_vr=False, little_endian=False)
    assert read_rtstruct(tmp_path / "big.dcm", grid).structures[0].mask.sum() == SQUARE_VOXELS


def test_a_file_without_preamble(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt)}).write(tmp_path / "rs.dcm")
    dataset = pydicom.dcmread(path)
    bare = Dataset()
    bare.update(dataset)
    pydicom.dcmwrite(tmp_path / "bare.dcm", bare, implicit_vr=True, little_endian=True)
    assert read_rtstruct(tmp_path / "bare.dcm", grid).structures[0].mask.sum() == 3 * SQUARE_VOXELS


def test_structures_without_contours_are_listed(rt, grid, tmp_path):
    def drop(ds):
        del ds.ROIContourSequence[2]
        del ds.ROIContourSequence[1].ContourSequence

    path = rt.File({"Parotid_L": block(rt), "Brainstem": [], "Lens_L": [], "Lens_R": []}, edit=drop)
    found = read_rtstruct(path.write(tmp_path / "rs.dcm"), grid)
    assert [s.notes for s in found.structures] == [(), ("no contours",), ("no contours",), ("no contours",)]
    assert not found.find("lens_l").mask.any()


def test_contours_of_an_unlisted_structure_are_kept(rt, grid, tmp_path):
    def unlist(ds):
        del ds.StructureSetROISequence[1]

    path = rt.File({"Parotid_L": block(rt), "Brainstem": block(rt, half=4.0)}, edit=unlist)
    found = read_rtstruct(path.write(tmp_path / "rs.dcm"), grid)
    assert [s.name for s in found.structures] == ["Parotid_L", "unlisted ROI 2"]
    assert found.structures[1].mask.sum() == 3 * 64
    assert found.unmapped == ("unlisted ROI 2",)


def test_a_listed_structure_without_number_does_not_take_the_contours_of_others(rt, grid, tmp_path):
    def spoil(ds):
        del ds.StructureSetROISequence[0].ROINumber

    found = read_rtstruct(rt.File({"Parotid_L": block(rt)}, edit=spoil).write(tmp_path / "rs.dcm"), grid)
    assert [(s.name, bool(s.crop.any())) for s in found.structures] == [("Parotid_L", False), ("unlisted ROI 1", True)]


@pytest.mark.parametrize("colour", [None, [1, 2], [256, 0, 0], [-1, 0, 0]])
def test_a_bad_colour_is_no_colour(rt, grid, tmp_path, colour):
    def spoil(ds):
        ds.ROIContourSequence[0].ROIDisplayColor = colour

    assert read_one(rt, tmp_path, grid, block(rt), edit=spoil)[1].colour is None


def test_contours_at_and_beyond_the_image_edge(rt, grid, tmp_path):
    edge = [rt.contour(rt.square(0.0, centre=(40.0, 0.0))), rt.contour(rt.square(3.0, centre=(200.0, 0.0)))]
    _, parotid = read_one(rt, tmp_path, grid, edge)
    assert parotid.mask.sum() == SQUARE_VOXELS // 2
    assert set(parotid.notes) == {
        "1 contour(s) reach outside the image; cut at its edge",
        "1 of 2 contour(s) lie outside the image",
    }


def test_a_structure_too_small_for_the_voxels_is_said(rt, grid, tmp_path):
    _, lens = read_one(rt, tmp_path, grid, [rt.contour(rt.square(0.0, half=0.3, centre=(10.0, 5.0)))], "Lens_L")
    assert any("small for the image's voxels" in note for note in lens.notes)


# --- which image it belongs to ----------------------------------------------------------------------------------------


def test_another_frame_of_reference_is_refused_unless_allowed(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt)}, frame="1.2.3").write(tmp_path / "rs.dcm")
    assert refusal(path, grid).code == "E_FRAME_OF_REFERENCE"
    assert read_rtstruct(path, grid, RTStructRules(any_frame=True)).structures[0].crop.any()


def test_single_structures_of_another_frame_are_left_out(rt, grid, tmp_path):
    def move(ds):
        ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"

    path = rt.File({"Parotid_L": block(rt), "Brainstem": block(rt)}, edit=move).write(tmp_path / "rs.dcm")
    found = read_rtstruct(path, grid)
    assert [bool(s.crop.any()) for s in found.structures] == [True, False]
    assert found.structures[1].notes == ("other frame of reference than the image; left out",)


def test_missing_frames_of_reference_are_said(rt, grid, tmp_path):
    def strip(ds):
        del ds.ReferencedFrameOfReferenceSequence
        del ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID

    found, parotid = read_one(rt, tmp_path, grid, block(rt), edit=strip)
    assert parotid.mask.sum() == 3 * SQUARE_VOXELS
    assert "states no frame of reference" in found.notes[0]
    assert found.frame_of_reference is None
    unknown = Geometry(grid.shape_zyx, grid.affine)
    found, _ = read_one(rt, tmp_path, unknown, block(rt))
    assert "the image has no frame of reference" in found.notes[0]


def test_the_referenced_series_is_checked(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt)}).write(tmp_path / "rs.dcm")
    assert read_rtstruct(path, grid, RTStructRules(series_uid=rt.SERIES)).notes == ()
    found = read_rtstruct(path, grid, RTStructRules(series_uid="1.2.3"))
    assert found.notes == ("the structure set was drawn on another series of the same frame of reference",)
    unknown = Geometry(grid.shape_zyx, grid.affine)
    assert refusal(path, unknown, series_uid="1.2.3").code == "E_OTHER_SERIES"


def test_a_folder_with_one_or_several_structure_sets(rt, grid, tmp_path):
    rt.File({"Parotid_L": block(rt)}).write(tmp_path / "a.dcm")
    (tmp_path / "notes.txt").write_text("no DICOM")
    assert read_rtstruct(tmp_path, grid).structures[0].crop.any()
    rt.File({"Parotid_L": block(rt)}, frame="1.2.3", series="1.2.4").write(tmp_path / "b.dcm")
    assert len(find_structure_sets(tmp_path)) == 2
    assert read_rtstruct(tmp_path, grid).series_uids == (rt.SERIES,)
    assert read_rtstruct(tmp_path, grid, RTStructRules(series_uid="1.2.4", any_frame=True)).series_uids == ("1.2.4",)
    rt.File({"Brainstem": block(rt)}).write(tmp_path / "c.dcm")
    assert refusal(tmp_path, grid).code == "E_MULTIPLE_STRUCTURE_SETS"


# --- what is refused --------------------------------------------------------------------------------------------------


def no_rois(ds):
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []


def no_contours(ds):
    del ds.ROIContourSequence


def only_points(ds):
    for item in ds.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = "POINT"


def same_number(ds):
    ds.StructureSetROISequence.append(ds.StructureSetROISequence[0])


def a_ct(ds):
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.Modality = "CT"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (no_rois, "E_NO_STRUCTURES"),
        (no_contours, "E_NO_CONTOURS"),
        (only_points, "E_NO_CONTOURS"),
        (same_number, "E_DUPLICATE_ROI"),
        (a_ct, "E_NOT_RTSTRUCT"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_spoilt_structure_sets_are_refused(rt, grid, tmp_path, spoil, code):
    path = rt.File({"Parotid_L": block(rt)}, edit=spoil).write(tmp_path / "rs.dcm")
    assert refusal(path, grid).code == code


def test_contours_of_another_place_are_refused(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt, centre=(900.0, 0.0))}).write(tmp_path / "rs.dcm")
    assert refusal(path, grid).code == "E_OUTSIDE_IMAGE"


@pytest.mark.parametrize("undefined_length", [False, True])
def test_a_file_cut_short_anywhere_is_refused(rt, grid, tmp_path, undefined_length):
    """Part of the contours must never pass for all of them."""

    def open_ended(ds):
        for sequence in (ds.StructureSetROISequence, ds.ROIContourSequence):
            sequence.is_undefined_length = undefined_length

    path = rt.File({"Parotid_L": block(rt), "Brainstem": block(rt, half=4.0)}, edit=open_ended).write(tmp_path / "rs")
    data = path.read_bytes()
    for share in np.linspace(0.15, 0.995, 30):
        path.write_bytes(data[: int(share * len(data))])
        assert refusal(path, grid).code in ("E_UNREADABLE", "E_NO_STRUCTURES", "E_NO_CONTOURS", "E_NOT_RTSTRUCT")


def test_other_files_are_refused(rt, grid, tmp_path):
    (tmp_path / "text.dcm").write_text("no DICOM at all, but rather long " * 20)
    (tmp_path / "empty.dcm").write_bytes(b"")
    assert refusal(tmp_path / "text.dcm", grid).code in ("E_NOT_RTSTRUCT", "E_UNREADABLE")
    assert refusal(tmp_path / "empty.dcm", grid).code in ("E_NOT_RTSTRUCT", "E_UNREADABLE")
    assert refusal(tmp_path / "absent.dcm", grid).code == "E_UNREADABLE"
    (tmp_path / "folder").mkdir()
    assert refusal(tmp_path / "folder", grid).code == "E_NO_STRUCTURES"


def test_damaged_bytes_never_end_in_a_traceback(rt, grid, tmp_path):
    path = rt.File({"Parotid_L": block(rt), "Brainstem": block(rt, half=4.0)}).write(tmp_path / "rs.dcm")
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    rng = np.random.default_rng(7)
    codes = set()
    for _ in range(120):
        spoilt = data.copy()
        at = rng.integers(132, data.size, size=rng.integers(1, 12))
        spoilt[at] = rng.integers(0, 256, size=at.size)
        path.write_bytes(spoilt.tobytes())
        try:
            found = read_rtstruct(path, grid)
            assert all(structure.mask.shape == grid.shape_zyx for structure in found.structures)
        except FocusNetError as error:
            codes.add(error.code)
    assert "E_UNREADABLE" in codes
