"""What ``deploy/prepare`` makes, in a place of the test's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def run_prepare(folder: Path, *models: str) -> subprocess.CompletedProcess[str]:
    """Run the script as it would run in a checkout at this place."""
    deploy = folder / "deploy"
    deploy.mkdir(exist_ok=True)
    script = shutil.copy2(ROOT / "deploy" / "prepare", deploy)
    return subprocess.run([script, *models], capture_output=True, text=True, check=False, cwd="/", timeout=30)


def prepare(folder: Path, *models: str) -> Path:
    """The folder ``deploy`` of that place, filled."""
    done = run_prepare(folder, *models)
    assert done.returncode == 0, done.stderr
    return folder / "deploy"
