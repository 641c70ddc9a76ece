"""Reads ``deploy/Dockerfile`` and runs its steps without an engine: the same commands, with folders of the test's."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "deploy" / "Dockerfile"
# The image's folder for it, and that of the sources.
INSTALLED, SOURCES, WHEELS = "/opt/pilotlight", "/src", "/tmp/wheel"  # noqa: S108 - of the image


@dataclass
class Stage:
    """What follows one FROM.

    Attributes:
        steps: Every instruction with its text, continued lines joined.
    """

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def texts(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]

    def variables(self, instruction: str) -> dict[str, str]:
        """Of ``ENV``, ``LABEL`` or ``ARG``."""
        found = re.findall(r'([\w.]+)=("[^"]*"|\S+)', " ".join(self.texts(instruction)))
        return {name: value.strip('"') for name, value in found}


def read(text: str) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first FROM, and the stages."""
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    code = re.sub(r"\\\n\s*", "", code)
    before = Stage("")
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, code.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append(Stage(rest))
        else:
            (stages[-1] if stages else before).steps.append((name, rest))
    return before.variables("ARG"), stages


def run(step: str, at: Mapping[str, Path], environ: Mapping[str, str]) -> None:
    """Run the command of one ``RUN``.

    Args:
        step: Its text. A mounted cache is pip's own, as here without a mount.
        at: Where the image's folders are instead; the sources are the working directory.
        environ: Of the command.
    """
    command = re.sub(r"--mount=\S+\s+", "", step)
    for folder, here in at.items():
        command = command.replace(folder, str(here))
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=at[SOURCES], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
