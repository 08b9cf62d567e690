"""Which chunk of which case a step sees: a function of seed, stage and step alone, so a resumed run goes on exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from focusnet_training.datasets import PreparedCase

Focus = Literal["organs", "small", "mixed"]


def step_generator(seed: int, stage: str, step: int) -> np.random.Generator:
    """Independent random numbers for one step of one stage."""
    return np.random.default_rng([seed, *stage.encode(), step])


class ChunkSampler:
    """Draws a case and the centre of its chunk.

    Args:
        cases: Prepared training cases.
        focus: ``organs`` centres chunks on any organ, the rarer the likelier; ``small`` shows the small organs;
            ``mixed`` shows them, too, but not always: where to find them is learned together with where they are not.
        small_classes: Class values of the small organs.
        chunk_zyx: Shape of a chunk.
        foreground: Share of chunks centred on an organ, for ``organs``, or round the small organs, for ``mixed``;
            the others lie anywhere.

    Raises:
        ValueError: No case shows a small organ, for ``small`` and ``mixed``.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        focus: Focus,
        small_classes: Sequence[int],
        chunk_zyx: tuple[int, int, int],
        foreground: float,
    ) -> None:
        self.focus = focus
        self.small_classes = tuple(small_classes)
        self.chunk_zyx = np.asarray(chunk_zyx)
        self.foreground = foreground
        if focus != "organs":
            cases = [c for c in cases if any(k in c.voxels for k in self.small_classes)]
            if not cases:
                raise ValueError("No training case shows a small organ.")
        self.cases = list(cases)
        classes = sorted({k for c in self.cases for k in c.voxels})
        shown = {k: [i for i, c in enumerate(self.cases) if k in c.voxels] for k in classes}
        self._classes = classes
        self._shown = shown
        rarity = np.array([len(self.cases) / len(shown[k]) for k in classes])
        self._class_probability = np.sqrt(rarity) / np.sqrt(rarity).sum() if classes else rarity

    def draw(self, rng: np.random.Generator) -> tuple[PreparedCase, NDArray[np.float64]]:
        """A case and the (fractional) voxel index ``(z, y, x)`` at the middle of its chunk."""
        at_organ = self.focus == "small" or rng.random() < self.foreground
        if at_organ and self.focus != "organs":
            case = self.cases[rng.integers(len(self.cases))]
            return case, self._small_centre(case, rng)
        if at_organ and self._classes:
            # Class first, then a case that shows it: an organ drawn in few patients is still seen often.
            value = self._classes[rng.choice(len(self._classes), p=self._class_probability)]
            case = self.cases[self._shown[value][rng.integers(len(self._shown[value]))]]
            flat = case.voxels[value][rng.integers(case.voxels[value].size)]
            centre = np.array(np.unravel_index(flat, case.ct.shape), np.float64)
            jitter = rng.uniform(-0.35, 0.35, 3) * self.chunk_zyx
        else:
            case = self.cases[rng.integers(len(self.cases))]
            centre = rng.uniform(0, np.asarray(case.ct.shape) - 1)
            jitter = np.zeros(3)
        return case, _inside(centre + jitter, self.chunk_zyx, np.asarray(case.ct.shape))

    def _small_centre(self, case: PreparedCase, rng: np.random.Generator) -> NDArray[np.float64]:
        """Middle of a chunk that holds every small organ whole; where they do not fit, of one of them."""
        boxes = [case.boxes[k] for k in self.small_classes if k in case.boxes]
        low = np.min([b.start_zyx for b in boxes], axis=0)
        high = np.max([b.stop_zyx for b in boxes], axis=0)
        if np.any(high - low > self.chunk_zyx):
            box = boxes[rng.integers(len(boxes))]
            low, high = np.asarray(box.start_zyx), np.asarray(box.stop_zyx)
        free = np.maximum(self.chunk_zyx - (high - low), 0) / 2.0
        return (low + high - 1) / 2.0 + rng.uniform(-0.6, 0.6, 3) * free


def _inside(centre: NDArray[np.float64], chunk: NDArray[np.int_], shape: NDArray[np.int_]) -> NDArray[np.float64]:
    """Move a centre so that the chunk leaves the volume no further than it must."""
    low, high = (chunk - 1) / 2.0, shape - 1 - (chunk - 1) / 2.0
    middle = (shape - 1) / 2.0
    return np.where(low <= high, np.clip(centre, np.minimum(low, high), np.maximum(low, high)), middle)
