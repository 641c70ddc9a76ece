"""What the benchmarks tell while they run, and write into a file."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from proxy.bench import machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def tell(text: str) -> None:
    """A step, on standard error, with the time of day."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def write(path: Path, found: Mapping[str, Any]) -> None:
    """All that was found as JSON, with the machine that it was found on.

    Raises:
        OSError: It cannot be written.
    """
    told = {"machine": dataclasses.asdict(machine.look()), **found}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
