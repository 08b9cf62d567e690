"""The organ catalogue: the one source of every organ's name, side, code, colour and tolerance.

``find`` understands the spellings of PDDCA, OpenKBP, HaN-Seg, StructSeg, RTOG, TG-263 and the DeepMind set, and common
clinical ones, in any case, punctuation and word order. It never guesses a side: a name of a paired organ without a
side, or with both sides, is not found.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from focusnet.errors import FocusNetError
from focusnet.organ_table import ROWS, Row

Side = Literal["left", "right"]

DEFAULT_TOLERANCE_MM = 2.0

_LEFT_WORDS = ("l", "lt", "lft", "left", "li", "links", "linke", "linker", "linkes", "gauche")
_RIGHT_WORDS = ("r", "rt", "rgt", "right", "re", "rechts", "rechte", "rechter", "rechtes", "droit", "droite")
_SIDE_WORDS: dict[str, Side] = {**dict.fromkeys(_LEFT_WORDS, "left"), **dict.fromkeys(_RIGHT_WORDS, "right")}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True)
class Organ:
    """One organ at risk.

    Attributes:
        key: Canonical key, for example ``parotid_l``.
        name: Name for people, for example ``Left parotid gland``.
        tg263: AAPM TG-263 name, for example ``Parotid_L``.
        side: ``left``, ``right`` (the patient's) or None.
        partner: Key of the organ on the other side, or None.
        snomed_code: SNOMED CT concept, without the side.
        snomed_meaning: Its meaning as DICOM writes it.
        colour: RGB, 0 to 255.
        tolerance_mm: Tolerance of the surface DSC.
        tolerance_is_default: Whether that tolerance is the default, not a published one.
        volume_range_ml: Least and greatest plausible volume of the whole organ.
        synonyms: Other names of this organ, each with its side.
        single_component: Whether the anatomy is one connected piece.
    """

    key: str
    name: str
    tg263: str
    side: Side | None
    partner: str | None
    snomed_code: str
    snomed_meaning: str
    colour: tuple[int, int, int]
    tolerance_mm: float
    tolerance_is_default: bool
    volume_range_ml: tuple[float, float]
    synonyms: tuple[str, ...]
    single_component: bool


def _organs_of(row: Row) -> Iterator[Organ]:
    sides: tuple[Side | None, ...] = ("left", "right") if row.paired else (None,)
    for side, colour in zip(sides, row.colours, strict=True):
        letter = side[0] if side else ""
        prefix = f"{side.capitalize()} " if side else ""
        other = "r" if letter == "l" else "l"
        yield Organ(
            key=f"{row.stem}_{letter}" if side else row.stem,
            name=f"{prefix}{row.name}" if side else row.name.capitalize(),
            tg263=row.tg263.format(letter.upper()),
            side=side,
            partner=f"{row.stem}_{other}" if side else None,
            snomed_code=row.code,
            snomed_meaning=row.meaning,
            colour=colour,
            tolerance_mm=DEFAULT_TOLERANCE_MM if row.tolerance_mm is None else row.tolerance_mm,
            tolerance_is_default=row.tolerance_mm is None,
            volume_range_ml=row.volume_range_ml,
            synonyms=tuple(f"{prefix}{synonym}" for synonym in row.synonyms),
            single_component=row.single_component,
        )


CATALOGUE: Mapping[str, Organ] = MappingProxyType({o.key: o for row in ROWS for o in _organs_of(row)})


def _pairs(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}_{letter}" for stem in stems for letter in "lr")


PAPER_22 = (
    *_pairs("eye", "lens", "optic_nerve"),
    *("optic_chiasm", "pituitary", "brainstem"),
    *_pairs("temporal_lobe"),
    "spinal_cord",
    *_pairs("parotid", "inner_ear", "middle_ear", "tmj", "mandible"),
)
PDDCA_9 = ("brainstem", "optic_chiasm", "mandible", *_pairs("optic_nerve", "parotid", "submandibular"))
OPENKBP_7 = ("brainstem", "spinal_cord", "parotid_r", "parotid_l", "esophagus", "larynx", "mandible")
DEEPMIND_21 = (
    *("brain", "brainstem"),
    *_pairs("cochlea", "lacrimal_gland", "lens", "lung"),
    "mandible",
    *_pairs("optic_nerve", "eye", "parotid"),
    *("spinal_canal", "spinal_cord"),
    *_pairs("submandibular"),
)
HANSEG_30 = (
    *_pairs("carotid_artery"),
    *("arytenoids", "mandible", "brainstem", "buccal_mucosa", "oral_cavity"),
    *_pairs("cochlea"),
    *("cricopharyngeus", "esophagus_cervical"),
    *_pairs("eye_anterior", "eye_posterior", "lacrimal_gland", "submandibular"),
    *("thyroid", "glottis", "supraglottic_larynx", "lips", "optic_chiasm"),
    *_pairs("optic_nerve", "parotid"),
    *("pituitary", "spinal_cord"),
)
PHANTOM_26 = (*PAPER_22, *_pairs("submandibular"), "larynx", "esophagus")


def organ(key: str) -> Organ:
    """The organ of a canonical key.

    Raises:
        FocusNetError: ``E_UNKNOWN_ORGAN``, with close names, when there is none.
    """
    try:
        return CATALOGUE[key]
    except KeyError:
        close = ", ".join(suggest(key))
        hint = f"did you mean {close}?" if close else "see 'focusnet organs'."
        raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ '{key}' in the catalogue; {hint}") from None


def organ_keys(names: Iterable[str]) -> tuple[str, ...]:
    """Canonical keys of organs given in any spelling.

    Raises:
        FocusNetError: ``E_UNKNOWN_ORGAN`` with similar names.
    """
    keys = []
    for name in names:
        found = find(name)
        if found is None:
            near = suggest(name)
            hint = f"did you mean {' or '.join(near[:3])}?" if near else "see 'focusnet organs'."
            raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ is called '{name}'; {hint}")
        keys.append(found.key)
    return tuple(dict.fromkeys(keys))


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None for None.

    Raises:
        FocusNetError: ``E_USAGE`` when there is a text without a name.
    """
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise FocusNetError("E_USAGE", "The list of names is empty; leave the option out for all.")
    return names


def find(name: str) -> Organ | None:
    """The organ a person or a file means by ``name``, or None when that is unknown or its side is not certain.

    Keys, TG-263 names and synonyms are compared without case, accents, punctuation and word order; the side may stand
    anywhere as a word of its own (``l``, ``lt``, ``left``, ``li``, ``links``, ``gauche`` and their opposites).
    """
    words = _words(name)
    sides, rest = _split_sides(words)
    if len(sides) > 1:
        return None
    side = next(iter(sides), None)
    whole = _WHOLE.get("".join(words))
    if whole is not None and side in (None, CATALOGUE[whole].side):
        return CATALOGUE[whole]
    for spelling in _spellings(rest):
        if (spelling, side) in _STEMS:
            return CATALOGUE[_STEMS[spelling, side]]
    return None


def suggest(name: str, limit: int = 6) -> list[str]:
    """Keys of organs whose names are close to ``name``, closest first; on the same side where ``name`` has one."""
    sides, rest = _split_sides(_words(name))
    spelling = "".join(rest)
    candidates: dict[str, list[str]] = {}
    for (stem, side), key in _STEMS.items():
        if not sides or side is None or side in sides:
            candidates.setdefault(stem, []).append(key)
    close = difflib.get_close_matches(spelling, candidates, n=4 * limit, cutoff=0.7)
    return list(dict.fromkeys(key for stem in close for key in candidates[stem]))[:limit]


def _words(name: str) -> list[str]:
    """Lower-case words of a name; ``LeftParotid``, ``Parotid-Lt`` and ``PAROTID_LT`` are all split in two.

    Letters that are not Latin, and ``~`` (TG-263: a part of the organ), stay: no organ of the catalogue has them, and
    what they say of a structure must not get lost.
    """
    plain = name.replace("œ", "oe").replace("Œ", "Oe").replace("ß", "ss")
    folded = unicodedata.normalize("NFKD", plain)
    other = [c for c in folded if c == "~" or (not c.isascii() and c.isalpha())]
    ascii_name = folded.encode("ascii", "ignore").decode()
    return [*(word.lower() for word in _WORD.findall(ascii_name)), *other]


def _split_sides(words: list[str]) -> tuple[set[Side], list[str]]:
    return {_SIDE_WORDS[w] for w in words if w in _SIDE_WORDS}, [w for w in words if w not in _SIDE_WORDS]


def _spellings(words: list[str]) -> tuple[str, str]:
    return "".join(words), " ".join(sorted(words))


def _build_index() -> tuple[dict[str, str], dict[tuple[str, Side | None], str]]:
    """Keys by whole name (side letter glued on) and by spelling without side plus side."""
    whole = {"".join(_words(n)): o.key for o in CATALOGUE.values() for n in (o.key, o.tg263)}
    stems: dict[tuple[str, Side | None], str] = {}
    for o in CATALOGUE.values():
        for name in (o.key, o.tg263, o.name, *o.synonyms):
            for spelling in _spellings(_split_sides(_words(name))[1]):
                if stems.setdefault((spelling, o.side), o.key) != o.key:
                    raise ValueError(f"'{name}' names both {o.key} and {stems[spelling, o.side]}.")
    return whole, stems


_WHOLE, _STEMS = _build_index()
