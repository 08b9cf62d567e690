"""Reading and writing of images, segmentations and DICOM; what comes in is checked, what goes out is complete."""

from __future__ import annotations

from pathlib import Path

from focusnet.geometry import Volume
from focusnet.io.dicom import is_dicom, read_series
from focusnet.io.hounsfield import check_hu
from focusnet.io.image import read_image, write_image
from focusnet.io.segmentation import read_segmentation, write_segmentation

__all__ = [
    "check_hu",
    "read_image",
    "read_segmentation",
    "read_series",
    "read_volume",
    "write_image",
    "write_segmentation",
]


def read_volume(path: str | Path) -> Volume:
    """Read a CT: an image file, or a folder with a DICOM series.

    Args:
        path: ``.nrrd``, ``.nii``, ``.nii.gz``, ``.mha``, ``.mhd`` file; DICOM folder; or one multi-frame DICOM file.

    Returns:
        Volume in HU (int16, or float32 where the values need it), ``(z, y, x)``, LPS mm, on a right-angled grid.

    Raises:
        FocusNetError: See :func:`focusnet.io.image.read_image` and :func:`focusnet.io.dicom.read_series`.
    """
    path = Path(path)
    if path.is_dir() or is_dicom(path):
        return read_series(path)
    return read_image(path)
