"""Python's garbage collector, which must not fall into a call that is timed."""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """What is garbage is collected before, and nothing inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
