"""Anatomy of the phantom: one patient put together from head to shoulders.

Frame: millimetres, +x to the patient's left, +y to the back, +z up; the origin lies midway between the ear canals at
the height of the Frankfort plane. Proportions follow an average adult; every patient draws sizes and places anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focusnet_training.phantom_brain import (
    paint_brain,
    paint_ear,
    paint_sella,
    paint_skull,
    paint_visual_pathway,
    shape_brain_case,
)
from focusnet_training.phantom_face import (
    paint_facial_bones,
    paint_glands,
    paint_jaw,
    paint_mouth,
    paint_sinuses,
    paint_skin,
)
from focusnet_training.phantom_neck import (
    paint_neck_muscles,
    paint_shoulders,
    paint_spine,
    paint_throat,
    paint_vessels,
)
from focusnet_training.phantom_shapes import Body, Vector
from focusnet_training.phantom_tissue import SIDES, Draft, Tissue, Variation


@dataclass(frozen=True)
class Anatomy:
    """One patient.

    Attributes:
        tissues: Coats of paint; later ones cover earlier ones.
        organs: True body of each organ by canonical key; bodies may overlap.
        skin: The whole patient.
        crowns: Teeth that may carry a filling.
    """

    tissues: tuple[Tissue, ...]
    organs: dict[str, Body]
    skin: Body
    crowns: tuple[Vector, ...]


def build_anatomy(rng: np.random.Generator, nerve_contrast: float = 1.0) -> Anatomy:
    """Draw one patient.

    Args:
        rng: Source of all variation.
        nerve_contrast: Opacity of optic nerves and chiasm over what surrounds them; 1 is natural.
    """
    draft = Draft(Variation(rng))
    skin = paint_skin(draft)
    paint_neck_muscles(draft)
    case = shape_brain_case(draft)
    paint_skull(draft, case)
    paint_brain(draft, case)
    paint_sella(draft, case)
    paint_facial_bones(draft)
    paint_visual_pathway(draft, nerve_contrast)
    paint_sinuses(draft)
    paint_mouth(draft)
    crowns = paint_jaw(draft)
    paint_spine(draft)
    for name, s in SIDES:
        paint_ear(draft, name, s)
        paint_glands(draft, name, s, skin)
    paint_vessels(draft)
    paint_shoulders(draft)
    paint_throat(draft)
    return Anatomy(tuple(draft.tissues), draft.organs, skin, crowns)
