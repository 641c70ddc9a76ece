"""Durations and times in Go's forms.

Source: Go 1.26 ``time/format.go`` (``ParseDuration``, ``RFC3339Nano``) and ``time/time.go`` (``Duration.String``).
"""

from __future__ import annotations

import re
import time
from typing import Final

from proxy.simulator.golang.jsonin import GoError

NANOSECONDS: Final = 1_000_000_000
MAX_DURATION_NS: Final = (1 << 63) - 1
_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_PART: Final = re.compile(r"(\d*)(\.(\d*))?([^\d.]*)")


def go_quote(text: str) -> str:
    """A string as ``strconv.Quote`` (and ``%q``) writes it; `time` quotes alike."""
    named = {"\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    named["\v"] = "\\v"
    pieces = []
    for letter in text:
        code = ord(letter)
        if letter in named:
            pieces.append(named[letter])
        elif code < 0x20 or code == 0x7F:
            pieces.append(f"\\x{code:02x}")
        elif letter.isprintable() or (code > 0x7F and letter.isalnum()):
            pieces.append(letter)
        else:
            pieces.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(pieces) + '"'


def _time_quote(text: str) -> str:
    """A string as package ``time`` quotes it in errors: bytes that are not plain ASCII as ``\\xNN``."""
    pieces = []
    for byte in text.encode("utf-8", "surrogateescape"):
        if byte in b'"\\':
            pieces.append("\\" + chr(byte))
        elif byte < 0x20 or byte >= 0x80:
            pieces.append(f"\\x{byte:02x}")
        else:
            pieces.append(chr(byte))
    return '"' + "".join(pieces) + '"'


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as "1h30m".

    Raises:
        GoError: with the text of ``time.ParseDuration``.
    """
    invalid = GoError(f"time: invalid duration {_time_quote(text)}")
    rest = text
    negative = rest.startswith("-")
    if rest[:1] in ("-", "+"):
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        if not (rest[0] == "." or "0" <= rest[0] <= "9"):
            raise invalid
        match = _PART.match(rest)
        if match is None:
            raise invalid
        whole, fraction, unit = match.group(1), match.group(3) or "", match.group(4)
        if not whole and not fraction:
            raise invalid
        if not unit:
            raise GoError(f"time: missing unit in duration {_time_quote(text)}")
        if unit not in _UNITS_NS:
            raise GoError(f"time: unknown unit {_time_quote(unit)} in duration {_time_quote(text)}")
        scale = _UNITS_NS[unit]
        total += int(whole or 0) * scale
        if fraction:
            total += int(fraction) * scale // 10 ** len(fraction)
        if total > MAX_DURATION_NS + 1:
            raise invalid
        rest = rest[match.end() :]
    if total > MAX_DURATION_NS and not negative:
        raise invalid
    return -total if negative else total


def duration_text(nanoseconds: int) -> str:
    """A duration as Go's ``Duration.String`` writes it ("5m0s")."""
    if nanoseconds == 0:
        return "0s"
    sign = "-" if nanoseconds < 0 else ""
    rest = abs(nanoseconds)
    for unit, scale in (("ns", 1), ("\u00b5s", 1_000), ("ms", 1_000_000)):
        if rest < scale * 1000:
            return f"{sign}{_decimal(rest, scale)}{unit}"
    minutes, seconds = divmod(rest, 60 * NANOSECONDS)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(seconds, NANOSECONDS)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(value: int, scale: int) -> str:
    whole, rest = divmod(value, scale)
    if not rest:
        return str(whole)
    return f"{whole}." + str(rest).rjust(len(str(scale)) - 1, "0").rstrip("0")


def rfc3339(unix_ns: int) -> str:
    """A point in time in UTC as Go writes it in JSON (``RFC3339Nano``: no trailing zeros)."""
    seconds, rest = divmod(unix_ns, NANOSECONDS)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    # gmtime knows years up to 9999; a pin ends some 290 years ahead, which is well inside.
    parts = time.gmtime(seconds)
    return f"{parts.tm_year:04d}{time.strftime('-%m-%dT%H:%M:%S', parts)}{fraction}Z"
