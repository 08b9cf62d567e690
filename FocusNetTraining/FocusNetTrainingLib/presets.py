"""Training configurations as a person chooses among them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STAGE_NAMES = {
    "snet": "S-Net",
    "sol": "SOL-Net",
    "aae": "adversarial autoencoder",
    "sos": "SOS-Net",
    "joint": "joint fine-tuning",
}


@dataclass(frozen=True)
class PresetChoice:
    """A configuration that can be trained.

    Attributes:
        key: Name of a shipped preset, or the path of a TOML file.
        name: What is shown in a list.
        description: Organs, grid and length.
        stages: Names of its stages, in order.
    """

    key: str
    name: str
    description: str
    stages: tuple[str, ...]


def shipped_presets() -> list[PresetChoice]:
    """All presets that come with the extension."""
    from focusnet_training.config import preset_names

    return [read_preset(name) for name in preset_names()]


def read_preset(key: str) -> PresetChoice:
    """A preset by name, or a configuration file by its path.

    Raises:
        FocusNetError: ``E_UNKNOWN_PRESET``, ``E_CONFIG``.
    """
    from focusnet_training.config import load_config, load_preset

    is_file = key.endswith(".toml")
    config = load_config(Path(key)) if is_file else load_preset(key)
    organs = "all organs of the data set" if config.data.organs is None else f"{len(config.data.organs)} organs"
    x, y, z = config.data.spacing_xyz
    steps = ", ".join(f"{stage_name(stage.name)} {stage.steps:,}" for stage in config.schedule)
    description = f"{organs.capitalize()}, grid {x:g} × {y:g} × {z:g} mm. Steps: {steps}."
    name = Path(key).name if is_file else key
    return PresetChoice(key, name, description, tuple(stage.name for stage in config.schedule))


def stage_name(key: str) -> str:
    """A stage as the papers call it."""
    return STAGE_NAMES.get(key, key)
