"""Writing JSON byte for byte as Go's ``json.Marshal`` does.

Source: Go 1.26 ``encoding/json/encode.go``: ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped, floats have the
ES6 form, maps are sorted by name while structs keep the order of their fields.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence

from proxy.wire.gojson import go_quote
from proxy.wire.gowrite import compact, go_number


class Float32(float):
    """A number that Go holds as ``float32``: written with the digits that a float32 needs."""

    __slots__ = ()


class GoMap(dict[str, object]):
    """A Go map: written sorted by name, unlike a struct."""


class RawJson(str):
    """Text that is JSON already (``json.RawMessage``): written without spaces, otherwise as it is."""

    __slots__ = ()


def number(value: float) -> str:
    """A float64, or a float32 where the type says so."""
    text = _shortest32(value) if isinstance(value, Float32) else repr(float(value))
    return go_number(text)


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
        return compact(value)
    if isinstance(value, str):
        return go_quote(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, GoMap):
        return "{" + ",".join(f"{go_quote(name)}:{marshal(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{go_quote(name)}:{marshal(member)}" for name, member in value.items()) + "}"
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
