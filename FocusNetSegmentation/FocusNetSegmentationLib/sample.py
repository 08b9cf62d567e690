"""Sample data: a synthetic head and neck, made on this computer when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CATEGORY = "FocusNet"
NAME = "FocusNetPhantom"
TITLE = "Synthetic head and neck CT"
SEED = 7
SPACING_MM_XYZ = (2.0, 2.0, 3.0)
WINDOW_HU, LEVEL_HU = 400, 40


def register(thumbnail: str | Path) -> None:
    """Offer the phantom in the module Sample Data; nothing is downloaded."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=TITLE,
        uris="",
        fileNames="",
        nodeNames=NAME,
        thumbnailFileName=str(thumbnail),
        customDownloader=load_phantom,
    )


def load_phantom(source: Any = None) -> Any:
    """Make the phantom and put it into the scene; takes some seconds.

    Returns:
        The CT as a scalar volume node.
    """
    from focusnet_training.phantom import PhantomOptions, make_phantom

    from FocusNetSegmentationLib import mrml, runtime

    runtime.ensure()
    phantom = make_phantom(SEED, PhantomOptions(spacing_xyz=SPACING_MM_XYZ))
    node = mrml.volume_to_node(phantom.volume, NAME)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(WINDOW_HU, LEVEL_HU)
    return node
