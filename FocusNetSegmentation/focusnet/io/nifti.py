"""NIfTI files, read by ourselves.

ITK follows one of the two transforms of a NIfTI header without a word when they contradict each other, fills a
truncated file with zeros, and reads neither sheared grids nor NIfTI-2.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focusnet.errors import FocusNetError

AGREE_MM = 1.0
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_GZIP_RATIO = 1100
SPARE_BYTES = 1 << 20  # may follow the voxels
HEADER_BYTES = 348
DATA_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class NiftiHeader:
    """What places and scales the voxels; the transforms are to RAS mm, None where their code is 0."""

    shape_xyz: tuple[int, ...]
    data_type: np.dtype[Any]
    data_offset: int
    scale: tuple[float, float]
    qform: NDArray[np.float64] | None
    sform: NDArray[np.float64] | None

    @property
    def end_of_data(self) -> int:
        """Bytes up to the last voxel."""
        return self.data_offset + int(np.prod(self.shape_xyz, dtype=object)) * self.data_type.itemsize


def read_nifti(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels and place of a NIfTI-1 or NIfTI-2 single file, packed or not.

    Returns:
        Array of shape ``(z, y, x)``, scaled as the header says (trailing axes of length one are dropped), and the 4x4
        matrix from voxel index ``(i, j, k, 1)`` to LPS mm: the sform where it is set, else the qform.

    Raises:
        FocusNetError: ``E_UNREADABLE`` for a damaged or truncated file, also by its check sum; ``E_NOT_3D``;
            ``E_BAD_GEOMETRY`` when neither transform is set (left and right are unknown), or both are and place a
            voxel more than 1 mm apart.
    """
    damaged = FocusNetError("E_UNREADABLE", f"'{path.name}' is damaged or truncated; copy or export it again.")
    try:
        with _open(path) as file:
            header = read_nifti_header(path)
            if header.end_of_data > MAX_GZIP_RATIO * path.stat().st_size:
                raise damaged
            raw = file.read(header.end_of_data)
            # The check sum of a packed file is compared at its very end.
            if len(file.read(SPARE_BYTES + 1)) > SPARE_BYTES:
                raise damaged
    except (OSError, EOFError, zlib.error) as error:
        raise damaged from error
    if len(raw) < header.end_of_data:
        raise damaged
    shape = header.shape_xyz
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        size = " x ".join(str(n) for n in shape)
        raise FocusNetError("E_NOT_3D", f"The image has {len(shape)} axes ({size}); give one scalar 3-D volume.")
    stored = np.frombuffer(raw, header.data_type, offset=header.data_offset).reshape(shape[::-1])
    return _scaled(stored.astype(header.data_type.newbyteorder("=")), *header.scale), _affine(header)


def read_nifti_header(path: Path) -> NiftiHeader:
    """Parse the header.

    Raises:
        FocusNetError: ``E_UNREADABLE`` when the file is no NIfTI, ``E_NOT_3D`` for colour and complex values.
    """
    try:
        with _open(path) as file:
            raw = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise FocusNetError("E_UNREADABLE", f"'{path.name}' is damaged or truncated.") from error
    for order in "<>":
        if len(raw) >= 348 and struct.unpack_from(order + "i", raw)[0] == 348:
            return _nifti1(raw, order)
        if len(raw) >= 540 and struct.unpack_from(order + "i", raw)[0] == 540:
            return _nifti2(raw, order)
    raise FocusNetError("E_UNREADABLE", f"'{path.name}' is no NIfTI file, or truncated.")


def _nifti1(raw: bytes, order: str) -> NiftiHeader:
    def get(form: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, raw, offset)

    return _header(
        order=order,
        dim=get("8h", 40),
        data_type=get("h", 70)[0],
        pixdim=get("8f", 76),
        data_offset=get("f", 108)[0],
        scale=get("2f", 112),
        units=get("B", 123)[0],
        codes=get("2h", 252),
        quaternion=get("6f", 256),
        rows=get("12f", 280),
    )


def _nifti2(raw: bytes, order: str) -> NiftiHeader:
    def get(form: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, raw, offset)

    return _header(
        order=order,
        dim=get("8q", 16),
        data_type=get("h", 12)[0],
        pixdim=get("8d", 104),
        data_offset=get("q", 168)[0],
        scale=get("2d", 176),
        units=get("i", 500)[0],
        codes=get("2i", 344),
        quaternion=get("6d", 352),
        rows=get("12d", 400),
    )


def _header(**field: Any) -> NiftiHeader:
    """From the fields that both versions of the format share."""
    count = field["dim"][0]
    shape = tuple(int(n) for n in field["dim"][1 : 1 + max(0, count)])
    if not 1 <= count <= 7 or min(shape) < 1 or not HEADER_BYTES <= field["data_offset"] < 2**31:
        raise FocusNetError(
            "E_UNREADABLE",
            f"The NIfTI header is damaged (it states the shape {shape}, voxels from byte {field['data_offset']:g} on).",
        )
    if field["data_type"] not in DATA_TYPES:
        raise FocusNetError(
            "E_NOT_3D", "The image holds colours or complex numbers; give one scalar 3-D volume in Hounsfield units."
        )
    to_mm = np.diag([MM_PER_UNIT.get(field["units"] & 7, 1.0)] * 3 + [1.0])
    qform_code, sform_code = field["codes"]
    return NiftiHeader(
        shape_xyz=shape,
        data_type=np.dtype(field["order"] + DATA_TYPES[field["data_type"]]),
        data_offset=int(field["data_offset"]),
        scale=field["scale"],
        qform=to_mm @ _qform(field["pixdim"], field["quaternion"]) if qform_code > 0 else None,
        sform=to_mm @ np.vstack([np.reshape(field["rows"], (3, 4)), [0, 0, 0, 1]]) if sform_code > 0 else None,
    )


def _qform(pixdim: tuple[float, ...], quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    """Method 2 of the NIfTI-1 standard: unit quaternion, pixel size, offset; ``pixdim[0]`` turns the third axis."""
    b, c, d = quaternion[:3]
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * [pixdim[1], pixdim[2], pixdim[3] * (-1.0 if pixdim[0] < 0 else 1.0)]
    affine[:3, 3] = quaternion[3:]
    return affine


def _affine(header: NiftiHeader) -> NDArray[np.float64]:
    affine = header.qform if header.sform is None else header.sform
    if affine is None:
        raise FocusNetError(
            "E_BAD_GEOMETRY",
            "The NIfTI header states no orientation (qform and sform codes are 0), so left and right are unknown; "
            "convert again from DICOM.",
        )
    if header.qform is not None:
        corners = np.array(list(itertools.product(*[(0, n - 1) for n in header.shape_xyz[:3]], [1])), dtype=np.float64)
        apart = np.linalg.norm(corners @ (affine - header.qform)[:3].T, axis=1).max()
        if not apart <= AGREE_MM:
            raise FocusNetError(
                "E_BAD_GEOMETRY",
                f"The two orientations in the NIfTI header contradict each other (qform and sform place a voxel "
                f"{apart:.1f} mm apart); convert again from DICOM or delete the wrong one.",
            )
    return LPS_FROM_RAS @ affine


def _scaled(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Stored values to real ones; a slope of 0 means that there is no scaling (NIfTI-1, ``scl_slope``)."""
    if slope == 0 or not np.isfinite([slope, intercept]).all() or (slope, intercept) == (1, 0):
        return array
    if np.issubdtype(array.dtype, np.integer) and float(slope).is_integer() and float(intercept).is_integer():
        return array.astype(np.int64) * int(slope) + int(intercept)
    return (array * np.float64(slope) + intercept).astype(np.float32)


def _open(path: Path) -> Any:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")
