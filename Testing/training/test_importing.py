"""Import: every format gives the same organs in the same places, faults stay with their patient, no name is kept."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet import cli
from focusnet.errors import FocusNetError
from focusnet.evaluation.masks import CroppedMask, OrganMasks
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.io.dicom import read_series_reference
from focusnet.io.image import write_image
from focusnet.io.rtstruct import write_rtstruct
from focusnet.io.segmentation import Segment, Segmentation, write_segmentation
from focusnet_training.datasets import read_case, read_dataset
from focusnet_training.importing import ImportOptions, import_scans
from focusnet_training.scan_reading import KEYS, ScanRules, exclusive_labels, place_on
from focusnet_training.scans import Choice
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (14, 40, 44)
GRID = Geometry.from_parts(SHAPE, (4.0, 4.0, 5.0), (-86.0, -78.0, -30.0))
ORGANS = ("brainstem", "eye_l", "lens_l", "parotid_l", "parotid_r")
SECRETS = ("Doe", "SECRET", "1955", "Mustermann")


def ct():
    _, y, x = np.indices(SHAPE)
    radius = np.hypot((y - 20) / 15, (x - 22) / 17)
    hu = np.where(radius < 1, 40, -1000) + np.where(radius < 0.3, 500, 0)
    noisy = hu + np.random.default_rng(7).normal(0, 15, SHAPE)
    return Volume(np.maximum(noisy, -1024).astype(np.int16), GRID)


def masks():
    """Organs as a clinic draws them: the lens inside the eye. +x is the patient's left."""
    found = {key: np.zeros(SHAPE, bool) for key in ORGANS}
    found["brainstem"][3:9, 20:25, 20:25] = True
    found["eye_l"][8:12, 6:12, 25:31] = True
    found["lens_l"][9:11, 6:8, 27:29] = True
    found["parotid_l"][2:8, 18:26, 33:37] = True
    found["parotid_r"][2:8, 18:26, 6:11] = True
    return found


def truth():
    """Exclusive labels of the same organs."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, mask in enumerate(masks().values(), start=1):
        labels[mask] = value
    return LabelMap(labels, GRID, dict(enumerate(ORGANS, start=1)))


def write_dicom(folder, volume, patient_id="SECRET-1", series=None):
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = generate_uid(), series or generate_uid(), generate_uid()
    for k, plane in enumerate(volume.array):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", patient_id, "19550101"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 1, k + 1
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [float(v) for v in volume.geometry.index_to_world((k, 0, 0))]
        ds.PixelSpacing = [4.0, 4.0]
        ds.Rows, ds.Columns = plane.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleIntercept, ds.RescaleSlope = 0, 1
        ds.PixelData = plane.tobytes()
        ds.save_as(folder / f"{series}.{k}.dcm", enforce_file_format=True)


def segmentation(extra=()):
    return Segmentation(GRID, [Segment(key, mask) for key, mask in masks().items()] + list(extra))


def slicer_patient(folder, extra=()):
    write_image(ct(), folder / "ct.nrrd")
    write_segmentation(segmentation(extra), folder / "drawn.seg.nrrd")


def dicom_patient(folder, patient_id="SECRET-1"):
    write_dicom(folder / "CT", ct(), patient_id)
    write_rtstruct(segmentation(), read_series_reference(folder / "CT"), folder / "RS.dcm")


def labelmap_patient(folder):
    """CT and label map with the x axis running to the right."""
    for item, name in ((ct(), "image.nii.gz"), (Volume(truth().array, GRID), "organs.nii.gz")):
        flipped = sitk.Flip(to_sitk(item), (True, False, False))
        folder.mkdir(exist_ok=True)
        sitk.WriteImage(flipped, str(folder / name))
    names = {"labels": {str(value): key for value, key in truth().organs.items()}}
    (folder / "organs.labels.json").write_text(json.dumps(names))


def to_sitk(item):
    image = sitk.GetImageFromArray(item.array)
    image.SetSpacing(item.geometry.spacing_xyz)
    image.SetOrigin(item.geometry.origin_xyz)
    return image


def masks_patient(folder):
    write_image(ct(), folder / "img.nrrd")
    for key, mask in masks().items():
        write_image(Volume(mask.astype(np.uint8), GRID), folder / "structures" / f"{key}.nrrd")


PATIENTS = {
    "slicer": slicer_patient,
    "dicom": dicom_patient,
    "labelmap": labelmap_patient,
    "masks": masks_patient,
}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A patient in each format, in one source folder; don't change it."""
    source = tmp_path_factory.mktemp("clinic") / "Mustermann study"
    source.mkdir()
    for name, write in PATIENTS.items():
        write(source / f"Mustermann {name}")
    return source


@pytest.fixture(scope="module")
def imported(clinic, tmp_path_factory):
    out = tmp_path_factory.mktemp("imported") / "data"
    return import_scans(clinic, out, ImportOptions("Clinic")), read_dataset(out, fold=None), out


def test_every_format_gives_the_same_organs_in_the_same_places(imported):
    report, dataset, _ = imported
    assert [scan.error for scan in report.scans] == [None] * 4
    assert report.annotated == dict.fromkeys(dataset.organs, 4)
    assert set(dataset.organs) == set(ORGANS)
    expected = truth()
    for name, case in dataset.cases.items():
        image, labels = read_case(dataset, name)
        assert case.annotated == case.scored == set(ORGANS)
        for key in ORGANS:
            index = np.argwhere(labels.mask(key))
            world = image.geometry.index_to_world(index)
            wanted = GRID.index_to_world(np.argwhere(expected.mask(key)))
            assert len(index) == len(wanted), (name, key)
            np.testing.assert_allclose(world.mean(0), wanted.mean(0), atol=1e-3)
            hu = image.array[labels.mask(key)]
            assert sorted(hu) == sorted(ct().array[expected.mask(key)]), "labels lie on the same tissue"


def test_left_organs_are_on_the_left_of_the_patient(imported):
    _, dataset, _ = imported
    for name in dataset.cases:
        image, labels = read_case(dataset, name)
        left, right = (
            image.geometry.index_to_world(np.argwhere(labels.mask(key))).mean(0)[0]
            for key in ("parotid_l", "parotid_r")
        )
        assert left > 0 > right


def test_layout_is_that_of_nnunet_with_consecutive_labels(imported):
    report, _, out = imported
    description = json.loads((out / "dataset.json").read_text())
    assert list(description["labels"].values()) == list(range(len(ORGANS) + 1))
    assert description["numTraining"] == 4
    assert sorted(p.name for p in (out / "imagesTr").iterdir()) == [f"case_000{n}_0000.nrrd" for n in (1, 2, 3, 4)]
    details = json.loads((out / "cases.json").read_text())["cases"]
    assert [detail["patient"] for detail in details.values()] == [f"patient_000{n}" for n in (1, 2, 3, 4)]
    assert report.patients == 4


def test_nothing_identifying_is_in_the_data_set(imported):
    _, _, out = imported
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == 10
    for path in files:
        content = path.read_bytes() + path.name.encode()
        if path.suffix == ".nrrd":
            image = sitk.ReadImage(str(path))
            content += repr([(k, image.GetMetaData(k)) for k in image.GetMetaDataKeys()]).encode()
        for secret in SECRETS:
            assert secret.encode() not in content, path.name


def test_the_lens_keeps_its_voxels_in_the_eye_and_it_is_told(imported):
    report, _, _ = imported
    lens = int(masks()["lens_l"].sum())
    for scan, name in zip(report.scans, sorted(PATIENTS), strict=True):
        told = [note for note in scan.notes if "lens_l keeps" in note]
        # A label map has no overlap to tell of.
        wanted = [] if name == "labelmap" else [f"lens_l keeps {lens} voxels that also belong to eye_l."]
        assert told == wanted, name


def test_smaller_organ_wins_by_hand():
    def box(*slices):
        array = np.zeros((4, 4, 4), bool)
        array[slices] = True
        return CroppedMask.of(array)

    grid = Geometry.from_parts((4, 4, 4))
    organs = {"lens_l": box(0, 0, slice(0, 2)), "eye_l": box(0, 0), "brain": box(0), "brainstem": box(1, 1, 1)}
    labels, notes = exclusive_labels(OrganMasks(grid, organs))
    counts = {key: int(labels.mask(key).sum()) for key in organs}
    assert counts == {"lens_l": 2, "eye_l": 2, "brain": 12, "brainstem": 1}
    assert notes == [
        "eye_l keeps 4 voxels that also belong to brain.",
        "lens_l keeps 2 voxels that also belong to eye_l.",
    ]
    twice = {"eye_l": box(0, 0), "eye_r": box(0, 0)}
    labels, notes = exclusive_labels(OrganMasks(grid, twice))
    assert labels.mask("eye_l").sum() == 0
    assert notes == [
        "eye_r keeps 4 voxels that also belong to eye_l; nothing is left of eye_l, which counts as not annotated."
    ]
    assert list(KEYS).index("eye_l") < list(KEYS).index("eye_r")


def test_what_lies_outside_the_ct_is_measured():
    small = Geometry.from_parts((4, 4, 4))
    mask = CroppedMask.of(np.ones((2, 2, 4), bool), (0, 0, 1))
    placed, inside = place_on(OrganMasks(small, {"eye_l": mask}), small)
    assert inside == {"eye_l": 0.75}
    assert placed.masks["eye_l"].array.shape == (2, 2, 3)


def test_bad_patients_do_not_stop_the_others(clinic, tmp_path):
    source = tmp_path / "source"
    slicer_patient(source / "a good", extra=[Segment("Tumour 7", masks()["brainstem"])])
    write_image(ct(), source / "b nothing drawn" / "ct.nrrd")
    write_segmentation(segmentation(), source / "c no ct" / "drawn.seg.nrrd")
    slicer_patient(source / "d not a number")
    array = ct().array.astype(np.float32)
    array[0, 0, 0] = np.nan
    sitk.WriteImage(to_sitk(Volume(array, GRID)), str(source / "d not a number" / "ct.nrrd"))
    for name, same_series in (("e other frame", True), ("e other series", False)):
        dicom_patient(source / name)
        files = list((source / name / "CT").iterdir())
        series = files[0].name.rsplit(".", 2)[0]
        for path in files:
            path.unlink()
        write_dicom(source / name / "CT", ct(), series=series if same_series else None)
    slicer_patient(source / "f elsewhere")
    far = GRID.transformed([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_image(Volume(ct().array, far), source / "f elsewhere" / "ct.nrrd", overwrite=True)
    slicer_patient(source / "g two drawings")
    write_segmentation(segmentation(), source / "g two drawings" / "second.seg.nrrd")
    (source / "h damaged").mkdir()
    (source / "h damaged" / "ct.nrrd").write_bytes(b"NRRD0005\nnothing")
    (source / "h damaged" / "x.seg.nrrd").write_bytes(b"NRRD0005\nnothing")
    slicer_patient(source / "z good")
    report = import_scans(source, tmp_path / "out")
    assert [scan.error and scan.error[0] for scan in report.scans] == [
        None, "E_NO_LABELS", "E_NO_CT", "E_NON_FINITE", "E_FRAME_OF_REFERENCE", "E_OTHER_SERIES", "E_BAD_GEOMETRY",
        "E_AMBIGUOUS_CASE", "E_UNREADABLE", None,
    ]  # fmt: skip
    assert sorted(read_dataset(tmp_path / "out").cases) == ["case_0001", "case_0010"]
    assert report.unmapped == {"Tumour 7": 1}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_choosing_among_several_drawings(tmp_path):
    slicer_patient(tmp_path / "source" / "p")
    only = Segmentation(GRID, [Segment("parotid_l", masks()["parotid_l"])])
    write_segmentation(only, tmp_path / "source" / "p" / "second.seg.nrrd")
    options = ImportOptions(rules=ScanRules(choice=Choice(labels="second*")))
    assert import_scans(tmp_path / "source", tmp_path / "out", options).scans[0].organs == ("parotid_l",)


def test_own_names_and_chosen_organs(tmp_path):
    extra = [Segment("OhrSpeichel re", masks()["parotid_r"]), Segment("Kirsche", masks()["brainstem"])]
    write_image(ct(), tmp_path / "source" / "p" / "ct.nrrd")
    drawn = Segmentation(GRID, [Segment("Parotis links", masks()["parotid_l"]), *extra])
    write_segmentation(drawn, tmp_path / "source" / "p" / "drawn.seg.nrrd")
    report = import_scans(tmp_path / "source", tmp_path / "plain")
    assert report.unmapped == {"OhrSpeichel re": 1, "Kirsche": 1}
    assert report.scans[0].organs == ("parotid_l",)
    rules = ScanRules(spellings={"OhrSpeichel re": "parotid_r", "Kirsche": ""})
    report = import_scans(tmp_path / "source", tmp_path / "table", ImportOptions(rules=rules))
    assert report.unmapped == {}
    assert report.scans[0].organs == ("parotid_l", "parotid_r")
    rules = ScanRules(organs=("parotid_r",), spellings=rules.spellings)
    report = import_scans(tmp_path / "source", tmp_path / "one", ImportOptions(rules=rules))
    assert read_dataset(tmp_path / "one", fold=None).labels == {1: "parotid_r"}


def test_a_cropped_or_flipped_segmentation_lies_where_it_belongs(tmp_path):
    write_image(ct(), tmp_path / "source" / "crop" / "ct.nrrd")
    box = CroppedMask.of(truth().array > 0).box
    write_segmentation(truth().crop(box), tmp_path / "source" / "crop" / "drawn.seg.nrrd")
    write_image(ct(), tmp_path / "source" / "flip" / "ct.nrrd")
    mirror = GRID.affine @ np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = GRID.index_to_world((0, 0, SHAPE[2] - 1))
    flipped = LabelMap(truth().array[:, :, ::-1].copy(), Geometry(SHAPE, mirror), truth().organs)
    write_segmentation(flipped, tmp_path / "source" / "flip" / "drawn.seg.nrrd")
    report = import_scans(tmp_path / "source", tmp_path / "out")
    dataset = read_dataset(tmp_path / "out", fold=None)
    for name in dataset.cases:
        _, labels = read_case(dataset, name)
        for key in ORGANS:
            np.testing.assert_array_equal(labels.mask(key), truth().mask(key))
    assert not any("another grid" in note for note in report.scans[0].notes)
    assert any("another grid" in note for note in report.scans[1].notes)


def test_scans_of_one_patient_stay_together(tmp_path):
    source = tmp_path / "source"
    slicer_patient(source / "p1" / "before")
    slicer_patient(source / "p1" / "after")
    dicom_patient(source / "p2", "SECRET-2")
    dicom_patient(source / "p2 again", "SECRET-2")
    dicom_patient(source / "p3", "SECRET-3")
    report = import_scans(source, tmp_path / "out")
    assert [scan.source for scan in report.scans] == ["p1/after", "p1/before", "p2", "p2 again", "p3"]
    patients = [case.patient for case in read_dataset(tmp_path / "out").cases.values()]
    assert patients == [f"patient_000{n}" for n in (1, 1, 2, 2, 3)]


def test_one_id_for_all_is_an_anonymised_export(tmp_path):
    dicom_patient(tmp_path / "source" / "a", "ANON")
    dicom_patient(tmp_path / "source" / "b", "ANON")
    assert import_scans(tmp_path / "source", tmp_path / "out").patients == 2


def test_of_two_series_the_one_that_was_drawn_on_is_taken(tmp_path):
    folder = tmp_path / "source" / "p"
    dicom_patient(folder)
    write_dicom(folder / "other phase", Volume((ct().array // 2).astype(np.int16), GRID))
    import_scans(tmp_path / "source", tmp_path / "out")
    dataset = read_dataset(tmp_path / "out", fold=None)
    np.testing.assert_array_equal(read_case(dataset, "case_0001")[0].array, ct().array)


def test_pairs_of_files_in_one_folder(tmp_path):
    for name in ("anna", "bert"):
        write_image(ct(), tmp_path / "source" / f"{name}_ct.nrrd")
        write_segmentation(segmentation(), tmp_path / "source" / f"{name}.seg.nrrd")
    report = import_scans(tmp_path / "source", tmp_path / "out")
    assert [(scan.source, scan.error) for scan in report.scans] == [("anna", None), ("bert", None)]
    assert report.patients == 2


def test_swapped_sides_are_noted(tmp_path):
    drawn = masks()
    drawn["parotid_l"], drawn["parotid_r"] = drawn["parotid_r"], drawn["parotid_l"]
    write_image(ct(), tmp_path / "source" / "p" / "ct.nrrd")
    write_segmentation(
        Segmentation(GRID, [Segment(k, m) for k, m in drawn.items()]), tmp_path / "source" / "p" / "x.seg.nrrd"
    )
    report = import_scans(tmp_path / "source", tmp_path / "out")
    assert any(note.endswith("[sides_swapped]") for note in report.scans[0].notes)


def test_mapping_only_on_request_and_outside_the_data(clinic, tmp_path):
    mapping = tmp_path / "mapping.json"
    import_scans(clinic, tmp_path / "out", ImportOptions(mapping=mapping))
    assert json.loads(mapping.read_text())["case_0001"] == "Mustermann dicom"
    with pytest.raises(FocusNetError) as caught:
        import_scans(clinic, tmp_path / "again", ImportOptions(mapping=tmp_path / "again" / "mapping.json"))
    assert caught.value.code == "E_USAGE"
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("when", ["existing", "empty", "all bad", "stopped"])
def test_a_refused_import_leaves_nothing(clinic, tmp_path, when):
    source, out, progress = clinic, tmp_path / "out", None
    error: type[BaseException] = FocusNetError
    if when == "existing":
        out.mkdir()
    elif when == "empty":
        source = tmp_path / "nowhere"
        source.mkdir()
    elif when == "all bad":
        write_image(ct(), tmp_path / "source" / "p" / "ct.nrrd")
        source = tmp_path / "source"
    else:
        error = KeyboardInterrupt

        def progress(*_):
            raise KeyboardInterrupt

    with pytest.raises(error) as caught:
        import_scans(source, out, progress=progress)
    codes = {"existing": "E_OUTPUT_EXISTS", "empty": "E_NO_CASES", "all bad": "E_NO_CASES"}
    if when in codes:
        assert caught.value.code == codes[when]
    assert list(tmp_path.rglob("case_*")) == []
    assert not list(tmp_path.glob(".*"))


def test_command_line(clinic, tmp_path, capsys):
    slicer_patient(tmp_path / "source" / "a")
    write_image(ct(), tmp_path / "source" / "b" / "ct.nrrd")
    assert cli.run(["import", str(tmp_path / "source"), "-o", str(tmp_path / "out"), "--organs", "Lens_L, eye_l"]) == 1
    told = capsys.readouterr()
    assert "case_0002 (b): E_NO_LABELS: Nothing is drawn" in told.err
    assert told.out.splitlines()[-1] == "1 of 2 scans of 1 patients imported."
    assert cli.run(["import", str(clinic), "-o", str(tmp_path / "json"), "--json", "-q"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["patients"] == 4
    assert answer["annotated"]["lens_l"] == 4


def test_a_dicom_ct_with_a_label_map_beside_it(tmp_path):
    source = tmp_path / "source"
    for number in range(2):
        patient = source / f"p{number}"
        write_dicom(patient / "dicom", ct(), f"SECRET-{number}")
        labelmap_patient(patient)
        (patient / "image.nii.gz").unlink()
        (patient / "organs.labels.json").unlink()
    rules = ScanRules(label_names=truth().organs)
    import_scans(source, tmp_path / "out", ImportOptions(rules=rules))
    dataset = read_dataset(tmp_path / "out", None)
    assert len(dataset.cases) == 2
    for name in dataset.cases:
        image, labels = read_case(dataset, name)
        np.testing.assert_allclose(image.array, ct().array, atol=1)
        assert centre_x(labels, "parotid_l") > centre_x(labels, "parotid_r")


def centre_x(labels, key):
    return labels.geometry.index_to_world(np.argwhere(labels.mask(key))).mean(0)[0]


def test_the_scans_themselves_are_never_replaced(tmp_path):
    source = tmp_path / "clinic"
    slicer_patient(source / "p1")
    for out in (source, tmp_path):
        with pytest.raises(FocusNetError, match="would replace the scans") as caught:
            import_scans(source, out, ImportOptions(overwrite=True))
        assert caught.value.code == "E_USAGE"
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").touch()
    with pytest.raises(FocusNetError, match="holds something else"):
        import_scans(source, tmp_path / "papers", ImportOptions(overwrite=True))
    assert (source / "p1" / "ct.nrrd").exists()
    assert (tmp_path / "papers" / "thesis.txt").exists()
