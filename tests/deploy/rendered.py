"""The compose files as ``docker compose config`` has them: by compose-go, the specification's own implementation."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SOURCES = Path(__file__).parent / "compose"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
BASE = "docker-compose.yml"


class ComposeError(Exception):
    """The files are refused; with what the implementation says."""


@functools.cache
def program() -> tuple[Path | None, str]:
    """The program that renders, built once; or why it cannot be."""
    if GO is None:
        return None, "go is not installed: the compose files are checked against the schema only"
    # Go keeps what it has built, so only the first run on a machine takes its time.
    environ = {**os.environ, "GOTOOLCHAIN": "local"}
    fetched = subprocess.run(
        [GO, "mod", "download"], cwd=SOURCES, env=environ, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        return None, f"the modules of tests/deploy/compose cannot be had: {fetched.stderr.strip()[-200:]}"
    folder = tempfile.mkdtemp(prefix="pilotlight-compose-")
    atexit.register(shutil.rmtree, folder)
    made = Path(folder) / "compose"
    built = subprocess.run(
        [GO, "build", "-mod=readonly", "-o", made, "."],
        cwd=SOURCES,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return made, ""


def render(*files: str, folder: Path = ROOT, profiles: tuple[str, ...] = (), env: str | None = None) -> dict[str, Any]:
    """The model of these files together.

    Args:
        files: Names in the folder, the later ones over the earlier.
        folder: Where they are.
        profiles: That are on.
        env: A file of variables to put in; nothing of the environment is.

    Raises:
        ComposeError: They are refused.
    """
    made, reason = program()
    assert made is not None, reason
    arguments = [*(f"-profile={profile}" for profile in profiles), *([f"-env-file={env}"] if env else [])]
    paths = [str(folder / file) for file in files]
    done = subprocess.run(
        [made, *arguments, *paths], capture_output=True, text=True, check=False, env={"PATH": os.defpath}, timeout=30
    )
    if done.returncode:
        raise ComposeError(done.stderr.strip())
    model: dict[str, Any] = json.loads(done.stdout)
    return model
