"""Weights that a run starts from instead of random ones: those of another run's stage, or of a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from focusnet.bundle import load_bundle
from focusnet.errors import FocusNetError

from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.stages import Networks


def load_initial(path: Path, networks: Networks, organs: Sequence[str], small: Sequence[str]) -> str:
    """Load weights into the networks of a run.

    Args:
        path: Checkpoint of a stage (``best-STAGE.pt``) of a run with the same network; or the folder of a bundle with
            the same network, or with its S-Net alone. A bundle has no autoencoder.
        networks: Changed in place.
        organs: Organs of the run, in the order of its classes.
        small: Its small organs, in the order of SOL-Net's maps.

    Returns:
        SHA-256 of the weights' file.

    Raises:
        FocusNetError: ``E_CHECKPOINT`` when the weights are of another network or of other organs; those of
            `load_bundle` and `load_checkpoint`.
    """
    load = _from_bundle if path.is_dir() else _from_stage
    return load(path, networks, tuple(organs), tuple(small))


def _from_stage(path: Path, networks: Networks, organs: tuple[str, ...], small: tuple[str, ...]) -> str:
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _from_bundle(folder: Path, networks: Networks, organs: tuple[str, ...], small: tuple[str, ...]) -> str:
    bundle = load_bundle(folder)
    spec = bundle.spec
    if spec.organs != organs or spec.small_organs not in ((), small):
        raise _other_organs(f"'{spec.name}'", spec.organs, spec.small_organs)
    try:
        networks.model.load_state_dict({**networks.model.state_dict(), **bundle.network.state_dict()})
    except RuntimeError as error:
        raise _other_network(f"'{spec.name}'") from error
    return spec.weights.sha256


def _other_organs(name: str, organs: tuple[str, ...], small: tuple[str, ...]) -> FocusNetError:
    # Weights of the same shape would fit organs in another order, and say left for right.
    return FocusNetError(
        "E_CHECKPOINT",
        f"{name} knows other organs, or in another order: {', '.join(organs)} (small: {', '.join(small) or 'none'}); "
        "set data.organs and data.small_organs so, or change --init.",
    )


def _other_network(name: str) -> FocusNetError:
    return FocusNetError("E_CHECKPOINT", f"{name} holds weights of another network; change --init.")
