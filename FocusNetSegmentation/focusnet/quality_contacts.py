"""Which organs of the head and neck may share a surface; all other contacts are implausible.

Sides: organs of a pair touch partners of their own side only, except across the midline as ``CROSS_MIDLINE`` says.
"""

from focusnet.organ_table import ROWS

_NEIGHBOURS: dict[str, str] = {
    "brain": "brainstem optic_chiasm pituitary temporal_lobe optic_nerve spinal_cord spinal_canal inner_ear middle_ear "
    "cochlea eye eye_posterior lacrimal_gland tmj carotid_artery",
    "brainstem": "spinal_cord spinal_canal temporal_lobe optic_chiasm",
    "spinal_cord": "spinal_canal",
    "optic_chiasm": "optic_nerve pituitary temporal_lobe carotid_artery",
    "pituitary": "carotid_artery temporal_lobe optic_nerve",
    "temporal_lobe": "inner_ear middle_ear cochlea tmj optic_nerve carotid_artery mandible",
    "optic_nerve": "eye eye_posterior carotid_artery",
    "eye": "lens lacrimal_gland eye_anterior eye_posterior",
    "eye_anterior": "lens eye_posterior lacrimal_gland",
    "eye_posterior": "lens lacrimal_gland",
    "inner_ear": "middle_ear cochlea carotid_artery",
    "middle_ear": "cochlea tmj parotid carotid_artery mandible",
    "cochlea": "carotid_artery",
    "tmj": "mandible parotid",
    "mandible": "parotid submandibular oral_cavity buccal_mucosa lips",
    "parotid": "submandibular carotid_artery buccal_mucosa",
    "submandibular": "carotid_artery oral_cavity larynx supraglottic_larynx",
    "oral_cavity": "buccal_mucosa lips larynx supraglottic_larynx",
    "buccal_mucosa": "lips",
    "larynx": "supraglottic_larynx glottis arytenoids cricopharyngeus esophagus esophagus_cervical thyroid "
    "carotid_artery",
    "supraglottic_larynx": "glottis arytenoids cricopharyngeus carotid_artery thyroid",
    "glottis": "arytenoids cricopharyngeus thyroid esophagus_cervical",
    "arytenoids": "cricopharyngeus",
    "cricopharyngeus": "esophagus esophagus_cervical thyroid carotid_artery",
    "esophagus": "esophagus_cervical thyroid lung carotid_artery",
    "esophagus_cervical": "thyroid lung carotid_artery",
    "thyroid": "carotid_artery lung",
    "carotid_artery": "lung",
}
_CROSS_MIDLINE = frozenset({"optic_nerve", "lung", "mandible"})
_PAIRS = frozenset(frozenset((a, b)) for a, others in _NEIGHBOURS.items() for b in others.split())
_STEMS = {row.stem for row in ROWS}


def may_touch(first: str, second: str) -> bool:
    """Whether two organs, given by key, can share a surface in a correct label map."""
    (stem, side), (other, other_side) = _split(first), _split(second)
    if stem == other:
        return stem in _CROSS_MIDLINE
    return frozenset((stem, other)) in _PAIRS and (side == other_side or "" in (side, other_side))


def _split(key: str) -> tuple[str, str]:
    stem, _, side = key.rpartition("_")
    return (stem, side) if stem in _STEMS and side in ("l", "r") else (key, "")
