"""The report: complete, self-contained, safe, and its pictures true."""

import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from focusnet import DISCLAIMER, __version__
from focusnet.evaluation import EvaluationOptions, compare
from focusnet.evaluation.case import Row, evaluate_case, lay_over
from focusnet.evaluation.figures import Axis, Series, bland_altman, box_plot, interval, nice_step
from focusnet.evaluation.overlays import (
    AXIAL,
    CORONAL,
    cut,
    draw,
    edge_path,
    filled_path,
    make_overlays,
    png,
    windowed,
    worst_views,
)
from focusnet.evaluation.report import render_report
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.io.image import write_image
from focusnet.io.segmentation import write_segmentation
from focusnet.quality import Flag

VOID = {"meta", "br", "path", "rect", "circle", "line", "image"}


class Structure(HTMLParser):
    """Checks that every element is closed, and collects what the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"


@pytest.fixture
def result(tmp_path, blocks):
    """Three cases with everything that can go wrong, a second method, an observer and a CT."""
    left, right, lens = np.s_[2:6, 3:7, 8:12], np.s_[2:6, 3:7, 1:5], np.s_[8, 8, 8:10]
    full = {"parotid_l": left, "parotid_r": right, "lens_l": lens}
    variants = {
        "p1": full,
        "p2": {"parotid_l": np.s_[2:6, 3:7, 9:13], "parotid_r": right, "lens_l": None},
        "p3<&>": {"parotid_l": left, "parotid_r": np.s_[3:7, 3:7, 1:5], "lens_l": lens},
    }
    for case, places in variants.items():
        reference = {**full, "lens_l": None} if case.startswith("p3") else full
        write_segmentation(blocks(reference), tmp_path / "ref" / f"{case}.seg.nrrd")
        write_segmentation(blocks(places), tmp_path / "new" / f"{case}.seg.nrrd")
        write_segmentation(blocks(full), tmp_path / "other" / f"{case}.seg.nrrd")
        rng = np.random.default_rng(1)
        hu = np.where(rng.random((10, 12, 14)) > 0.4, 40, -1000).astype(np.int16)
        write_image(Volume(hu, blocks(full).geometry), tmp_path / "ct" / f"{case}_0000.nrrd")
    options = EvaluationOptions(
        name="ours", others={"theirs": tmp_path / "other"}, observer=tmp_path / "other", ct=tmp_path / "ct", jobs=1
    )
    return compare(tmp_path / "ref", tmp_path / "new", options)


def test_the_report_is_one_sound_page_that_loads_nothing(result):
    page = render_report(result)
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert structure.loads == []
    assert not re.search(r"https?://|@import|url\(", page)
    for part in ("summary", "organs", "distributions", "volumes", "worst", "methods", "small", "definitions"):
        assert f'<section id="{part}">' in page
    assert page.index('id="summary"') < page.index('id="organs"')
    assert "@media print" in page


def test_the_report_states_what_it_is_and_what_is_wrong(result):
    page = render_report(result)
    assert page.count(DISCLAIMER) == 2
    assert f"slicer-focusnet {__version__}" in page
    assert "Missed (1)</b><span>Left eye lens in p2" in page
    assert "Extra (1)</b><span>Left eye lens in p3&lt;&amp;&gt;" in page
    assert "p3<&>" not in page
    assert "second observer" in page
    assert "data:image/png;base64," in page  # the CT


def test_a_clean_result_says_so(result):
    rows = {"ours": tuple(row for row in result.rows["ours"] if row.case == "p1")}
    outcomes = tuple(replace(outcome, flags=()) for outcome in result.outcomes)
    page = render_report(replace(result, rows=rows, outcomes=outcomes, observer=(), tests=()))
    assert '<section id="flags">' not in page
    assert "<b>Complete</b>" in page
    assert '<section id="methods">' not in page
    assert "Observer 2" not in page


def test_flags_come_before_the_numbers(result):
    page = render_report(result)
    # The tiny CTs are no scans of a patient: an error in each of the three cases.
    assert [[f.code for f in outcome.flags if f.organ is None] for outcome in result.outcomes] == [["not_hu"]] * 3
    assert page.index("Only 0 ml are denser than") < page.index('<div class="cards">')
    assert page.index('<section id="flags">') < page.index('<section id="organs">')


def test_warnings_are_counted_in_the_summary_of_a_complete_result(result):
    rows = {"ours": tuple(row for row in result.rows["ours"] if row.case == "p1")}
    odd = Flag("touching", "eye_l", "warning", "Left eye: touches the mandible over 12 mm².")
    outcomes = tuple(replace(outcome, flags=(odd,)) for outcome in result.outcomes)
    page = render_report(replace(result, rows=rows, outcomes=outcomes, observer=(), tests=()))
    assert "Quality flags (3)</b><span>3 × touching</span>" in page
    assert "<b>Complete</b>" in page


def test_an_organ_that_no_case_holds_counts_in_no_mean(result):
    empty = tuple(Row(case, "larynx", "both_empty") for case in ("p1", "p2"))
    page = render_report(replace(result, rows={"ours": (*result.rows["ours"], *empty)}, observer=(), tests=()))
    assert "Empty on both sides (2)</b><span>Larynx in p1, p2</span>" in page
    assert "<td>Mean over organs</td><td>3</td>" in page


def test_the_caption_says_what_the_worst_slice_holds(result):
    captions = re.findall(r"p\d[^,]*, slice -?\d+: ([^<]*)<br>", render_report(result))
    # p2 misses the lens, and its left parotid gland is 1 of 4 voxels aside; the right one of p3 is 1 slice up.
    assert captions[:3] == ["reference only", "DSC 0.75", "reference only"]


def test_pictures_show_left_on_the_right_and_front_on_top(blocks):
    # One voxel to the left and back of the organ's middle, whatever the order of the axes.
    labels = blocks({"brainstem": np.s_[2:7, 3:8, 4:9]})
    array = np.zeros_like(labels.array)
    array[6, 7, 8] = 1  # superior, posterior, left corner
    marked = LabelMap(array, labels.geometry, {1: "brainstem"})
    for turn in (lambda a: a, lambda a: a[::-1, ::-1, ::-1], lambda a: a.transpose(2, 0, 1)):
        turned = [turned_labels(one, turn) for one in (labels, marked)]
        pair = lay_over(*turned)
        place = pair.masks("brainstem")[1].box.start_zyx
        codes = pair.grid.axis_codes[::-1]
        axial = cut(pair, "brainstem", AXIAL, place[next(i for i, c in enumerate(codes) if c in "SI")])
        coronal = cut(pair, "brainstem", CORONAL, place[next(i for i, c in enumerate(codes) if c in "AP")])
        for picture, corner in ((axial, (-1, -1)), (coronal, (0, -1))):
            rows, columns = np.nonzero(picture.reference)
            (where,) = np.argwhere(picture.prediction)
            assert where.tolist() == [sorted(rows)[corner[0]], sorted(columns)[corner[1]]]


def turned_labels(labels, turn):
    """The same labels in another order of the axes; affine fitted to where three voxels went."""
    shape = labels.geometry.shape_zyx
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    old = np.stack([turn(index[..., i]) for i in range(3)], axis=-1)
    origin = labels.geometry.index_to_world(old[0, 0, 0])
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis, step in enumerate(np.eye(3, dtype=int)):
        matrix[:3, 2 - axis] = labels.geometry.index_to_world(old[tuple(step)]) - origin
    array = np.ascontiguousarray(turn(labels.array))
    return LabelMap(array, Geometry(array.shape, matrix), labels.organs)


def test_overlays_of_rows_in_the_order_asked_for(result):
    rows = [row for row in result.rows["ours"] if row.worst_slice is not None]
    pictures = make_overlays({job.case: job for job in result.jobs}, rows[::-1], "ours")
    for row, (axial, coronal) in zip(rows[::-1], pictures, strict=True):
        assert axial.reference.any() or axial.prediction.any()
        assert axial.ct_hu.shape == axial.reference.shape
        assert (row.state == "missed") == (not coronal.prediction.any())
        assert coronal.level is not None
        assert draw(coronal).count("<path") == 6  # fill and edge of both masks, level and scale bar


def test_the_dashed_level_is_the_row_of_the_worst_slice(blocks):
    reference = blocks({"brainstem": np.s_[2:6, 3:7, 4:9]})
    prediction = blocks({"brainstem": np.s_[2:7, 3:7, 4:9]})  # one slice further to the head
    for flip in (False, True):
        one, two = (turned_labels(x, lambda a: a[::-1]) if flip else x for x in (reference, prediction))
        row = evaluate_case(one, two, "p")[0]
        _, coronal = worst_views(lay_over(one, two), row, None)
        assert coronal.level == np.nonzero(coronal.prediction.any(axis=1))[0][0]  # the top row


def test_paths_run_along_the_pixels():
    mask = np.array([[False, True, True], [False, True, False]])
    assert filled_path(mask) == "M1 0h2v1h-2zM1 1h1v1h-1z"
    steps = re.findall(r"M(\d+) (\d+)([hv])(\d+)", edge_path(mask))
    assert sum(int(length) for *_, length in steps) == 8  # perimeter of an L of three pixels
    assert ("1", "0", "h", "2") in steps
    assert edge_path(np.zeros((2, 2), dtype=bool)) == ""


def test_png_holds_the_pixels():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = png(grey)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    body = data[data.index(b"IDAT") + 4 : -16]
    lines = np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(3, 5)
    assert not lines[:, 0].any()
    np.testing.assert_array_equal(lines[:, 1:], grey)


def test_window_of_soft_tissue():
    np.testing.assert_array_equal(windowed(np.array([-1000.0, -160.0, 40.0, 240.0, 3000.0])), [0, 0, 128, 255, 255])


def test_steps_of_axes():
    assert [nice_step(rough) for rough in (0.9, 1.0, 1.1, 3.0, 7.0, 0.013)] == [1.0, 1.0, 2.0, 5.0, 10.0, 0.02]
    assert Axis("", 0.4, 1.0, 2).ticks() == [0.4, 0.6, 0.8, 1.0]
    assert Axis("", 0.0, 9.3, 1).ticks() == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_box_plot_names_every_case():
    points = {"lens_l": [("p1", 0.5), ("p2<", 0.75), ("p3", 1.0)]}
    svg = box_plot(
        {"lens_l": "Left lens", "lens_r": "Right lens"}, [Series("a", "#000", points)], None, Axis("DSC", 0, 1, 3)
    )
    assert svg.count("<circle") == 3
    assert "a, p2&lt;: 0.750" in svg
    assert "n 3" in svg
    assert "n 0" in svg


def test_bland_altman_states_mean_and_limits():
    svg = bland_altman([("a", "one", 10.0, 11.0), ("a", "two", 10.0, 10.0)], {"a": "#123456"})
    relative = [200 / 21, 0.0]
    spread = 1.96 * np.std(relative, ddof=1)
    for value, name in ((np.mean(relative), "mean"), (np.mean(relative) + spread, "+1.96 SD")):
        assert f"{value:+.1f} % {name}" in svg
    assert bland_altman([("a", "one", 5.0, 5.0)], {"a": "#123456"}).count("<circle") == 1


def test_interval_states_its_numbers():
    assert 'aria-label="+0.1 (-0.05 to +0.25)"' in interval(-0.05, 0.1, 0.25, 0.5)
