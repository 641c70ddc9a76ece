"""Writing JSON byte for byte as Go's ``json.Marshal`` does.

Source: Go 1.26 ``encoding/json/encode.go``: ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped, floats have the
ES6 form, maps are sorted by name while structs keep the order of their fields.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

_ODD: Final = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029\ud800-\udfff]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Float32(float):
    """A number that Go holds as ``float32``: written with the digits that a float32 needs."""

    __slots__ = ()


class GoMap(dict[str, object]):
    """A Go map: written sorted by name, unlike a struct."""


class RawJson(str):
    """Text that is JSON already (``json.RawMessage``): written without spaces, otherwise as it is."""

    __slots__ = ()


_STRING_OR_SPACE: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[ \t\r\n]+')


def _compact(match: re.Match[str]) -> str:
    text = match.group()
    if not text.startswith('"'):
        return ""
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found.group()):04x}", text)


def _escape(match: re.Match[str]) -> str:
    letter = match.group()
    if "\ud800" <= letter <= "\udfff":
        return "\\ufffd"
    return _SHORT.get(letter) or f"\\u{ord(letter):04x}"


def quote(text: str) -> str:
    """A string as ``json.Marshal`` writes it."""
    return f'"{_ODD.sub(_escape, text)}"'


def number(value: float) -> str:
    """A float64, or a float32 where the type says so."""
    text = _shortest32(value) if isinstance(value, Float32) else repr(float(value))
    negative, figures, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"json: unsupported value: {text}")
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
    if len(significant) <= point:
        return f"{sign}{significant}{'0' * (point - len(significant))}"
    return f"{sign}{significant[:point]}.{significant[point:]}"


def _shortest32(value: float) -> str:
    packed = struct.pack("<f", value)
    for precision in range(1, 10):
        text = f"{value:.{precision}g}"
        with contextlib.suppress(OverflowError):  # rounded up beyond the largest float32
            if struct.pack("<f", float(text)) == packed:
                return text
    return repr(float(value))


def marshal(value: object) -> str:
    """Any value made of dict (struct), GoMap, list, str, bytes, bool, int, float and None."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, RawJson):
        return _STRING_OR_SPACE.sub(_compact, value)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, GoMap):
        return "{" + ",".join(f"{quote(name)}:{marshal(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{quote(name)}:{marshal(member)}" for name, member in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join([marshal(item) for item in value]) + "]"
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def as_go_map(value: object) -> object:
    """Turn plain dictionaries, at any depth, into Go maps (the way Go holds JSON of unknown shape)."""
    if isinstance(value, Mapping):
        return GoMap({name: as_go_map(member) for name, member in value.items()})
    if isinstance(value, list):
        return [as_go_map(item) for item in value]
    return value
