"""Orientation of NIfTI files, read by ourselves.

ITK follows one of the two transforms of a NIfTI header without a word when they contradict each other, makes a
sheared one orthogonal, and reads a truncated file as if it were whole.
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


@dataclass(frozen=True)
class NiftiHeader:
    """What places the voxels: transforms in RAS mm (None where the code is 0) and the size of the data."""

    shape_xyz: tuple[int, ...]
    qform: NDArray[np.float64] | None
    sform: NDArray[np.float64] | None
    end_of_data: int


def read_nifti_affine(path: Path) -> NDArray[np.float64]:
    """4x4 matrix from voxel index ``(i, j, k, 1)`` to LPS mm: the sform where it is set, else the qform.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when neither is set (left and right are unknown) or both are set and place a
            voxel more than 1 mm apart; ``E_UNREADABLE`` for a damaged or truncated file.
    """
    header = read_nifti_header(path)
    _check_complete(path, header.end_of_data)
    if header.qform is None and header.sform is None:
        raise FocusNetError(
            "E_BAD_GEOMETRY",
            "The NIfTI header states no orientation (qform and sform codes are 0), so left and right are unknown; "
            "convert again from DICOM.",
        )
    if header.qform is not None and header.sform is not None:
        ends = [(0, n - 1) for n in (*header.shape_xyz, 1, 1, 1)[:3]]
        corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], dtype=np.float64)
        apart = np.linalg.norm(corners @ (header.sform - header.qform)[:3].T, axis=1).max()
        if apart > AGREE_MM:
            raise FocusNetError(
                "E_BAD_GEOMETRY",
                f"The two orientations in the NIfTI header contradict each other (qform and sform place a voxel "
                f"{apart:.1f} mm apart); convert again from DICOM or delete the wrong one.",
            )
    affine = header.sform if header.sform is not None else header.qform
    return LPS_FROM_RAS @ affine


def read_nifti_header(path: Path) -> NiftiHeader:
    """Parse the header of a NIfTI-1 or NIfTI-2 single file.

    Raises:
        FocusNetError: ``E_UNREADABLE`` when it is none.
    """
    try:
        with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as file:
            raw = file.read(540)
    except (OSError, EOFError, zlib.error) as error:
        raise FocusNetError("E_UNREADABLE", f"'{path.name}' is damaged or truncated.") from error
    for order in "<>":
        if len(raw) >= 348 and struct.unpack_from(order + "i", raw)[0] == 348:
            return _nifti1(raw, order)
        if len(raw) >= 540 and struct.unpack_from(order + "i", raw)[0] == 540:
            return _nifti2(raw, order)
    raise FocusNetError("E_UNREADABLE", f"'{path.name}' is no NIfTI file.")


def _nifti1(raw: bytes, order: str) -> NiftiHeader:
    def get(form: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, raw, offset)

    return _header(
        dim=get("8h", 40),
        bits=get("h", 72)[0],
        pixdim=get("8f", 76),
        data_offset=get("f", 108)[0],
        units=get("B", 123)[0],
        codes=get("2h", 252),
        quaternion=get("6f", 256),
        rows=get("12f", 280),
    )


def _nifti2(raw: bytes, order: str) -> NiftiHeader:
    def get(form: str, offset: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, raw, offset)

    return _header(
        dim=get("8q", 16),
        bits=get("h", 14)[0],
        pixdim=get("8d", 104),
        data_offset=get("q", 168)[0],
        units=get("i", 500)[0],
        codes=get("2i", 344),
        quaternion=get("6d", 352),
        rows=get("12d", 400),
    )


def _header(**field: Any) -> NiftiHeader:
    """Transforms and data size from the fields, which both versions of the format share."""
    count = field["dim"][0]
    if not 1 <= count <= 7:
        raise FocusNetError("E_UNREADABLE", f"The NIfTI header states {count} axes.")
    shape = tuple(int(n) for n in field["dim"][1 : 1 + count])
    scale = np.diag([MM_PER_UNIT.get(field["units"] & 7, 1.0)] * 3 + [1.0])
    qform_code, sform_code = field["codes"]
    qform = scale @ _qform(field["pixdim"], field["quaternion"]) if qform_code > 0 else None
    sform = scale @ np.vstack([np.reshape(field["rows"], (3, 4)), [0, 0, 0, 1]]) if sform_code > 0 else None
    size = int(np.prod([max(n, 0) for n in shape], dtype=object)) * field["bits"] // 8
    return NiftiHeader(shape, qform, sform, int(field["data_offset"]) + size)


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


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _check_complete(path: Path, expected: int) -> None:
    if _content_size(path, expected) < expected:
        raise FocusNetError("E_UNREADABLE", f"'{path.name}' is truncated; copy or export it again.")


def _content_size(path: Path, expected: int) -> int:
    """Bytes in the file, unpacked; a gzip file states it in its last four bytes, unless it has several members."""
    if not _is_gzip(path):
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-4, 2)
        if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
            return expected
    size = 0
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(1 << 20):
                size += len(block)
                if size >= expected:
                    break
    except (OSError, EOFError, zlib.error):
        return 0
    return size
