"""What a run is a run of: its configuration and its data, so that a resume with others is refused with the difference.

Checkpoints hold no case names, which may be patients' identifiers, only their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import PreparedCase

SHOWN = 6


def data_identity(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], organs: Sequence[str], small: Sequence[str]
) -> dict[str, Any]:
    """Label set and content of the prepared cases.

    Returns:
        ``organs``, ``small_organs``, and ``cases``: hash of the name -> hash of role, voxels and annotations.
    """
    roles = [("training", case) for case in training] + [("validation", case) for case in validation]
    with ThreadPoolExecutor(4) as pool:
        contents = list(pool.map(_content, roles))
    cases = {_name_hash(case.name): content for (_, case), content in zip(roles, contents, strict=True)}
    return {"organs": list(organs), "small_organs": list(small), "cases": cases}


def data_difference(old: dict[str, Any], new: dict[str, Any], names: Sequence[str]) -> list[str]:
    """How the data of a run differ from those given now, one phrase each.

    Args:
        old: `data_identity` in the checkpoint.
        new: `data_identity` now.
        names: Names of the cases there are now.
    """
    found = []
    for key in ("organs", "small_organs"):
        if old[key] != new[key]:
            gone = [name for name in old[key] if name not in new[key]]
            added = [name for name in new[key] if name not in old[key]]
            parts = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(added)}"] * bool(added)
            found.append(f"{key.replace('_', ' ')}: now {' and '.join(parts) or 'in another order'}")
    before, now = old["cases"], new["cases"]
    known = {_name_hash(name): name for name in names}
    added = [known[key] for key in now if key not in before]
    changed = [known[key] for key in now if key in before and now[key] != before[key]]
    gone_count = sum(key not in now for key in before)
    if added:
        found.append(f"cases added: {_listed(added)}")
    if changed:
        found.append(f"cases changed: {_listed(changed)}")
    if gone_count:
        found.append(f"cases missing: {gone_count}")
    return found


def config_difference(old: TrainingConfig, new: TrainingConfig) -> list[str]:
    """Values that differ, as ``seed: 1, now 2``; a stage is addressed by its name."""
    return _difference(_addressed(old), _addressed(new), "")


def _addressed(config: TrainingConfig) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    return values | {"stages": {stage["name"]: stage for stage in values["stages"]}}


def _difference(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    found: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _difference(a, b, f"{prefix}{key}.")
        elif isinstance(a, dict) or isinstance(b, dict):
            found.append(f"{prefix}{key}: {'removed' if b is None else 'added'}")
        elif a != b:
            found.append(f"{prefix}{key}: {json.dumps(a)}, now {json.dumps(b)}")
    return found


def _name_hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _content(item: tuple[str, PreparedCase]) -> str:
    role, case = item
    digest = hashlib.sha256(role.encode())
    for array in (case.ct, case.labels, case.annotated, case.scored, np.asarray(case.geometry.spacing_zyx)):
        digest.update(repr((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
