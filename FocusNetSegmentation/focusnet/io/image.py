"""Image files of one volume: NRRD, NIfTI and MetaImage, through SimpleITK, with the checks SimpleITK does not make."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from focusnet.errors import FocusNetError, lacks_memory, out_of_memory
from focusnet.geometry import Geometry, Volume, to_sitk
from focusnet.io.atomic import atomic_path
from focusnet.io.hounsfield import AIR_HU, check_finite, check_hu
from focusnet.io.nifti import MAX_GZIP_RATIO, SPARE_BYTES, read_nifti
from focusnet.io.packed import unpacked_size
from focusnet.io.shear import straighten

__all__ = ["SUFFIXES", "check_hu", "compact", "image_suffix", "load_sitk", "path_for_itk", "read_image", "write_image"]

SUFFIXES = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
ITK_SPACE = "left-posterior-superior"  # what ITK turns every space of a patient into
DETACHED = (".nhdr", ".mhd")
MIN_SLICES = 3
ONE_AT_A_TIME = threading.Lock()
"""ITK's NRRD reader keeps its errors in global memory: two threads that read damaged files end the process."""
SPACING_MM = (0.01, 50.0)
MAX_VALUE_BYTES = 8


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """Voxels as stored, ``(z, y, x)`` or ``(z, y, x, component)``, their grid, and the text fields of the header."""

    array: NDArray[Any]
    geometry: Geometry
    metadata: dict[str, str]


def read_image(path: str | Path, *, hounsfield: bool = True) -> Volume:
    """Read one 3-D scalar image.

    Integers that fit become int16, everything else float32. A sheared grid (gantry tilt) is straightened.

    Args:
        path: ``.nrrd``, ``.nhdr``, ``.nii``, ``.nii.gz``, ``.mha`` or ``.mhd``.
        hounsfield: Check that the values can be a CT in HU and set padding to air (see :func:`check_hu`); switch it
            off for other images, such as maps of uncertainty.

    Returns:
        Volume of shape ``(z, y, x)`` in LPS mm.

    Raises:
        FocusNetError: ``E_UNREADABLE`` (absent, unknown format, damaged, truncated), ``E_NOT_3D`` (2-D, 4-D, colour),
            ``E_TOO_FEW_SLICES``, ``E_BAD_GEOMETRY``, ``E_GANTRY_TILT``, ``E_NON_FINITE``, and with ``hounsfield``
            ``E_EMPTY_IMAGE``, ``E_NOT_HU``, ``E_NOT_CT``.
    """
    loaded = load_sitk(path)
    if loaded.array.ndim != 3:
        raise FocusNetError(
            "E_NOT_3D",
            f"The image has {loaded.array.shape[3]} values per voxel (colour or a time series); "
            "give one scalar 3-D volume.",
        )
    if min(loaded.array.shape) < MIN_SLICES:
        raise FocusNetError(
            "E_TOO_FEW_SLICES",
            f"The image has {_size(loaded.array.shape)} voxels; at least {MIN_SLICES} are needed along every axis.",
        )
    check_finite(loaded.array)
    volume = Volume(compact(loaded.array), loaded.geometry)
    if hounsfield:
        volume = check_hu(volume)
    return straighten(volume, fill=AIR_HU if hounsfield else 0)


def write_image(volume: Volume, path: str | Path, *, overwrite: bool = False) -> None:
    """Write one volume, compressed, under its final name only when complete.

    Args:
        volume: ``(z, y, x)`` on a right-angled grid.
        path: ``.nrrd``, ``.nii``, ``.nii.gz`` or ``.mha``.
        overwrite: Replace an existing file.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``, ``E_OUTPUT_FORMAT``, ``E_OUTPUT_WRITE``, ``E_BAD_GEOMETRY``.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if suffix is None or suffix in DETACHED:
        raise FocusNetError("E_OUTPUT_FORMAT", f"'{path.name}' names no single-file image; use .nrrd, .nii.gz or .mha.")
    image = to_sitk(volume)
    with atomic_path(path, overwrite=overwrite) as temporary:
        write_with_itk(image, temporary, path)


def write_with_itk(image: sitk.Image, temporary: Path, path: Path) -> None:
    """Write an image, compressed, to the temporary name of the file ``path``.

    Raises:
        FocusNetError: ``E_OUTPUT_WRITE``, ``E_OUT_OF_MEMORY``.
    """
    name = path_for_itk(temporary, "E_OUTPUT_WRITE")
    try:
        sitk.WriteImage(image, name, useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        if lacks_memory(error):
            raise out_of_memory() from error
        raise FocusNetError(
            "E_OUTPUT_WRITE", f"'{path.name}' can't be written; check free space and permissions."
        ) from error


def path_for_itk(path: Path, code: str = "E_UNREADABLE") -> str:
    """A path as SimpleITK takes it: one that is no UTF-8 would end the whole process there.

    Raises:
        FocusNetError: ``code``.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        what = "read" if code == "E_UNREADABLE" else "written"
        raise FocusNetError(
            code, f"The file can't be {what}: its path is no valid UTF-8; rename it or its folder."
        ) from error
    return str(path)


def load_sitk(path: str | Path) -> LoadedImage:
    """Read a file whose size, header and completeness are checked; values are as stored.

    A fourth axis of length one is dropped, a longer one is refused; components of a vector image come last.

    Raises:
        FocusNetError: ``E_UNREADABLE``, ``E_NOT_3D``, ``E_BAD_GEOMETRY``, ``E_OUT_OF_MEMORY``.
    """
    path = Path(path)
    suffix = image_suffix(path)
    if not path.is_file():
        raise FocusNetError("E_UNREADABLE", f"There is no file '{path.name}'.")
    if suffix is None:
        raise FocusNetError(
            "E_UNREADABLE", f"'{path.name}' has no known image format; give NRRD, NIfTI, MHA or a DICOM folder."
        )
    if SUFFIXES[suffix] == "NiftiImageIO":
        array, affine = read_nifti(path)
        z, y, x = array.shape
        loaded = LoadedImage(array, Geometry((z, y, x), affine), {})
    else:
        loaded = _read_with_itk(path, suffix)
    low, high = SPACING_MM
    spacing = loaded.geometry.spacing_xyz
    if min(spacing) < low or max(spacing) > high:
        measures = " x ".join(f"{s:g}" for s in spacing)
        raise FocusNetError("E_BAD_GEOMETRY", f"Voxels measure {measures} mm, not between {low} and {high:g} mm.")
    return loaded


def image_suffix(path: Path) -> str | None:
    """The known suffix that a file name ends with, in lower case, or None."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """The values as int16 where they are integers that fit, otherwise as float32."""
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(np.int16)
        fits = array.dtype.itemsize == 1 or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)
        return array.astype(np.int16 if fits else np.float32, copy=False)
    return array.astype(np.float32, copy=False)


def _read_with_itk(path: Path, suffix: str) -> LoadedImage:
    damaged = FocusNetError("E_UNREADABLE", f"'{path.name}' is damaged or truncated; export it again.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(path_for_itk(path))
    reader.SetImageIO(SUFFIXES[suffix])
    try:
        with ONE_AT_A_TIME:
            reader.ReadImageInformation()
        size = reader.GetSize()
        count = int(np.prod(size, dtype=object)) * reader.GetNumberOfComponents()
        room = MAX_GZIP_RATIO * path.stat().st_size
        if count < 1 or (count > room and suffix not in DETACHED):
            raise FocusNetError("E_UNREADABLE", f"The header of '{path.name}' states {count} values, which can't be.")
        if len(size) == 4 and size[3] == 1:
            reader.SetExtractSize((*size[:3], 0))
        unpacked = unpacked_size(path, count * MAX_VALUE_BYTES + SPARE_BYTES)
        with ONE_AT_A_TIME:
            image = reader.Execute()
    except (RuntimeError, ValueError, OSError) as error:
        if lacks_memory(error):
            raise out_of_memory() from error
        raise damaged from error
    size = image.GetSize()
    if len(size) != 3:
        raise FocusNetError("E_NOT_3D", f"The image has {len(size)} axes ({_size(size)}); give one scalar 3-D volume.")
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    if SUFFIXES[suffix] == "NrrdImageIO" and metadata.get("NRRD_space") != ITK_SPACE:
        raise FocusNetError(
            "E_BAD_GEOMETRY",
            f"'{path.name}' states no patient space (NRRD field 'space'), so left and right are unknown; "
            "export it again with orientation.",
        )
    geometry = Geometry.from_parts(size[::-1], image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    array = sitk.GetArrayFromImage(image)
    if unpacked is not None and unpacked != array.nbytes:
        raise damaged
    return LoadedImage(array, geometry, metadata)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
