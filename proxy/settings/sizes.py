"""Sizes as people write them: ``64MiB``, ``1 GB``, ``1048576``."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)


def parse_size(value: object) -> int:
    """Bytes of a size.

    Args:
        value: A whole number of bytes, or a number with a unit: B, kB, MB, GB, TB (thousands), KiB, MiB, GiB, TiB.

    Raises:
        ValueError: It is not a size.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError("is not a size; write for instance 64MiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def format_size(size_bytes: int) -> str:
    """The shortest exact spelling with a binary unit."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)
