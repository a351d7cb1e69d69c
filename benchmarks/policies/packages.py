"""The peers' packages: an environment of their own under build/, made when it is not there."""

import importlib.metadata
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / "build" / f"policy-peers-{sys.implementation.cache_tag}"
"""One for each version of Python: the peers run in this interpreter, beside Holdfast."""
WITHIN = 300.0
"""Seconds that pip has."""


def install(packages: Sequence[str]) -> dict[str, str]:
    """Install what is missing, as PyPI gives it today, and make it importable. Returns why a package is not there."""
    if not packages:
        return {}
    if not _python().exists():
        print(f"installing the peers into {VENV}", file=sys.stderr)
        try:
            venv.create(VENV, with_pip=True, clear=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return dict.fromkeys(packages, f"there is no environment for it: {error}")
    there = _installed()
    missing = [name for name in packages if name not in there]
    reasons: dict[str, str] = {}
    if missing and _pip(missing):
        # One that cannot be had must not keep the others out.
        reasons = {name: _pip([name]) for name in missing}
    # At the end: what Holdfast's own environment has is what its users would import.
    sys.path.append(str(_site()))
    return {name: reason for name, reason in reasons.items() if reason}


def version(package: str) -> str:
    """The version that is imported in this run; empty when there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Path:
    return VENV / "bin" / "python"


def _site() -> Path:
    return VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _installed() -> set[str]:
    return {found.name.lower().replace("_", "-") for found in importlib.metadata.distributions(path=[str(_site())])}


def _pip(packages: Sequence[str]) -> str:
    """Empty when all of them are installed, else the line that says why not."""
    command = [str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WITHIN)
    except subprocess.TimeoutExpired:
        return f"pip took more than {WITHIN:g} s"
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with {done.returncode}"
