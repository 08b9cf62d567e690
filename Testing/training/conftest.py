"""A tiny data set of blobs: two large organs and a small one on each side, in nnU-Net v2 raw layout."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

LABELS = {"background": 0, "Brainstem": 1, "Parotid_L": 2, "Lens_L": 3, "Lens_R": 4}
SHAPE = (16, 40, 40)
SPACING_XYZ = (4.0, 4.0, 4.0)


def blob_case(rng):
    """CT and labels: a soft-tissue head in air, organs as bright balls; +x (the array's end) is the patient's left."""
    z, y, x = np.indices(SHAPE)
    ct = np.full(SHAPE, -1000, np.int16)
    ct[((y - 20) / 17) ** 2 + ((x - 20) / 17) ** 2 < 1] = 0
    labels = np.zeros(SHAPE, np.uint8)
    shift = rng.uniform(-1, 1, 3)
    for value, centre, radius in (
        (1, (8, 22, 20), 5),
        (2, (8, 22, 30), 4),
        (3, (8, 10, 25), 1.6),
        (4, (8, 10, 15), 1.6),
    ):
        cz, cy, cx = np.add(centre, shift)
        ball = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        ct[ball] = (0, 150, 300, 600, 600)[value]
        labels[ball] = value
    ct += rng.normal(0, 10, SHAPE).astype(np.int16)
    return ct, labels


def write_blobs(folder, cases=6, annotated=None):
    """Write the data set; ``annotated`` maps case names to lists of drawn organs (others lose their label)."""
    annotated = annotated or {}
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    details = {}
    for number in range(cases):
        name = f"blob_{number}"
        ct, labels = blob_case(np.random.default_rng(number))
        drawn = annotated.get(name, list(LABELS)[1:])
        labels[~np.isin(labels, [LABELS[o] for o in drawn])] = 0
        for array, path in ((ct, f"imagesTr/{name}_0000.nrrd"), (labels, f"labelsTr/{name}.nrrd")):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(SPACING_XYZ)
            sitk.WriteImage(image, str(folder / path))
        details[name] = {"split": "validation" if number >= cases - 2 else "training", "annotated": drawn}
    (folder / "dataset.json").write_text(json.dumps({"name": "blobs", "labels": LABELS, "file_ending": ".nrrd"}))
    (folder / "cases.json").write_text(json.dumps({"cases": details}))
    return folder


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def make_blobs():
    return write_blobs
