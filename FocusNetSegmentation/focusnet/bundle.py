"""Model bundles: a folder with ``bundle.json`` + ``weights.safetensors`` + ``MODEL_CARD.md``.

Everything that segmentation needs to know about a model is in the folder, and everything in it is checked before
use: the schema, the size and SHA-256 of the weights, the safetensors header against the architecture. Nothing is ever
unpickled.
"""

from __future__ import annotations

import hashlib
import math
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from focusnet import __version__, organs
from focusnet.errors import FocusNetError

if TYPE_CHECKING:
    from torch import nn

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
CARD_NAME = "MODEL_CARD.md"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
FILE_LIMITS = {SPEC_NAME: 2**20, WEIGHTS_NAME: 2**30, CARD_NAME: 2**22}
PEAK_THRESHOLD = 0.25

Positive = Annotated[int, Field(gt=0, le=4096)]
PositiveTriple = tuple[Positive, Positive, Positive]
Precision = Literal["fp32", "fp16", "bf16"]


class Architecture(BaseModel):
    """Which network, as `focusnet.networks.builders.build` takes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any]


class ModelSpec(BaseModel):
    """What a model is and how it must be fed; written by training, read by the Predictor.

    Attributes:
        name: Short name, letters, digits, ``.``, ``_`` and ``-``.
        description: One sentence for a list of models.
        architecture: Network and its constructor arguments.
        organs: Canonical keys of the classes 1, 2, ...; class 0 is the background.
        small_organs: The subset that SOL-Net locates and SOS-Net segments, in the order of their heat maps.
        spacing_mm_xyz: Working grid, mm along x, y and z.
        window_hu: HU window mapped linearly onto [-1, 1].
        chunk_shape_zyx: Largest piece computed at once, in working voxels.
        overlap_zyx: Least overlap of neighbouring pieces; at most half of the piece.
        multiple_zyx: The sizes of a piece are multiples of this.
        roi_shape_zyx: Size of a small organ's ROI, in working voxels.
        peak_threshold: Least height of a heat map's peak that counts as found.
        grids: Working grids whose mean answer is taken; 4 are half a voxel apart from each other along two axes.
        training_data: Statement on the training data: source, licence, number of cases.
        metrics: Validation result of the release, for example DSC per organ.
        expected_dsc: Per organ, offset and slope of the DSC to expect over the mean probability of its label, fitted on
            the validation patients (see `focusnet.uncertainty`); organs with too few of them are missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str
    architecture: Architecture
    organs: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    small_organs: tuple[str, ...] = ()
    spacing_mm_xyz: tuple[float, float, float]
    window_hu: tuple[float, float] = (-200.0, 1000.0)
    chunk_shape_zyx: PositiveTriple = (40, 240, 240)
    overlap_zyx: tuple[int, int, int] = (10, 48, 48)
    multiple_zyx: PositiveTriple = (2, 4, 4)
    roi_shape_zyx: PositiveTriple = (8, 64, 64)
    peak_threshold: Annotated[float, Field(ge=0, lt=1)] = PEAK_THRESHOLD
    grids: Literal[1, 4] = 1
    training_data: str
    metrics: dict[str, float] = {}
    expected_dsc: dict[str, tuple[float, float]] = {}

    @field_validator("organs")
    @classmethod
    def _known(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if key not in organs.CATALOGUE:
                raise ValueError(f"'{key}' is no organ of the catalogue")
        if len(set(keys)) != len(keys):
            raise ValueError("an organ is listed twice")
        return keys

    @field_validator("spacing_mm_xyz")
    @classmethod
    def _plausible(cls, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0.1 <= s <= 20 for s in spacing):
            raise ValueError("a spacing lies outside 0.1 to 20 mm")
        return spacing

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if len(set(self.small_organs)) != len(self.small_organs) or not set(self.small_organs) <= set(self.organs):
            raise ValueError("small_organs must be distinct members of organs")
        if not (math.isfinite(self.window_hu[0]) and self.window_hu[0] < self.window_hu[1] < math.inf):
            raise ValueError("window_hu must rise")
        if any(size % multiple for size, multiple in zip(self.chunk_shape_zyx, self.multiple_zyx, strict=True)):
            raise ValueError("chunk_shape_zyx must be multiples of multiple_zyx")
        if any(not 0 <= o <= size // 2 for o, size in zip(self.overlap_zyx, self.chunk_shape_zyx, strict=True)):
            raise ValueError("overlap_zyx must lie between 0 and half of chunk_shape_zyx")
        if self.small_organs and any(
            roi > size for roi, size in zip(self.roi_shape_zyx, self.chunk_shape_zyx, strict=True)
        ):
            raise ValueError("roi_shape_zyx must fit into chunk_shape_zyx")
        self._check_arguments()
        return self

    def _check_arguments(self) -> None:
        for name, count in (("num_classes", len(self.organs) + 1), ("num_small", len(self.small_organs))):
            given = self.architecture.arguments.get(name, 0)
            if given != count:
                raise ValueError(f"the architecture's {name} is {given}, the organs ask for {count}")


class Weights(BaseModel):
    """The weights file this description belongs to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0, le=FILE_LIMITS[WEIGHTS_NAME])]
    precision: Precision


class BundleSpec(ModelSpec):
    """Content of ``bundle.json``: the model, its weights file and where it comes from."""

    schema_version: Literal[1] = 1
    created: datetime
    software: dict[str, str]
    weights: Weights


@dataclass(frozen=True)
class Bundle:
    """A verified model ready for use.

    Attributes:
        folder: Where it was read from.
        spec: Its description.
        network: On the CPU in float32 and evaluation mode.
    """

    folder: Path
    spec: BundleSpec
    network: nn.Module


def read_spec(folder: Path | str) -> BundleSpec:
    """Description of a bundle, validated, without reading its weights (and without torch).

    Raises:
        FocusNetError: ``E_BUNDLE_FORMAT`` when the folder is no bundle, ``E_BUNDLE_SCHEMA`` when ``bundle.json`` is
            wrong.
    """
    data = _read(Path(folder), SPEC_NAME)
    try:
        return BundleSpec.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise FocusNetError(
            "E_BUNDLE_SCHEMA",
            f"{SPEC_NAME} of '{Path(folder).name}' is invalid at {where}: {first['msg']}; get the bundle again.",
        ) from None


def read_card(folder: Path | str) -> str:
    """Text of a bundle's model card.

    Raises:
        FocusNetError: ``E_BUNDLE_FORMAT``.
    """
    return _read(Path(folder), CARD_NAME).decode("utf-8", "replace")


def load_bundle(folder: Path | str) -> Bundle:
    """Read and verify a bundle: schema, size and hash of the weights, every tensor's name, shape and type.

    Raises:
        FocusNetError: ``E_BUNDLE_FORMAT``, ``E_BUNDLE_SCHEMA`` or ``E_BUNDLE_HASH``.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    _read(folder, CARD_NAME)
    data = _read(folder, WEIGHTS_NAME)
    if len(data) != spec.weights.bytes or hashlib.sha256(data).hexdigest() != spec.weights.sha256:
        raise FocusNetError(
            "E_BUNDLE_HASH",
            f"{WEIGHTS_NAME} of '{spec.name}' is not the file that {SPEC_NAME} describes "
            f"({len(data)} bytes, expected {spec.weights.bytes}, SHA-256 compared); get the bundle again.",
        )
    from focusnet import bundle_weights

    network = bundle_weights.unpack(spec.name, spec.architecture.name, spec.architecture.arguments, data)
    roi_shape = getattr(network, "roi_shape_zyx", None)
    if spec.small_organs and roi_shape != spec.roi_shape_zyx:
        raise FocusNetError(
            "E_BUNDLE_SCHEMA",
            f"The network of '{spec.name}' has ROIs of {roi_shape} voxels, not of {spec.roi_shape_zyx}.",
        )
    return Bundle(folder, spec, network)


def save_bundle(
    folder: Path | str,
    model: ModelSpec,
    network: nn.Module,
    model_card: str,
    *,
    precision: Precision = "fp16",
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle: into a temporary folder that is renamed when complete and verified.

    Args:
        folder: The bundle's folder; created, parents too.
        model: Description of the model.
        network: What ``model.architecture`` builds; its parameters and buffers are stored.
        model_card: Text of ``MODEL_CARD.md``.
        precision: How floating-point weights are stored.
        overwrite: Replace a bundle that is there.

    Returns:
        The bundle as read back.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS`` when the folder is there, ``E_BUNDLE_FORMAT`` when the weights are not finite
            in ``precision`` or do not belong to the architecture.
    """
    from focusnet import bundle_weights
    from focusnet.io.atomic import new_folder

    folder = Path(folder)
    data = bundle_weights.pack(network, precision)
    spec = BundleSpec(
        **model.model_dump(exclude=set(BundleSpec.model_fields) - set(ModelSpec.model_fields)),
        created=datetime.now(UTC).replace(microsecond=0),
        software={
            "slicer-focusnet": __version__,
            "python": platform.python_version(),
            **bundle_weights.software(),
        },
        weights=Weights(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), precision=precision),
    )
    with new_folder(folder, overwrite, holds_bundle) as temporary:
        (temporary / SPEC_NAME).write_text(spec.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / WEIGHTS_NAME).write_bytes(data)
        (temporary / CARD_NAME).write_text(model_card.rstrip() + "\n", encoding="utf-8")
        verified = load_bundle(temporary)
    return Bundle(folder, verified.spec, verified.network)


def holds_bundle(folder: Path) -> bool:
    """Whether a folder is that of a bundle, whole or not."""
    return (folder / SPEC_NAME).is_file()


def _read(folder: Path, name: str) -> bytes:
    """One file of a bundle; only a plain file inside the folder and of a sensible size is read."""
    if not folder.is_dir():
        hint = " Pickled checkpoints are never read." if folder.suffix in {".pt", ".pth", ".ckpt", ".pkl"} else ""
        raise FocusNetError("E_BUNDLE_FORMAT", f"'{folder}' is no model bundle: no folder with {SPEC_NAME}.{hint}")
    path = folder / name
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise FocusNetError("E_BUNDLE_FORMAT", f"{name} of '{folder.name}' is a link out of the bundle; copy it in.")
    if not path.is_file():
        raise FocusNetError("E_BUNDLE_FORMAT", f"'{folder}' is no complete model bundle: {name} is missing.")
    if path.stat().st_size > FILE_LIMITS[name]:
        raise FocusNetError(
            "E_BUNDLE_FORMAT",
            f"{name} of '{folder.name}' has {path.stat().st_size} bytes, at most {FILE_LIMITS[name]} are read.",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise FocusNetError("E_BUNDLE_FORMAT", f"{name} of '{folder.name}' can't be read: {error.strerror}.") from error
