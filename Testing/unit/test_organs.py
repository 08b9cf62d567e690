import colorsys
import itertools
import json
import re
from pathlib import Path

import pytest
from focusnet import cli
from focusnet.errors import FocusNetError
from focusnet.organs import (
    CATALOGUE,
    DEEPMIND_21,
    HANSEG_30,
    OPENKBP_7,
    PAPER_22,
    PDDCA_9,
    PHANTOM_26,
    Organ,
    find,
    organ,
    organ_keys,
    suggest,
)
from hypothesis import given
from hypothesis import strategies as st

ORGANS = list(CATALOGUE.values())
SETS = {
    "PAPER_22": PAPER_22,
    "PDDCA_9": PDDCA_9,
    "OPENKBP_7": OPENKBP_7,
    "DEEPMIND_21": DEEPMIND_21,
    "HANSEG_30": HANSEG_30,
    "PHANTOM_26": PHANTOM_26,
}
PDDCA = {
    "BrainStem": "brainstem",
    "Chiasm": "optic_chiasm",
    "Mandible": "mandible",
    "OpticNerve_L": "optic_nerve_l",
    "OpticNerve_R": "optic_nerve_r",
    "Parotid_L": "parotid_l",
    "Parotid_R": "parotid_r",
    "Submandibular_L": "submandibular_l",
    "Submandibular_R": "submandibular_r",
}
OPENKBP = {
    "Brainstem": "brainstem",
    "SpinalCord": "spinal_cord",
    "RightParotid": "parotid_r",
    "LeftParotid": "parotid_l",
    "Esophagus": "esophagus",
    "Larynx": "larynx",
    "Mandible": "mandible",
}
HANSEG = {
    "A_Carotid_L": "carotid_artery_l",
    "A_Carotid_R": "carotid_artery_r",
    "Arytenoid": "arytenoids",
    "Bone_Mandible": "mandible",
    "Brainstem": "brainstem",
    "BuccalMucosa": "buccal_mucosa",
    "Cavity_Oral": "oral_cavity",
    "Cochlea_L": "cochlea_l",
    "Cochlea_R": "cochlea_r",
    "Cricopharyngeus": "cricopharyngeus",
    "Esophagus_S": "esophagus_cervical",
    "Eye_AL": "eye_anterior_l",
    "Eye_AR": "eye_anterior_r",
    "Eye_PL": "eye_posterior_l",
    "Eye_PR": "eye_posterior_r",
    "Glnd_Lacrimal_L": "lacrimal_gland_l",
    "Glnd_Lacrimal_R": "lacrimal_gland_r",
    "Glnd_Submand_L": "submandibular_l",
    "Glnd_Submand_R": "submandibular_r",
    "Glnd_Thyroid": "thyroid",
    "Glottis": "glottis",
    "Larynx_SG": "supraglottic_larynx",
    "Lips": "lips",
    "OpticChiasm": "optic_chiasm",
    "OpticNrv_L": "optic_nerve_l",
    "OpticNrv_R": "optic_nerve_r",
    "Parotid_L": "parotid_l",
    "Parotid_R": "parotid_r",
    "Pituitary": "pituitary",
    "SpinalCord": "spinal_cord",
}
DEEPMIND = {
    "Brain": "brain",
    "Brainstem": "brainstem",
    "Cochlea-Lt": "cochlea_l",
    "Cochlea_Rt": "cochlea_r",
    "Lacrimal-Lt": "lacrimal_gland_l",
    "Lacrimal_Rt": "lacrimal_gland_r",
    "Lens-Lt": "lens_l",
    "Lens_Rt": "lens_r",
    "Lung-Lt": "lung_l",
    "Lung_Rt": "lung_r",
    "Mandible": "mandible",
    "Optic-Nerve-Lt": "optic_nerve_l",
    "Optic_Nerve_Rt": "optic_nerve_r",
    "Orbit-Lt": "eye_l",
    "Orbit_Rt": "eye_r",
    "Parotid-Lt": "parotid_l",
    "Parotid_Rt": "parotid_r",
    "Spinal-Canal": "spinal_canal",
    "Spinal_Cord": "spinal_cord",
    "Submandibular-Lt": "submandibular_l",
    "Submandibular_Rt": "submandibular_r",
}
CLINICAL = {
    "Lt Parotid": "parotid_l",
    "PAROTID_LT": "parotid_l",
    "Parotid Left": "parotid_l",
    "parotid gland (right)": "parotid_r",
    "LParotid": "parotid_l",
    "R. Parotis": "parotid_r",
    "Parotis re": "parotid_r",
    "Ohrspeicheldrüse links": "parotid_l",
    "ParotidGland_R": "parotid_r",
    "TemporalLobes_L": "temporal_lobe_l",
    "MidEar_R": "middle_ear_r",
    "InnerEar_L": "inner_ear_l",
    "TMJ_R": "tmj_r",
    "TM Joint Left": "tmj_l",
    "Mandible_L": "mandible_l",
    "Rt Mandible": "mandible_r",
    "Unterkiefer": "mandible",
    "BRAIN STEM": "brainstem",
    "Hirnstamm": "brainstem",
    "Myelum": "spinal_cord",
    "Rückenmark": "spinal_cord",
    "RUECKENMARK": "spinal_cord",
    "Moelle épinière": "spinal_cord",
    "cord": "spinal_cord",
    "œil gauche": "eye_l",
    "Auge re.": "eye_r",
    "N. opticus li": "optic_nerve_l",
    "Chiasma": "optic_chiasm",
    "Hypophysis": "pituitary",
    "Rt_SMG": "submandibular_r",
    "Oesophagus": "esophagus",
    "Cervical Esophagus": "esophagus_cervical",
    "left optic nerve left": "optic_nerve_l",
}
EXTERNAL = {**PDDCA, **OPENKBP, **HANSEG, **DEEPMIND, **CLINICAL}


@pytest.mark.parametrize(("name", "count"), [(name, int(name.split("_")[1])) for name in SETS])
def test_sets_have_the_number_of_organs_in_their_name(name: str, count: int) -> None:
    assert len(set(SETS[name])) == len(SETS[name]) == count
    assert set(SETS[name]) <= set(CATALOGUE)


def test_sets_name_the_organs_of_their_source() -> None:
    assert set(PDDCA.values()) == set(PDDCA_9)
    assert set(OPENKBP.values()) == set(OPENKBP_7)
    assert set(HANSEG.values()) == set(HANSEG_30)
    assert set(DEEPMIND.values()) == set(DEEPMIND_21)


@pytest.mark.parametrize("attribute", ["key", "tg263", "name", "colour"])
def test_organs_share_no(attribute: str) -> None:
    values = [getattr(o, attribute) for o in ORGANS]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("o", ORGANS, ids=lambda o: o.key)
def test_one_organ_is_consistent(o: Organ) -> None:
    assert CATALOGUE[o.key] is o
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", o.key)
    assert len(o.tg263) <= 16
    assert re.fullmatch(r"[A-Za-z]+(_[A-Za-z]+)*", o.tg263)
    assert 0 < o.volume_range_ml[0] < o.volume_range_ml[1]
    assert 0 < o.tolerance_mm <= 3
    assert o.tolerance_is_default == (o.tolerance_mm == 2.0)
    assert all(0 <= c <= 255 for c in o.colour)
    assert sum(o.colour) > 120, "too dark to be seen on a CT"
    if o.side is None:
        assert o.partner is None
        assert not o.key.endswith(("_l", "_r"))
    else:
        letter = o.side[0]
        assert o.key.endswith(f"_{letter}")
        assert o.tg263.endswith(letter.upper())
        assert o.name.startswith(o.side.capitalize())


@pytest.mark.parametrize("o", [o for o in ORGANS if o.partner], ids=lambda o: o.key)
def test_partner_is_the_same_organ_on_the_other_side(o: Organ) -> None:
    assert o.partner is not None
    partner = CATALOGUE[o.partner]
    assert partner.partner == o.key
    assert {o.side, partner.side} == {"left", "right"}
    same = ("snomed_code", "snomed_meaning", "tolerance_mm", "volume_range_ml", "single_component")
    assert all(getattr(o, a) == getattr(partner, a) for a in same)
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in x.colour))[0] for x in (o, partner)]
    difference = abs(hues[0] - hues[1])
    assert min(difference, 1 - difference) < 0.05


@pytest.mark.parametrize("o", ORGANS, ids=lambda o: o.key)
def test_snomed_identifier_has_the_right_check_digit(o: Organ) -> None:  # Verhoeff, in the dihedral group of ten
    def multiply(a: int, b: int) -> int:
        turn = (a + b if a < 5 else a - b) % 5
        return turn + 5 * ((a < 5) != (b < 5))

    permutation = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]
    check = 0
    for position, digit in enumerate(map(int, reversed(o.snomed_code))):
        for _ in range(position % 8):
            digit = permutation[digit]
        check = multiply(check, digit)
    assert check == 0


def test_colours_can_be_told_apart() -> None:
    for a, b in itertools.combinations(ORGANS, 2):
        assert sum((x - y) ** 2 for x, y in zip(a.colour, b.colour, strict=True)) > 25**2, (a.key, b.key)


def test_tolerances_are_the_published_ones() -> None:
    published = {
        "brain": 1.01,
        "brainstem": 2.50,
        "cochlea_l": 1.25,
        "lacrimal_gland_l": 2.50,
        "lens_l": 0.98,
        "lung_l": 2.42,
        "mandible": 1.01,
        "optic_nerve_l": 2.50,
        "optic_chiasm": 2.50,
        "eye_l": 1.65,
        "parotid_l": 2.85,
        "spinal_canal": 1.17,
        "spinal_cord": 2.93,
        "submandibular_l": 2.02,
    }
    assert {k: CATALOGUE[k].tolerance_mm for k in published} == published
    assert not any(CATALOGUE[k].tolerance_is_default for k in published)
    assert CATALOGUE["pituitary"].tolerance_is_default


@pytest.mark.parametrize("o", ORGANS, ids=lambda o: o.key)
def test_every_own_name_finds_its_organ(o: Organ) -> None:
    for name in (o.key, o.tg263, o.name, *o.synonyms):
        assert find(name) is o, name


@pytest.mark.parametrize(("name", "key"), EXTERNAL.items())
def test_names_of_others_are_found(name: str, key: str) -> None:
    assert find(name) is CATALOGUE[key]


@pytest.mark.parametrize(
    "name",
    ["Parotid", "parotids", "Eyes", "Lung", "Optic Nerve", "Parotid_L_R", "left right eye", "Brainstem_L", "Larynx rt",
     "Brainstem_PRV03", "PTV_70", "GTV", "", "___", "L", "right", "Eye_LR", "Lens", "Submandibular", "腮腺",
     "Mandible 左", "SpinalCord外扩", "Brainstem計画", "Parotid_L расш", "~Brainstem", "Parotid_L~"],
)  # fmt: skip
def test_uncertain_and_unknown_names_are_not_found(name: str) -> None:
    assert find(name) is None


LEFT = ["L", "l", "Lt", "LT", "left", "LEFT", "li", "links", "gauche"]
RIGHT = ["R", "r", "Rt", "RT", "right", "RIGHT", "re", "rechts", "droite"]
PAIRED_STEMS = sorted({s.split(" ", 1)[1] for o in ORGANS if o.side for s in (o.name, *o.synonyms)})


@st.composite
def sided_names(draw: st.DrawFn) -> tuple[str, str]:
    stem, side = draw(st.sampled_from(PAIRED_STEMS)), draw(st.sampled_from(["left", "right"]))
    word = draw(st.sampled_from(LEFT if side == "left" else RIGHT))
    words = re.findall(r"[^\W_]+", stem)
    place = draw(st.integers(0, len(words)))
    words.insert(place, word)
    separator = draw(st.sampled_from([" ", "_", "-", ".", ", ", " ("]))
    name = separator.join(words)
    return draw(st.sampled_from([name, name.lower(), name.upper()])), side


@given(sided_names())
def test_sides_are_never_confused(named: tuple[str, str]) -> None:
    name, side = named
    found = find(name)
    assert found is not None
    assert found.side == side


@given(sided_names(), st.sampled_from([*LEFT, *RIGHT]))
def test_a_second_side_never_wins(named: tuple[str, str], word: str) -> None:
    name, side = named
    found = find(f"{name} {word}")
    same = (word in LEFT) == (side == "left")
    assert (found.side if found else None) == (side if same else None)


@given(st.text(max_size=30))
def test_any_text_is_answered(name: str) -> None:
    found = find(name)
    assert found is None or found.key in CATALOGUE
    assert set(suggest(name)) <= set(CATALOGUE)


def test_suggestions_are_close_and_keep_the_side() -> None:
    assert suggest("parotd")[:2] == ["parotid_l", "parotid_r"]
    assert suggest("Parotit_L")[0] == "parotid_l"
    assert all(not key.endswith("_r") for key in suggest("Parotit_L"))
    assert suggest("brain stm")[0] == "brainstem"
    assert suggest("qqqq") == []


def test_unknown_key_is_refused_with_a_suggestion() -> None:
    assert organ("parotid_l") is CATALOGUE["parotid_l"]
    with pytest.raises(FocusNetError, match=r"E_UNKNOWN_ORGAN.*parotid_l") as caught:
        organ("parotit_l")
    assert caught.value.code == "E_UNKNOWN_ORGAN"


def test_catalogue_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        CATALOGUE["heart"] = CATALOGUE["brain"]  # type: ignore[index]


@pytest.mark.realdata
def test_every_name_of_the_shared_data_is_found(shared_data: Path) -> None:
    openkbp = json.loads((shared_data / "openkbp" / "dataset.json").read_text())["labels"]
    contours = json.loads((shared_data / "contours" / "contours.json").read_text())["labels"]
    keys = []
    for name in [*openkbp, *contours]:
        if name != "background":
            found = find(name)
            assert found is not None, name
            keys.append(found.key)
    assert set(keys) == set(OPENKBP_7) | set(DEEPMIND_21)


@pytest.mark.realdata
def test_volume_ranges_hold_every_whole_expert_contour(shared_data: Path) -> None:
    organs = json.loads((shared_data / "contours" / "contours.json").read_text())["organs"]
    for name, numbers in organs.items():
        found = find(name)
        assert found is not None
        low, high = found.volume_range_ml
        assert low <= numbers["mm3"]["min"] / 1000, name
        assert numbers["mm3"]["max"] / 1000 <= high, name


def test_organs_in_any_spelling():
    assert organ_keys(["Parotid_L", "Glnd_Submand_R", "left parotid"]) == ("parotid_l", "submandibular_r")
    with pytest.raises(FocusNetError, match=r"E_UNKNOWN_ORGAN.*did you mean"):
        organ_keys(["parotid_ll"])
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        organ_keys(["zzz"])


def test_the_command_lists_every_organ_by_its_key(capsys):
    assert cli.run(["organs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["key"]: row["tg263"] for row in rows} == {key: organ.tg263 for key, organ in CATALOGUE.items()}
    assert cli.run(["organs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
