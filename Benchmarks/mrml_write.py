"""Time from a label map to segmentation nodes and files: 25 organs at 120 x 512 x 512.

The bridge of this project beside the usual way of extensions, one `updateSegmentBinaryLabelmapFromArray` per organ.
Prints the best of the repetitions, in seconds by the clock and of the processor, which differ on a busy machine.
Run: python Benchmarks/mrml_write.py [--repetitions N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.organs import PHANTOM_26, organ
from FocusNetSegmentationLib import runtime

SHAPE = (120, 512, 512)
SPACING = (1.0, 1.0, 3.0)
ORGANS = PHANTOM_26[:25]


def make_case() -> tuple[Volume, LabelMap]:
    """CT with noise, and 25 ellipsoids from 0.2 to 250 ml side by side."""
    random = np.random.default_rng(1)
    geometry = Geometry.from_parts(SHAPE, SPACING, (-256.0, -256.0, -180.0))
    labels = np.zeros(SHAPE, np.uint8)
    for value in range(1, len(ORGANS) + 1):
        row, column = divmod(value - 1, 5)
        centre = (60 + random.uniform(-25, 25), 106 + 75 * row, 106 + 75 * column)
        radius = np.array((1 / 3, 1, 1)) * np.geomspace(4, 36, 25)[value - 1]
        z, y, x = (((np.arange(n) - c) / r) ** 2 for n, c, r in zip(SHAPE, centre, radius, strict=True))
        labels[z[:, None, None] + y[:, None] + x < 1] = value
    hu = random.normal(0, 20, SHAPE).astype(np.int16)
    return Volume(hu, geometry), LabelMap(labels, geometry, dict(enumerate(ORGANS, start=1)))


def timed(work: Callable[[], Any], clean: Callable[[], Any], repetitions: int) -> tuple[float, float]:
    """Least seconds by the clock and of the processor."""
    clock, processor = [], []
    for _ in range(repetitions):
        start, start_processor = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
        clean()
    return min(clock), min(processor)


def main(repetitions: int) -> None:
    """Measure and print."""
    scene = runtime.ensure()
    import slicer
    from FocusNetSegmentationLib import mrml, storage

    volume, labelmap = make_case()
    ct = mrml.volume_to_node(volume, "CT")

    def clear() -> None:
        mrml.remove_results(mrml.results_on(ct))
        for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            scene.RemoveNode(node)

    def usual() -> None:
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(ct)
        for key in ORGANS:
            name = organ(key).tg263
            node.GetSegmentation().AddEmptySegment(name, name)
            mask = labelmap.mask(key).astype(np.uint8)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, name, ct)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "organs.seg.nrrd")

        def one_node() -> Any:
            return mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False))

        def one_file() -> None:
            storage.save_segmentation(one_node().unique_nodes[0], file)

        def per_organ() -> Any:
            return mrml.segmentations_from_labelmap(labelmap, ct)

        def files_per_organ() -> None:
            for key, node in per_organ().nodes.items():
                node.GetStorageNode().SetFileName(str(Path(folder, f"{key}.seg.nrrd")))
                if not node.GetStorageNode().WriteData(node):
                    raise RuntimeError(f"{key} was not written.")

        for name, work, count in (
            ("one node per organ", per_organ, repetitions),
            ("one node", one_node, repetitions),
            ("one node and one .seg.nrrd", one_file, repetitions),
            ("one node per organ and a cropped .seg.nrrd each", files_per_organ, repetitions),
            ("usual way: updateSegmentBinaryLabelmapFromArray per organ", usual, 1),
        ):
            clock, processor = timed(work, clear, count)
            print(f"{name:60} {clock:7.2f} s clock {processor:7.2f} s processor", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    main(parser.parse_args().repetitions)
