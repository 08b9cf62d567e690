"""Validated configuration of a training run; every ▸ choice of the method is a value here."""

from __future__ import annotations

import math
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from focusnet.bundle import NAME_PATTERN
from focusnet.errors import FocusNetError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

StageName = Literal["snet", "sol", "aae", "sos", "joint"]
ORDER: tuple[StageName, ...] = ("snet", "sol", "aae", "sos", "joint")
AUTOENCODER_REDUCTION = 8
Range = tuple[float, float]


def _positive_rising(limits: Range) -> Range:
    low, high = limits
    if not 0 < low <= high < math.inf:
        raise ValueError(f"must be positive and rise, got {limits}")
    return limits


Factors = Annotated[Range, AfterValidator(_positive_rising)]
Size = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Model):
    """Arguments of `focusnet.networks.focusnet.FocusNetV2` (paper §3.1, table 10)."""

    widths: tuple[Size, Size, Size] = (32, 48, 64)
    growth: int = Field(64, ge=1)
    dilations: tuple[Size, ...] = Field((3, 6, 12, 18), min_length=1)
    norm: Literal["instance", "batch"] = "instance"
    sos: Literal["plain", "unet"] = "plain"
    concatenate_ct: bool = True
    roi_shape_zyx: tuple[Size, Size, Size] = (8, 64, 64)


class DataConfig(_Model):
    """What is learned and on which grid."""

    spacing_xyz: tuple[Length, Length, Length] = (1.0, 1.0, 3.0)
    window_hu: Range = (-200.0, 1000.0)
    organs: tuple[str, ...] | None = Field(None, description="Canonical keys; None takes all of the data set")
    small_organs: tuple[str, ...] | Literal["auto"] = "auto"
    small_voxels: float = Field(1000.0, description="Volume rule: mean voxels at working spacing below which small")
    chunk_zyx: tuple[Size, Size, Size] = (40, 240, 240)
    fold: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _divisible(self) -> DataConfig:
        if self.chunk_zyx[0] % 2 or self.chunk_zyx[1] % 4 or self.chunk_zyx[2] % 4:
            raise ValueError(f"chunk_zyx must be divisible by (2, 4, 4), got {self.chunk_zyx}")
        return self

    @model_validator(mode="after")
    def _as_a_bundle_takes_it(self) -> DataConfig:
        low, high = self.window_hu
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"window_hu must rise, got {self.window_hu}")
        for name in ("organs", "small_organs"):
            keys = getattr(self, name)
            if isinstance(keys, tuple) and len(set(keys)) != len(keys):
                raise ValueError(f"{name} names an organ twice")
        return self


class AugmentationConfig(_Model):
    """Random changes of a chunk: geometry (paper §4.2), intensities for robustness. No mirroring: sides matter."""

    rotation_axial_deg: float = 10.0
    rotation_tilt_deg: float = 5.0
    scale: Factors = (0.7, 1.3)
    translation_mm: float = Field(10.0, ge=0, description="Largest shift along x and y; 40 in the paper (§4.2)")
    probability: float = Field(0.3, ge=0, le=1, description="Chance of each intensity change")
    noise_hu: float = 30.0
    blur_mm: float = 2.0
    contrast: Factors = (0.9, 1.1)
    shift_hu: float = 20.0
    coarse_factor: float = Field(2.0, ge=1, description="Largest loss of in-plane or axial resolution")
    field_of_view_cut: float = Field(0.25, ge=0, lt=1, description="Largest share of a side replaced by air")


class LossConfig(_Model):
    """Weighted focal + Dice (paper §3.2)."""

    gamma: float = Field(2.0, allow_inf_nan=False, description="Focusing exponent: 0, or from 1 on")
    dice_weight: float = 1.0
    weight_range: Factors = (0.25, 4.0)
    missing: Literal["marginal", "masked"] = "marginal"
    heatmap_sigma_mm: Length = 5.0
    heatmap_weight: float = Field(
        200.0,
        description="Weight of a voxel at the peak relative to one without organ, and factor of SOL-Net's whole loss, "
        "which is a mean by those weights",
    )

    @model_validator(mode="after")
    def _finite_gradient(self) -> LossConfig:
        if self.gamma != 0 and self.gamma < 1:
            raise ValueError(f"gamma must be 0 or at least 1, got {self.gamma}: its gradient is not finite else")
        return self


class ShapeConfig(_Model):
    """Shape constraint of the small organs by an autoencoder (paper §3.3).

    ``none`` leaves SOS-Net alone, ``frozen`` pre-trains the autoencoder and then holds it (the "original AE" of table
    6), ``adversarial`` lets it play against SOS-Net.
    """

    constraint: Literal["none", "frozen", "adversarial"] = "none"
    widths: tuple[Size, Size, Size] = (64, 128, 256)
    code_size: int = Field(512, ge=1)
    weight: float = Field(5.0, ge=0, description="λ1 of eq 7")
    adversarial_weight: float = Field(0.001, ge=0, description="λ2 of eq 8")
    code_weight: float = Field(1.0, ge=0, description="Weight of the latent codes' distance in eq 5")
    feature_weight: float = Field(0.2, ge=0, description="Weight of each decoder feature's distance in eq 5")


class StageConfig(_Model):
    """One stage of the schedule (paper §4.2)."""

    name: StageName
    steps: int = Field(ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    adversary_learning_rate: float | None = Field(None, gt=0, description="Of the autoencoder; None is the stage's")
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = 0.0
    accumulate: int = Field(1, ge=1)
    validate_every: int = Field(250, ge=1)
    patience: int = Field(0, ge=0, description="Validations without a better score that end the stage; 0 never")
    foreground: float = Field(0.7, ge=0, le=1, description="Share of chunks at an organ; in sol, joint: at small ones")


class TrainingConfig(_Model):
    """A whole run."""

    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(0, ge=0)
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    shape: ShapeConfig = ShapeConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    ema_decay: float = Field(0.0, ge=0, lt=1, description="0 keeps no moving average of the weights")
    gradient_clip: float = Field(5.0, gt=0)
    max_skipped_steps: int = 20
    max_fall: float = Field(
        0.005, ge=0, description="Fall of the validation score that undoes the stages sos and joint"
    )
    validation_cases: int | None = Field(None, ge=1, description="Limit of cases in the validations between steps")

    @property
    def schedule(self) -> tuple[StageConfig, ...]:
        """The stages that this variant needs: without a shape constraint there is no autoencoder to train."""
        return tuple(s for s in self.stages if s.name != "aae" or self.shape.constraint != "none")

    @model_validator(mode="after")
    def _order(self) -> TrainingConfig:
        order = [s.name for s in self.stages]
        if len(set(order)) != len(order) or order != sorted(order, key=ORDER.index):
            raise ValueError(f"stages run once each in the order {', '.join(ORDER)}; got {order}")
        return self

    @model_validator(mode="after")
    def _shapes(self) -> TrainingConfig:
        roi, chunk = self.network.roi_shape_zyx, self.data.chunk_zyx
        if any(s.name != "snet" for s in self.stages) and any(r > c for r, c in zip(roi, chunk, strict=True)):
            raise ValueError(f"network.roi_shape_zyx = {roi} must fit into data.chunk_zyx = {chunk}")
        if self.network.sos == "unet" and (roi[0] % 2 or roi[1] % 4 or roi[2] % 4):
            raise ValueError(f"network.sos = 'unet' takes multiples of (2, 4, 4) as network.roi_shape_zyx, got {roi}")
        if self.shape.constraint == "none":
            return self
        names = {s.name for s in self.stages}
        if "sos" in names and "aae" not in names:
            raise ValueError(f"shape.constraint = {self.shape.constraint!r} needs the stage aae before sos")
        if any(n % AUTOENCODER_REDUCTION for n in roi) or math.prod(roi) < 4 * AUTOENCODER_REDUCTION**3:
            raise ValueError(
                f"the autoencoder takes multiples of {AUTOENCODER_REDUCTION}, at least 8 x 16 x 16, as ROI; got "
                f"network.roi_shape_zyx = {roi}"
            )
        return self


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files(__package__).joinpath("presets")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str, overrides: list[str] | None = None) -> TrainingConfig:
    """Configuration of a shipped preset.

    Raises:
        FocusNetError: ``E_UNKNOWN_PRESET``, ``E_CONFIG``.
    """
    if name not in preset_names():
        raise FocusNetError("E_UNKNOWN_PRESET", f"No preset '{name}'; there are {', '.join(preset_names())}.")
    text = resources.files(__package__).joinpath("presets", f"{name}.toml").read_text("utf-8")
    return _parse(text, overrides or [], f"preset {name}")


def load_config(path: Path, overrides: list[str] | None = None) -> TrainingConfig:
    """Configuration from a TOML file.

    Raises:
        FocusNetError: ``E_CONFIG`` when the file can't be read or a value does not fit.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise FocusNetError("E_CONFIG", f"Can't read the configuration: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FocusNetError("E_CONFIG", f"{path.name} is not a text in UTF-8; save it as such.") from error
    return _parse(text, overrides or [], path.name)


def _parse(text: str, overrides: list[str], source: str) -> TrainingConfig:
    try:
        values = tomllib.loads(text)
        for override in overrides:
            _set(values, override)
        return TrainingConfig.model_validate(values)
    except tomllib.TOMLDecodeError as error:
        raise FocusNetError("E_CONFIG", f"{source} is not valid TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FocusNetError("E_CONFIG", f"{source}: {where}: {first['msg']}.") from error


def _set(values: dict[str, Any], override: str) -> None:
    """Apply ``a.b=value``; a stage is addressed by name, ``stages.snet.steps=100``."""
    path, separator, text = override.partition("=")
    if not separator:
        raise FocusNetError("E_CONFIG", f"Expected key=value, got '{override}'.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    keys = path.strip().split(".")
    node: Any = values
    for key in keys[:-1]:
        if isinstance(node, list):
            node = next((stage for stage in node if stage.get("name") == key), None)
        else:
            node = node.setdefault(key, {})
        if not isinstance(node, dict | list):
            raise FocusNetError("E_CONFIG", f"No configuration value '{path}'.")
    if not isinstance(node, dict):
        raise FocusNetError("E_CONFIG", f"'{path}' is a list; name a value of one stage, stages.snet.steps=100.")
    node[keys[-1]] = value
