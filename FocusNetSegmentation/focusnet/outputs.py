"""The files of a segmentation: which ones, where, and how they are written."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap, Volume
from focusnet.io.atomic import check_folder, check_folder_writable, check_target, new_folder, unwritable
from focusnet.io.image import write_image
from focusnet.io.segmentation import labels_path, write_segmentation
from focusnet.uncertainty import uncertainty_percent

if TYPE_CHECKING:
    from focusnet.analysis import Analysis
    from focusnet.io.dicom import SeriesReference

ENDINGS = {
    "seg.nrrd": ".seg.nrrd",
    "nii.gz": ".nii.gz",
    "nrrd": ".nrrd",
    "rtstruct": ".rtstruct.dcm",
    "dicomseg": ".seg.dcm",
    "mrb": ".mrb",
}
"""Ending of the files of each format."""
NAMED_BY = {**{ending: name for name, ending in ENDINGS.items()}, ".dcm": "rtstruct"}
"""Format that the ending of an output's name means; the first that fits counts."""
PER_ORGAN = ("seg.nrrd", "nii.gz", "nrrd")
LABELMAPS = ("nii.gz", "nrrd")
DICOM = ("rtstruct", "dicomseg")
UNCERTAINTY = "uncertainty"
UNCERTAINTY_ENDING = ".uncertainty.nrrd"


@dataclass(frozen=True)
class OutputOptions:
    """What is written.

    Attributes:
        formats: Keys of `ENDINGS`; empty takes what the output's name says, else ``seg.nrrd``.
        per_organ: A folder with one file per organ, or one Segmentation node per organ in a scene.
        uncertainty: Also write the uncertainty of each voxel's label, in percent.
        overwrite: Replace files that are there.
    """

    formats: tuple[str, ...] = ()
    per_organ: bool = False
    uncertainty: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Output:
    """One file to be written, or one folder with a file per organ.

    Attributes:
        path: Where.
        formats: Its format; several only for the files of a folder.
        is_folder: Whether it is a folder.
    """

    path: Path
    formats: tuple[str, ...]
    is_folder: bool = False


@dataclass(frozen=True, eq=False)
class Result:
    """A segmented case.

    Attributes:
        case: Its name.
        source: What was read: a file, a folder, or the files of a series.
        series: Number of the DICOM series, where one was asked for.
        volume: The CT.
        analysis: Its segmentation.
        reference: The series that DICOM objects refer to, from `read_reference`; read when needed where it is None.
    """

    case: str
    source: Path | Sequence[Path]
    series: int | None
    volume: Volume
    analysis: Analysis
    reference: SeriesReference | None = None


def plan_outputs(case: str, source: Path, out: Path, options: OutputOptions, *, several: bool) -> list[Output]:
    """Where the outputs of a case go.

    Args:
        case: Name of the case.
        source: What is read; DICOM objects need a folder with a DICOM series.
        out: A file, whose ending says its format, or a folder.
        options: What is written.
        several: Whether there are more cases, which need a folder.

    Raises:
        FocusNetError: ``E_OUTPUT_FORMAT`` for a format that is unknown or that the source does not allow, ``E_USAGE``
            when several cases would go into one file, or an output would replace the CT.
    """
    for name in options.formats:
        if name not in ENDINGS:
            raise FocusNetError("E_OUTPUT_FORMAT", f"No format '{name}'; there are {', '.join(ENDINGS)}.")
    is_folder = _is_folder(out)
    ending = "" if is_folder else next((e for e in NAMED_BY if out.name.lower().endswith(e)), "")
    if ending and several:
        raise FocusNetError("E_USAGE", f"'{out}' is one file for several cases; name a folder.")
    if not ending and not is_folder and out.suffix[1:].isalpha() and len(out.suffix) <= 5:
        raise FocusNetError(
            "E_OUTPUT_FORMAT", f"'{out.name}' ends in no known format ({', '.join(NAMED_BY)}) and is no folder yet."
        )
    formats = tuple(dict.fromkeys(options.formats)) or (NAMED_BY[ending] if ending else "seg.nrrd",)
    if set(formats) & set(DICOM) and not source.is_dir():
        raise FocusNetError(
            "E_OUTPUT_FORMAT", "DICOM objects refer to the slices of a CT; give the CT as their folder."
        )
    base = out.with_name(out.name[: len(out.name) - len(ending)]) if ending else out / case
    outputs = []
    if options.per_organ and (files := tuple(name for name in formats if name in PER_ORGAN)):
        outputs.append(Output(base, files, is_folder=True))
        formats = tuple(name for name in formats if name not in files)
    for name in formats:
        exact = ending and NAMED_BY[ending] == name
        outputs.append(Output(out if exact else base.with_name(base.name + ENDINGS[name]), (name,)))
    if options.uncertainty:
        outputs.append(Output(base.with_name(base.name + UNCERTAINTY_ENDING), (UNCERTAINTY,)))
    for output in outputs:
        target, given = output.path.resolve(), source.resolve()
        if target == given or (output.is_folder and given.is_relative_to(target)):
            raise FocusNetError("E_USAGE", f"'{output.path}' would replace the CT itself; choose another output.")
    return outputs


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise FocusNetError("E_OUTPUT_WRITE", f"The output can't be written there: {error.strerror}.") from error


def check_outputs(outputs: Sequence[Output], *, overwrite: bool) -> None:
    """Refuse targets that exist or can't be written, before hours are spent on them.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    for output in outputs:
        check_folder_writable(output.path.parent)
        if output.is_folder:
            try:
                check_folder(output.path, overwrite, _holds_organs)
            except OSError as error:
                raise unwritable(output.path, error) from error
            continue
        check_target(output.path, overwrite=overwrite)
        if _is_labelmap(output):
            check_target(labels_path(output.path), overwrite=overwrite)


def check_packages(formats: Sequence[str]) -> None:
    """Refuse formats whose packages are missing, before any case is computed.

    Raises:
        FocusNetError: ``E_MISSING_PACKAGE``, ``E_NO_MRML``.
    """
    if "dicomseg" in formats:
        from focusnet.io.dicom_seg import require_highdicom

        require_highdicom()
    if "mrb" in formats and not has_mrml():
        raise FocusNetError(
            "E_NO_MRML",
            "A .mrb needs 3D Slicer's classes; run inside 3D Slicer or install them with "
            '`pip install ".[mrml]"` in the repository.',
        )


def has_mrml() -> bool:
    """Whether 3D Slicer's classes are here, and the bridge to them."""
    return all(name in sys.modules or find_spec(name) for name in ("FocusNetSegmentationLib", "slicer"))


def read_reference(
    outputs: Sequence[Output], source: Path | Sequence[Path], series: int | None
) -> SeriesReference | None:
    """The series that the DICOM objects among the outputs refer to, checked for what they need; None without any.

    Args:
        outputs: From `plan_outputs`.
        source: What is read: a folder, or the files of a series.
        series: Number of the series, where the source holds several.

    Raises:
        FocusNetError: As `focusnet.io.dicom.read_series_reference`; ``E_FRAME_OF_REFERENCE``, ``E_UNEVEN_SPACING``,
            ``E_MULTIFRAME`` for a series that they can't refer to.
    """
    wanted = {name for output in outputs for name in output.formats if name in DICOM}
    if not wanted:
        return None
    from focusnet.io.dicom import read_series_reference
    from focusnet.io.shapes import native_geometry

    reference = read_series_reference(source, series_number=series)
    native_geometry(reference)
    if "dicomseg" in wanted:
        from focusnet.io.dicom_seg import check_source_frames

        check_source_frames(reference)
    return reference


def _holds_organs(folder: Path) -> bool:
    """Whether a folder holds nothing but files of organs, as `write_outputs` makes them."""
    endings = (*(ENDINGS[name] for name in PER_ORGAN), labels_path(Path("x.nrrd")).name.removeprefix("x"))

    def is_organ(path: Path) -> bool:
        ending = next((e for e in endings if path.name.endswith(e)), "")
        name = path.name.removesuffix(ending)
        found = organs.find(name) if ending else None
        return path.is_file() and found is not None and found.tg263 == name

    return all(map(is_organ, folder.iterdir()))


def write_outputs(outputs: Sequence[Output], result: Result, options: OutputOptions) -> None:
    """Write all outputs of a case, or none; what was there before and may be replaced is never lost.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``, ``E_BAD_GEOMETRY``, ``E_NO_MRML`` and the refusals of
            the formats.
    """
    before = {path for output in outputs for path in _places(output) if path.exists()}
    written: list[Output] = []
    try:
        for output in outputs:
            # Two label maps of one case share the table of their values.
            shares_table = _is_labelmap(output) and any(map(_is_labelmap, written))
            _write_output(output, result, replace(options, overwrite=options.overwrite or shares_table))
            written.append(output)
    except BaseException:
        for output in written:
            with suppress(OSError):
                remove_output(output, keep=before)
        raise


def remove_output(output: Output, keep: Collection[Path] = ()) -> None:
    """Remove an output where it is there.

    Args:
        output: Its file or folder, and the table of a label map.
        keep: Paths among them that stay.

    Raises:
        OSError: It can't be removed.
    """
    for path in _places(output):
        if path in keep:
            continue
        if output.is_folder and path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _places(output: Output) -> list[Path]:
    return [output.path, labels_path(output.path)] if _is_labelmap(output) else [output.path]


def _is_labelmap(output: Output) -> bool:
    return not output.is_folder and output.formats[0] in LABELMAPS


def _write_output(output: Output, result: Result, options: OutputOptions) -> None:
    labelmap, stamp = result.analysis.labelmap, result.analysis.stamp
    if output.is_folder:
        with new_folder(output.path, options.overwrite, _holds_organs) as folder:
            _write_organs(labelmap, folder, output.formats, stamp)
        return
    (name,) = output.formats
    if name == UNCERTAINTY:
        percent = uncertainty_percent(result.analysis.prediction.certainty)
        write_image(percent, output.path, overwrite=options.overwrite)
    elif name in DICOM:
        _write_dicom(name, result, output.path, options.overwrite)
    elif name == "mrb":
        _write_scene(result, output.path, options)
    else:
        write_segmentation(labelmap, output.path, overwrite=options.overwrite, stamp=stamp)


def _write_organs(labelmap: LabelMap, folder: Path, formats: Sequence[str], stamp: Mapping[str, str]) -> None:
    for value, key in labelmap.organs.items():
        single = LabelMap((labelmap.array == value).view(np.uint8), labelmap.geometry, {1: key})
        for number, name in enumerate(formats):
            path = folder / f"{organs.organ(key).tg263}{ENDINGS[name]}"
            write_segmentation(single, path, overwrite=number > 0, stamp=stamp)


def _write_dicom(name: str, result: Result, path: Path, overwrite: bool) -> None:
    from focusnet.io.dicom import read_series_reference
    from focusnet.io.shapes import Provenance

    settings = result.analysis.prediction.settings
    provenance = Provenance(settings["model"], settings["model_created"], settings["weights_sha256"])
    reference = result.reference or read_series_reference(result.source, series_number=result.series)
    labelmap = result.analysis.labelmap
    if name == "rtstruct":
        from focusnet.io.rtstruct import RTStructOptions, write_rtstruct

        write_rtstruct(labelmap, reference, path, RTStructOptions(provenance=provenance), overwrite=overwrite)
    else:
        from focusnet.io.dicom_seg import DicomSegOptions, write_dicom_seg

        write_dicom_seg(labelmap, reference, path, DicomSegOptions(provenance=provenance), overwrite=overwrite)


def _write_scene(result: Result, path: Path, options: OutputOptions) -> None:
    """The CT and its segmentation as a 3D Slicer scene, through the classes of the Slicer module."""
    try:
        from FocusNetSegmentationLib import runtime
    except ImportError:
        raise FocusNetError(
            "E_NO_MRML", "The module FocusNetSegmentationLib is not installed, so no .mrb can be written."
        ) from None
    scene = runtime.ensure()
    from FocusNetSegmentationLib import mrml, storage

    if runtime.in_application() and scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode"):
        raise FocusNetError("E_USAGE", "A scene is open, which a .mrb of this case would mix with; close it first.")
    scene.Clear(False)
    try:
        node = mrml.volume_to_node(result.volume, result.case)
        scene_options = mrml.ResultOptions(per_organ=options.per_organ, stamp=result.analysis.stamp)
        mrml.segmentations_from_labelmap(result.analysis.labelmap, node, scene_options)
        storage.save_scene(path, overwrite=options.overwrite)
    finally:
        scene.Clear(False)
