"""Values as Go's ``encoding/json`` writes them, where they went through Go's ``any`` on their way."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from proxy.wire.gojson import go_quote

# Integers up to here are the same as a float64, and are written without an exponent.
_EXACT: Final = range(-(1 << 53), (1 << 53) + 1)
_STRING_OR_SPACE: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[ \t\r\n]+')
_MARKUP: Final = re.compile("[<>&\u2028\u2029]")
# An escaped backslash is passed over, so that what follows it is not taken for an escape.
_REPLACED: Final = re.compile(r"(\\\\)|\\ufffd")


def go_number(shortest: str) -> str:
    """A number in Go's notation (encoding/json, encode.go: ``floatEncoder``).

    Args:
        shortest: The shortest decimal text that reads as the same float, in any notation.

    Raises:
        ValueError: Go has no JSON for it: NaN, Infinity.
    """
    negative, figures, exponent = Decimal(shortest).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"json: unsupported value: {shortest}")
    significant = "".join(map(str, figures)).rstrip("0")
    point = len(figures) + exponent
    sign = "-" if negative else ""
    if not significant:
        return f"{sign}0"
    magnitude = point - 1
    if magnitude < -6 or magnitude >= 21:
        tail = f".{significant[1:]}" if len(significant) > 1 else ""
        return f"{sign}{significant[0]}{tail}e{'-' if magnitude < 0 else '+'}{abs(magnitude)}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    if point >= len(significant):
        return sign + significant + "0" * (point - len(significant))
    return f"{sign}{significant[:point]}.{significant[point:]}"


def go_text(value: object, *, is_sorted: bool = True) -> str:
    """A decoded JSON value as Go writes what it read into ``any``: numbers are floats, members sorted, ``<`` escaped.

    Args:
        value: As Python's ``json`` reads it.
        is_sorted: Off for an object whose members keep their order, as those of a tool's arguments do; inside of them
            they are sorted all the same.

    Raises:
        ValueError: A number that no float64 holds.
    """
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return go_quote(value)
    if isinstance(value, int):
        return str(value) if value in _EXACT else go_number(repr(_float(value)))
    if isinstance(value, float):
        return go_number(repr(value))
    if isinstance(value, list):
        return f"[{','.join(map(go_text, value))}]"
    if isinstance(value, dict):
        names = sorted(value) if is_sorted else value
        return f"{{{','.join(f'{go_quote(name)}:{go_text(value[name])}' for name in names)}}}"
    raise ValueError(f"no JSON: {type(value).__name__}")


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number is too large") from None


def compact(raw: str) -> str:
    """A JSON text as Go writes a ``json.RawMessage``: without space, ``<`` escaped, otherwise as it was."""
    return _STRING_OR_SPACE.sub(_without_space, raw)


def _without_space(found: re.Match[str]) -> str:
    text = found[0]
    return _MARKUP.sub(lambda mark: f"\\u{ord(mark[0]):04x}", text) if text.startswith('"') else ""


def rewritten(raw: str) -> str:
    """The JSON text of a string, or of anything, that Go wrote, as Go writes it once it has read it.

    It is the same but for what was no UTF-8 the first time: that was escaped as U+FFFD, and is a character by now.
    """
    return _REPLACED.sub(lambda found: found[1] or "\ufffd", raw) if "\\ufffd" in raw else raw
