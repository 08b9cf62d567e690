"""Data of nnU-Net v2 from a data set of ours: raw folder, plan, preprocessed cases and our split as fold 0.

The raw folder holds links to the files; plan and preprocessing are nnU-Net's own, for 3d_fullres, with one process.
Run with nnU-Net's Python (see README.md):

    python Benchmarks/nnunet/prepare.py --data DATA --work WORK
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from common import CONFIGURATION, DATASET, DATASET_ID, PLANS, use_folders

COPIED = ("cases.json", "splits_final.json")


def link_raw(data: Path, raw: Path) -> None:
    """The raw data set of nnU-Net: links to images and labels, and what describes them."""
    raw.mkdir(parents=True, exist_ok=True)
    for name in ("imagesTr", "labelsTr"):
        link = raw / name
        if not link.is_symlink():
            link.symlink_to((data / name).resolve(), target_is_directory=True)
    shutil.copyfile(data / "dataset.json", raw / "dataset.json")


def planned(work: Path, plans_name: str) -> dict[str, Any]:
    """What nnU-Net planned for the configuration."""
    plans = json.loads((work / "preprocessed" / DATASET / f"{plans_name}.json").read_text())
    return plans["configurations"][CONFIGURATION]


def main() -> None:
    """Plan, preprocess and print the plan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in nnU-Net v2 raw layout, with cases.json")
    parser.add_argument("--work", type=Path, required=True, help="folder for nnU-Net's files, outside the repository")
    parser.add_argument(
        "--memory-gb", type=float, help="GPU memory to plan for, nnU-Net's -gpu_memory_target; 8 by default"
    )
    given = parser.parse_args()
    use_folders(given.work, augmenting=1)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    link_raw(given.data, given.work / "raw" / DATASET)
    extract_fingerprints([DATASET_ID], num_processes=1, check_dataset_integrity=True, show_progress_bar=False)
    plans_name = PLANS if given.memory_gb is None else f"{PLANS}_{given.memory_gb:g}G"
    plan_experiments([DATASET_ID], gpu_memory_target_in_gb=given.memory_gb, overwrite_plans_name=plans_name)
    preprocess([DATASET_ID], plans_name, (CONFIGURATION,), (1,), show_progress_bar=False)
    for name in COPIED:
        shutil.copyfile(given.data / name, given.work / "preprocessed" / DATASET / name)
    chosen = planned(given.work, plans_name)
    fold = json.loads((given.data / "splits_final.json").read_text())[0]
    print(f"fold 0: {len(fold['train'])} training, {len(fold['val'])} validation patients")
    print(
        f"plan {plans_name}:", json.dumps({k: chosen[k] for k in ("patch_size", "batch_size", "spacing", "batch_dice")})
    )


if __name__ == "__main__":
    main()
