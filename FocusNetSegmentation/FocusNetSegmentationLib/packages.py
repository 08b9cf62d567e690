"""Python packages that segmentation needs: what is missing, and how 3D Slicer installs it.

Nothing is installed unasked. PyTorch comes through the PyTorch extension, which picks the build for the graphics card;
without internet everything comes from a folder of wheels. SimpleITK and numpy belong to Slicer and are never replaced.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import invalidate_caches, metadata
from pathlib import Path
from typing import Any

from focusnet.errors import FocusNetError

REQUIREMENTS_FILE = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
TORCH = "torch>=2.4"
REQUESTER = "FocusNet"


def missing_packages(version_of: Callable[[str], str] = metadata.version) -> list[str]:
    """Requirements that are absent or too old, PyTorch first; nothing is imported for the answer."""
    return missing_of([TORCH, *_requirements()], version_of)


def missing_of(requirements: Sequence[str], version_of: Callable[[str], str] = metadata.version) -> list[str]:
    """Those requirements, such as ``jinja2>=3.1``, that are absent or too old."""
    return [line for line in requirements if not _is_met(line, version_of)]


def check_installable(missing: Sequence[str]) -> None:
    """Refuse what can't be installed here, before anybody is asked.

    Raises:
        FocusNetError: ``E_PACKAGE`` for PyTorch on macOS where Python is of x86_64, as in 3D Slicer under Rosetta.
    """
    if TORCH in missing and sys.platform == "darwin" and platform.machine() == "x86_64":
        raise FocusNetError(
            "E_PACKAGE",
            f"There is no {TORCH} for 3D Slicer on macOS, whose Python is built for x86_64; use the command line "
            "'focusnet' in a Python that is native to this Mac, and load its result here.",
        )


def install(missing: Sequence[str], wheels: Path | None = None) -> None:
    """Install requirements into 3D Slicer's Python, with its own progress display.

    Args:
        missing: From :func:`missing_packages` or :func:`missing_of`; the user has agreed.
        wheels: Folder with wheel files; then nothing is downloaded.

    Raises:
        FocusNetError: ``E_PACKAGE`` with the cause and what to do.
    """
    import slicer.util

    check_installable(missing)

    try:
        if wheels is not None:
            slicer.util.pip_install(["--no-index", "--find-links", str(wheels), *missing])
        else:
            _install_online(slicer, missing)
    except (subprocess.CalledProcessError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FocusNetError("E_PACKAGE", f"Installing {', '.join(missing)} failed: {reason}; see the log.") from error
    except (OSError, ImportError) as error:  # PyTorch was installed and can't be loaded: c10.dll, for one
        reason = " ".join(str(error).split())
        raise FocusNetError(
            "E_PACKAGE",
            f"Installing {', '.join(missing)} failed: {reason}; restart 3D Slicer and try again. On Windows PyTorch "
            "needs the Microsoft Visual C++ runtime.",
        ) from error
    invalidate_caches()
    still = missing_of(missing)
    if still:
        raise FocusNetError("E_PACKAGE", f"{', '.join(still)} is not installed; restart 3D Slicer and try again.")


def _install_online(slicer: Any, missing: Sequence[str]) -> None:
    others = [line for line in missing if line != TORCH]
    if TORCH in missing:
        _install_torch()
    if hasattr(slicer, "packaging"):  # since 5.12
        requirements = [r for r in slicer.packaging.load_requirements(REQUIREMENTS_FILE) if str(r) in others]
        others = [line for line in others if line not in map(str, requirements)]
        if requirements:
            slicer.packaging.pip_ensure(requirements, prompt_install=False, requester=REQUESTER)
    if others:
        slicer.util.pip_install(" ".join(others))


def _install_torch() -> None:
    try:
        import PyTorchUtils
    except ImportError as error:
        raise FocusNetError(
            "E_PACKAGE",
            "PyTorch is missing; install the extension 'PyTorch' in the Extensions Manager, restart 3D Slicer and try "
            "again, or choose a folder with wheels.",
        ) from error
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if logic.torchInstalled():
        raise FocusNetError("E_PACKAGE", f"The installed PyTorch is older than {TORCH}; update it in PyTorch Util.")
    if logic.installTorch(torchVersionRequirement=TORCH.removeprefix("torch")) is None:
        raise FocusNetError("E_PACKAGE", "PyTorch was not installed; try again in the module 'PyTorch Util'.")


def _requirements() -> list[str]:
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS_FILE.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _is_met(requirement: str, version_of: Callable[[str], str]) -> bool:
    name, least = requirement.split(">=")
    try:
        return _numbers(version_of(name)) >= _numbers(least)
    except metadata.PackageNotFoundError:
        return False


def _numbers(version: str) -> tuple[int, ...]:
    """Release part of a version: 2.13.0+cpu is (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(n) for n in release.group().split(".")) if release else ()
