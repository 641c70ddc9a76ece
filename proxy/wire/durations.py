"""Durations as Go writes and Ollama reads them: ``keep_alive`` in requests and settings.

Source: Ollama 0.24.0, ``api/types.go``, ``Duration.UnmarshalJSON``; Go, ``time/format.go``, ``ParseDuration``. The
texts of the errors are theirs, because a client sees Ollama's and an operator may see ours.
"""

from __future__ import annotations

import functools
import math
import re
from typing import Final

_NS_PER_S: Final = 1_000_000_000
_UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": _NS_PER_S,
    "m": 60 * _NS_PER_S,
    "h": 3600 * _NS_PER_S,
}
# One term: digits, a fraction, and everything up to the next digit or point as its unit.
_TERM = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]*)")
_LIMIT: Final = 1 << 63
# Longer ones are parsed each time, so that nobody can fill memory with them.
_SHORT: Final = 32


def parse_keep_alive(value: object) -> float | None:
    """How long a ``keep_alive`` keeps a model loaded.

    Args:
        value: A JSON value: a number of seconds, a Go duration, or ``None`` for null, which is the same as absent.

    Returns:
        Seconds, cut to whole nanoseconds; infinity for a negative value, which means "for ever"; ``None`` for absent.

    Raises:
        ValueError: With Ollama's text when it refuses the value; also for a number of seconds that Go's conversion to
            nanoseconds cannot hold, where what happens depends on the machine Ollama runs on.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise ValueError("Unsupported type: 'bool'")
    if isinstance(value, int | float):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isinf(seconds) or not seconds * _NS_PER_S < _LIMIT:
            raise ValueError(f"keep_alive is out of range: {value!r:.40}")
        return math.inf if seconds < 0 else int(seconds * _NS_PER_S) / _NS_PER_S
    if isinstance(value, str):
        seconds = parse_go_duration(value)
        return math.inf if seconds < 0 else seconds
    raise ValueError(f"Unsupported type: '{'[]' if isinstance(value, list) else 'map[string]'}interface {{}}'")


def parse_go_duration(text: str) -> float:
    """Parse ``1h15m30.5s`` and the like.

    Returns:
        Seconds; negative where the text begins with a minus.

    Raises:
        ValueError: With the text of Go's ``time.ParseDuration``.
    """
    # A request's is looked at several times, and the next request's is the same as a rule.
    return _parse_short(text) if len(text) <= _SHORT else _parse(text)


def _parse(text: str) -> float:
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    invalid = ValueError(f"time: invalid duration {_quote(text)}")
    if not rest:
        raise invalid
    total_ns = at = 0
    while at < len(rest):
        term = _TERM.match(rest, at)
        if term is None or not (term[1] or term[3]):
            raise invalid
        if not term[4]:
            raise ValueError(f"time: missing unit in duration {_quote(text)}")
        unit_ns = _UNITS_NS.get(term[4])
        if unit_ns is None:
            raise ValueError(f"time: unknown unit {_quote(term[4])} in duration {_quote(text)}")
        total_ns += _term_ns(term[1], term[3] or "", unit_ns, invalid)
        if total_ns > _LIMIT:
            raise invalid
        at = term.end()
    if text[0] == "-":
        return -total_ns / _NS_PER_S
    if total_ns == _LIMIT:
        raise invalid
    return total_ns / _NS_PER_S


_parse_short = functools.lru_cache(maxsize=256)(_parse)


def _term_ns(whole: str, fraction: str, unit_ns: int, invalid: ValueError) -> int:
    """One term in nanoseconds, with Go's bounds and its rounding of the fraction."""
    significant = whole.lstrip("0")
    if len(significant) > 19:  # 2**63 has 19 digits
        raise invalid
    value = int(significant or "0")
    if value > _LIMIT or value > _LIMIT // unit_ns:
        raise invalid
    digits = 0
    scale = 1.0
    for digit in fraction:
        # leadingFraction: digits beyond what 63 bits hold are read and left out.
        if digits > (_LIMIT - 1) // 10 or digits * 10 + int(digit) > _LIMIT:
            break
        digits = digits * 10 + int(digit)
        scale *= 10
    return value * unit_ns + int(digits * (unit_ns / scale))


def _quote(text: str) -> str:
    """Go's ``time.quote``: bytes outside of printable ASCII as ``\\xNN``."""
    quoted = []
    for character in text:
        if character in '"\\':
            quoted.append(f"\\{character}")
        elif " " <= character < "\x80":
            quoted.append(character)
        else:
            quoted.extend(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    return f'"{"".join(quoted)}"'
