import itertools

import numpy as np
import pytest
from focusnet import organs, pictures
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.pictures import contour_views
from matplotlib.image import imread

CENTRES_MM = {"parotid_l": (40.0, 0.0, 0.0), "brainstem": (0.0, 30.0, 25.0), "mandible": (0.0, -35.0, -25.0)}
RADIUS_MM = 14.0


def patient(geometry: Geometry) -> tuple[Volume, LabelMap]:
    """A cylinder with balls at the patient's left, at the back and top, and in front and below."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape_zyx], indexing="ij"), -1)
    world = geometry.index_to_world(index)
    hu = np.where(np.hypot(world[..., 0] / 70, world[..., 1] / 60) < 1, 0, -1000).astype(np.int16)
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for value, centre in enumerate(CENTRES_MM.values(), start=1):
        labels[np.linalg.norm(world - centre, axis=-1) < RADIUS_MM] = value
    return Volume(hu, geometry), LabelMap(labels, geometry, dict(enumerate(CENTRES_MM, start=1)))


def geometry(permutation=(0, 1, 2), signs=(1, 1, 1), spacing=(2.0, 2.5, 5.0)) -> Geometry:
    direction = np.eye(3)[:, permutation] * signs
    shape = tuple(int(n) for n in np.ceil(160 / np.array(spacing))[::-1])
    middle = direction @ (np.array(spacing) * (np.array(shape[::-1]) - 1) / 2)
    return Geometry.from_parts(shape, spacing, -middle, direction)


def places(path, key: str) -> list[tuple[float, float, float, float]]:
    """Box (left, right, top, bottom) of an organ's colour in each of the three pictures that show it."""
    picture = imread(path)[:, :, :3]
    legend = int(picture.shape[0] * 0.75)
    colour = np.array(organs.organ(key).colour) / 255
    hits = np.abs(picture[:legend] - colour).max(axis=2) < 0.06
    found = []
    thirds = np.linspace(0, picture.shape[1], 4).astype(int)
    for start, stop in itertools.pairwise(thirds):
        rows, columns = np.nonzero(hits[:, start:stop])
        if rows.size:
            found.append((columns.min() + start, columns.max() + start, rows.min(), rows.max()))
    return found


ORIENTATIONS = [
    ((0, 1, 2), (1, 1, 1)),
    ((0, 1, 2), (-1, -1, 1)),
    ((1, 2, 0), (1, -1, -1)),
    ((2, 0, 1), (-1, 1, 1)),
]


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_left_is_right_and_head_is_up_in_every_orientation(tmp_path, monkeypatch, permutation, signs):
    frame = np.array([(-80.0, -80.0, -80.0), (80.0, 80.0, 80.0)])
    monkeypatch.setattr(pictures, "_bounds", lambda *_: frame)
    volume, labels = patient(geometry(permutation, signs))
    for key in CENTRES_MM:
        value = labels.label_of(key)
        alone = LabelMap(np.where(labels.array == value, value, 0).astype(np.uint8), labels.geometry, {value: key})
        contour_views(volume, alone, tmp_path / f"{key}.png")
    left, back_top, front_low = (places(tmp_path / f"{key}.png", key) for key in CENTRES_MM)
    width = imread(tmp_path / "parotid_l.png").shape[1]
    assert len(left) == len(back_top) == len(front_low) == 3
    axial, coronal, sagittal = range(3)
    # The patient's left lies to the right of the middle, which the brain stem marks.
    assert left[axial][0] > back_top[axial][1] - 5
    assert left[coronal][0] > back_top[coronal][1] - 5
    # The back lies below in the axial picture and to the right in the sagittal one.
    assert back_top[axial][2] > front_low[axial][3]
    assert back_top[sagittal][0] > front_low[sagittal][1]
    assert all(box[1] < width for box in back_top)
    # The head is up.
    assert back_top[coronal][3] < front_low[coronal][2]
    assert back_top[sagittal][3] < front_low[sagittal][2]


def test_a_ball_is_round_whatever_the_spacing(tmp_path):
    volume, labels = patient(geometry(spacing=(1.5, 2.5, 5.0)))
    contour_views(volume, labels, tmp_path / "x.png")
    for left, right, top, bottom in places(tmp_path / "x.png", "parotid_l"):
        assert (right - left) / (bottom - top) == pytest.approx(1.0, abs=0.15)


def test_truth_is_drawn_where_the_segmentation_is_empty(tmp_path):
    volume, labels = patient(geometry())
    empty = LabelMap(np.zeros_like(labels.array), labels.geometry, labels.organs)
    contour_views(volume, empty, tmp_path / "x.png", truth=labels, title="Title")
    assert places(tmp_path / "x.png", "parotid_l") == []
    with pytest.raises(FocusNetError, match="E_EMPTY_IMAGE"):
        contour_views(volume, empty, tmp_path / "y.png")
    assert not (tmp_path / "y.png").exists()
