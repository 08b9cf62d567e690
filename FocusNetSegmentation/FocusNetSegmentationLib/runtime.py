"""MRML for our code: the running 3D Slicer, or the same classes from the ``slicer-core`` wheel in plain Python."""

from __future__ import annotations

import atexit
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from focusnet import terminology
from focusnet.errors import FocusNetError

TERMINOLOGY_FILE = Path(__file__).resolve().parents[1] / "Resources" / "FocusNet.term.json"

# The terminology logic reads three files of these names from its share folder; the wheel comes without them.
_TISSUE = {"CodingSchemeDesignator": "SCT", "CodeValue": "85756007", "CodeMeaning": "Tissue"}
_SEGMENT_TERMINOLOGIES = {
    "SegmentationCategoryTypeModifier-SlicerGeneralAnatomy": "3D Slicer General Anatomy list",
    "SegmentationCategoryTypeModifier-DICOM-Master": "DICOM master list",
}
_REGION_TERMINOLOGY = "AnatomicRegionAndModifier-DICOM-Master"
_REGION_SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/anatomic-context-schema.json#"


def ensure() -> Any:
    """Make MRML ready and return its scene; in 3D Slicer, and after the first call, this costs nothing.

    In plain Python the scene and the logics of `slicer-core` are created and offered as Slicer does:
    ``slicer.mrmlScene`` and ``slicer.modules.<name>.logic()`` for segmentations, terminologies, volumes and colors.

    Returns:
        ``slicer.mrmlScene``, a ``vtkMRMLScene``.

    Raises:
        FocusNetError: ``E_NO_MRML`` when this is neither 3D Slicer nor a Python with `slicer-core`.
    """
    try:
        import slicer
    except ImportError as error:
        raise FocusNetError(
            "E_NO_MRML",
            "3D Slicer's classes are not here; run inside 3D Slicer, or install them in the repository by "
            '`pip install ".[mrml]"`.',
        ) from error
    if getattr(slicer, "mrmlScene", None) is None:
        _boot(slicer)
    _load_terminology(slicer)
    return slicer.mrmlScene


def in_application() -> bool:
    """Whether this is the 3D Slicer application, not plain Python on its classes."""
    slicer = sys.modules.get("slicer")
    return hasattr(slicer, "app")


def _boot(slicer: Any) -> None:
    """Scene, application logic and the module logics that our code and `slicer.util` need."""
    import vtk

    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    _serve_bundles(slicer, scene)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)

    terminologies = slicer.vtkSlicerTerminologiesModuleLogic()
    with tempfile.TemporaryDirectory() as share:
        _write_minimal_terminologies(Path(share))
        terminologies.SetModuleShareDirectory(share)
        terminologies.SetMRMLScene(scene)
    logics = {
        "Terminologies": terminologies,
        # Its existence registers the converters between a segment's representations.
        "Segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
        "Volumes": slicer.vtkSlicerVolumesLogic(),
        "Colors": colors,
    }
    for name, logic in logics.items():
        logic.SetMRMLApplicationLogic(application)
        if logic.GetMRMLScene() is None:
            logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)

    modules = types.ModuleType("slicer.modules")
    for name, logic in logics.items():
        setattr(modules, name.lower(), types.SimpleNamespace(logic=lambda logic=logic: logic))
    sys.modules["slicer.modules"] = slicer.modules = modules
    slicer.applicationLogic = application
    slicer.mrmlScene = scene


def _serve_bundles(slicer: Any, scene: Any) -> None:
    """A place where scene bundles (.mrb) are unpacked while they are read; an own folder, for the cache tidies it."""
    folder = tempfile.TemporaryDirectory(prefix="FocusNetScene-")
    atexit.register(folder.cleanup)
    cache = slicer.vtkCacheManager()
    cache.SetMRMLScene(scene)
    cache.SetRemoteCacheDirectory(folder.name)
    manager = slicer.vtkDataIOManager()
    manager.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(manager)


def _write_minimal_terminologies(folder: Path) -> None:
    contents: dict[str, dict[str, Any]] = {
        file: {
            "SegmentationCategoryTypeContextName": f"Segmentation category and type - {name}",
            "@schema": terminology.SCHEMA,
            "SegmentationCodes": {"Category": [{**_TISSUE, "showAnatomy": True, "Type": [_TISSUE]}]},
        }
        for file, name in _SEGMENT_TERMINOLOGIES.items()
    }
    contents[_REGION_TERMINOLOGY] = {
        "AnatomicContextName": terminology.ANATOMIC_CONTEXT_NAME,
        "@schema": _REGION_SCHEMA,
        "AnatomicCodes": {"AnatomicRegion": [_TISSUE]},
    }
    for file, content in contents.items():
        (folder / f"{file}.term.json").write_text(json.dumps(content), encoding="utf-8")


def _load_terminology(slicer: Any) -> None:
    """Make the codes of our organs known to the terminology selectors."""
    logic = slicer.modules.terminologies.logic()
    if not logic.IsTerminologyContextLoaded(terminology.CONTEXT_NAME):
        logic.LoadContextFromFile(str(TERMINOLOGY_FILE))
