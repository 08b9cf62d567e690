"""Three hundred cases, one in twenty poisoned, killed three times."""

import importlib.util
import sys

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_every_case_is_done_once_and_the_memory_stays_flat(root, tmp_path):
    spec = importlib.util.spec_from_file_location("batch_endurance", root / "Benchmarks" / "batch_endurance.py")
    endurance = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = endurance
    spec.loader.exec_module(endurance)
    result = endurance.endure(tmp_path, cases=300, kills=3)
    endurance.say(result, 0.0)
    assert result.rows == 300
    assert result.kills == 3
    assert set(result.failed) == set(result.poisoned)
    assert len(result.poisoned) == 15
    assert all(code.startswith("E_") for code in result.failed.values())
    assert result.done == [number for number in range(1, 301) if number not in result.poisoned]
    assert result.with_files == result.done
    assert result.reported_twice == 0
    assert result.other_files == [".lock", "batch.json", "manifest.csv"]
    assert result.growth_percent_per_100 < 2
