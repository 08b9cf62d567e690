"""Weights that a run starts from instead of random ones: those of another run's stage, or of a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focusnet.bundle import load_bundle
from focusnet.errors import FocusNetError

from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.guard import best_file, teaches_sos
from focusnet_training.stages import STAGES, Networks


@dataclass(frozen=True)
class Initial:
    """Weights that were loaded.

    Attributes:
        sha256: Of their file.
        sos_learned: Whether SOS-Net has learned in them; None where nothing tells.
    """

    sha256: str
    sos_learned: bool | None


def load_initial(path: Path, networks: Networks, organs: Sequence[str], small: Sequence[str]) -> Initial:
    """Load weights into the networks of a run.

    Args:
        path: Checkpoint of a stage (``best-STAGE.pt``) of a run with the same network; or the folder of a bundle with
            the same network, or with its S-Net alone. A bundle has no autoencoder.
        networks: Changed in place.
        organs: Organs of the run, in the order of its classes.
        small: Its small organs, in the order of SOL-Net's maps.

    Raises:
        FocusNetError: ``E_CHECKPOINT`` when the weights are of another network or of other organs; those of
            `load_bundle` and `load_checkpoint`.
    """
    load = _from_bundle if path.is_dir() else _from_stage
    return load(path, networks, tuple(organs), tuple(small))


def _from_stage(path: Path, networks: Networks, organs: tuple[str, ...], small: tuple[str, ...]) -> Initial:
    state = load_checkpoint(path)
    try:
        known, known_small = tuple(state["data"]["organs"]), tuple(state["data"]["small_organs"])
        if (known, known_small) != (organs, small):
            raise _other_organs(path.name, known, known_small)
        networks.model.load_state_dict(state["model"])
        if networks.autoencoder is not None and state.get("autoencoder") is not None:
            networks.autoencoder.load_state_dict(state["autoencoder"])
    except (KeyError, RuntimeError) as error:
        raise _other_network(path.name) from error
    return Initial(hashlib.sha256(path.read_bytes()).hexdigest(), _sos_learned(state, path))


def _sos_learned(state: dict[str, Any], path: Path) -> bool | None:
    """What the checkpoint says; one of an earlier version says it by its name, unless it started from others itself."""
    if "sos_learned" in state:
        learned: bool | None = state["sos_learned"]
        return learned
    stage = next((name for name in STAGES if path == best_file(path.parent, name)), None)
    if stage is not None and teaches_sos(stage):
        return True
    return False if stage is not None and state.get("initial") is None else None


def _from_bundle(folder: Path, networks: Networks, organs: tuple[str, ...], small: tuple[str, ...]) -> Initial:
    bundle = load_bundle(folder)
    spec = bundle.spec
    if spec.organs != organs or spec.small_organs not in ((), small):
        raise _other_organs(f"'{spec.name}'", spec.organs, spec.small_organs)
    try:
        networks.model.load_state_dict({**networks.model.state_dict(), **bundle.network.state_dict()})
    except RuntimeError as error:
        raise _other_network(f"'{spec.name}'") from error
    return Initial(spec.weights.sha256, bool(spec.small_organs))


def _other_organs(name: str, organs: tuple[str, ...], small: tuple[str, ...]) -> FocusNetError:
    # Weights of the same shape would fit organs in another order, and say left for right.
    return FocusNetError(
        "E_CHECKPOINT",
        f"{name} knows other organs, or in another order: {', '.join(organs)} (small: {', '.join(small) or 'none'}); "
        "set data.organs and data.small_organs so, or change --init.",
    )


def _other_network(name: str) -> FocusNetError:
    return FocusNetError("E_CHECKPOINT", f"{name} holds weights of another network; change --init.")
