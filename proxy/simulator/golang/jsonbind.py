"""Putting JSON into the shape of a Go struct, with Go's error texts.

Source: Go 1.26 ``encoding/json/decode.go``: names match exactly or without regard to case, the last duplicate
wins, null leaves a value as it was, the first type error is reported after everything has been read, and the
error of an ``UnmarshalJSON`` method ends the reading at once.

A struct becomes a ``dict`` from JSON names to values that has every field: "" / 0 / False for plain types and
None for pointers, slices, maps, interfaces and raw messages that were not given.
"""

from __future__ import annotations

import base64
import math
import struct as struct_codec
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang.jsonin import GoError, Node, parse
from proxy.simulator.golang.jsonout import GoMap

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class TypeMismatch(GoError):
    """``json.UnmarshalTypeError``; struct and field are filled in on the way out."""

    def __init__(self, value: str, type_name: str) -> None:
        super().__init__(value, type_name)
        self.value = value
        self.type_name = type_name
        self.struct = ""
        self.field = ""

    def __str__(self) -> str:
        place = f"Go struct field {self.struct}.{self.field}" if self.struct or self.field else "Go value"
        return f"json: cannot unmarshal {self.value} into {place} of type {self.type_name}"


@dataclass(slots=True)
class Reader:
    """The state of one ``json.Unmarshal``: the text, the first saved error, and where we are."""

    body: bytes
    saved: GoError | None = None
    struct: str = ""
    stack: list[str] = field(default_factory=list)

    def context(self, error: GoError) -> GoError:
        """Name the place in a type error, as ``addErrorContext`` does."""
        if isinstance(error, TypeMismatch) and (self.struct or self.stack):
            error.struct = self.struct
            error.field = ".".join([*self.stack, *([error.field] if error.field else [])])
        return error

    def save(self, error: GoError) -> None:
        """Keep the first error and go on."""
        if self.saved is None:
            self.saved = self.context(error)

    def raw(self, node: Node) -> bytes:
        """The text of a value as it stood in the input."""
        return self.body[node.start : node.end]


class GoType:
    """A Go type that JSON can be read into."""

    name = ""

    def zero(self) -> object:
        """The value of a field that was not given."""
        return None

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        """The value for ``node``; ``previous`` is what stood there before (a duplicate, or the zero value)."""
        raise NotImplementedError

    def _wrong(self, reader: Reader, node: Node, previous: object) -> object:
        kind = {"true": "bool", "false": "bool"}.get(node.kind, node.kind)
        reader.save(TypeMismatch(kind, self.name))
        return previous


class _String(GoType):
    name = "string"

    def zero(self) -> object:
        return ""

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "string":
            return node.value
        return previous if node.kind == "null" else self._wrong(reader, node, previous)


class _Bool(GoType):
    name = "bool"

    def zero(self) -> object:
        return False

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind in ("true", "false"):
            return node.kind == "true"
        return previous if node.kind == "null" else self._wrong(reader, node, previous)


class Integer(GoType):
    """``int`` and its sized forms."""

    def __init__(self, name: str = "int", bits: int = 64, *, signed: bool = True) -> None:
        self.name = name
        self._low = -(1 << (bits - 1)) if signed else 0
        self._high = (1 << (bits - 1 if signed else bits)) - 1

    def zero(self) -> object:
        return 0

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind != "number":
            return previous if node.kind == "null" else self._wrong(reader, node, previous)
        text = node.text()
        if text.lstrip("-").isdigit() and len(text) < 25 and self._low <= int(text) <= self._high:
            return int(text)
        reader.save(TypeMismatch(f"number {text}", self.name))
        return previous


class Float(GoType):
    """``float64`` and ``float32``."""

    def __init__(self, name: str = "float64") -> None:
        self.name = name

    def zero(self) -> object:
        return 0.0

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind != "number":
            return previous if node.kind == "null" else self._wrong(reader, node, previous)
        number = float(node.text())
        try:
            if self.name == "float32":
                number = struct_codec.unpack("<f", struct_codec.pack("<f", number))[0]
        except OverflowError:
            number = math.inf
        if math.isinf(number):
            reader.save(TypeMismatch(f"number {node.text()}", self.name))
            return previous
        return number


class _Any(GoType):
    name = "interface {}"

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        return plain(node, reader)


class _Raw(GoType):
    """``json.RawMessage``: the text itself, also for null."""

    name = "json.RawMessage"

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        return reader.raw(node)


class Pointer(GoType):
    """``*T``: None when absent or null."""

    def __init__(self, to: GoType) -> None:
        self._to = to
        self.name = to.name

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "null":
            return None
        return self._to.read(reader, node, self._to.zero() if previous is None else previous)


class Slice(GoType):
    """``[]T``."""

    def __init__(self, of: GoType, name: str = "") -> None:
        self._of = of
        self.name = name or f"[]{of.name}"

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "null":
            return None
        if node.kind != "array":
            return self._wrong(reader, node, previous)
        return [self._of.read(reader, item, self._of.zero()) for item in node.items()]


class Bytes(GoType):
    """A named ``[]byte``: base64 in a string, or a list of numbers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "null":
            return None
        if node.kind == "string":
            try:
                return decode_base64(node.text())
            except GoError as error:
                reader.save(error)
                return previous
        if node.kind == "array":
            octet = Integer("uint8", 8, signed=False)
            values = [octet.read(reader, item, 0) for item in node.items()]
            return bytes(value for value in values if isinstance(value, int))
        return self._wrong(reader, node, previous)


class Map(GoType):
    """``map[string]T``; a second object under the same name adds to the first."""

    def __init__(self, of: GoType) -> None:
        self._of = of
        self.name = f"map[string]{of.name}"

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "null":
            return None
        if node.kind != "object":
            return self._wrong(reader, node, previous)
        result = GoMap(previous) if isinstance(previous, dict) else GoMap()
        for name, member in node.members():
            result[name] = self._of.read(reader, member, self._of.zero())
        return result


_FOLD: Final = {"\u017f": "s", "\u212a": "k"}


def fold(name: str) -> str:
    """A name as ``encoding/json`` compares it without regard to case."""
    return "".join(_FOLD.get(letter, letter) for letter in name).lower()


class Struct(GoType):
    """A Go struct: JSON names and the types of its fields."""

    def __init__(self, name: str, fields: Mapping[str, GoType]) -> None:
        self.name = name
        # An anonymous struct is named by its definition where a value has the wrong type, and by nothing elsewhere.
        self.short = "" if name.startswith("struct {") else name.rpartition(".")[2]
        self.define(fields)

    def define(self, fields: Mapping[str, GoType]) -> None:
        """Say what the fields are; apart from the constructor for types that hold themselves."""
        self.fields = dict(fields)
        self._folded = {fold(key): key for key in reversed(list(fields))}

    def zero(self) -> object:
        return {key: kind.zero() for key, kind in self.fields.items()}

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        if node.kind == "null":
            return previous
        if node.kind != "object":
            return self._wrong(reader, node, previous)
        result: dict[str, object] = dict(previous) if isinstance(previous, dict) else {}
        outer, depth = reader.struct, len(reader.stack)
        for name, member in node.members():
            key = name if name in self.fields else self._folded.get(fold(name))
            if key is None:
                continue
            reader.struct = self.short
            reader.stack.append(key)
            result[key] = self.fields[key].read(reader, member, result.get(key))
            reader.struct = outer
            del reader.stack[depth:]
        return result


class Custom(GoType):
    """A type with an ``UnmarshalJSON`` method: ``read_raw`` gets the raw text and returns the value."""

    def __init__(
        self, name: str, read_raw: Callable[[bytes], object], zero: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self._read_raw = read_raw
        self._zero = zero

    def zero(self) -> object:
        return self._zero()

    def read(self, reader: Reader, node: Node, previous: object) -> object:
        return self._read_raw(reader.raw(node))


STRING: Final = _String()
BOOL: Final = _Bool()
INT: Final = Integer()
FLOAT64: Final = Float()
FLOAT32: Final = Float("float32")
ANY: Final = _Any()
RAW: Final = _Raw()


def unmarshal(body: bytes, into: GoType) -> object:
    """Read the first value of ``body`` into a Go type.

    Raises:
        EmptyInput: no value.
        GoError: with Go's text.
    """
    return bind(parse(body), body, into)


def unmarshal_struct(body: bytes, into: Struct) -> dict[str, object]:
    """``unmarshal`` for a struct; a bare null gives the zero struct."""
    result = unmarshal(body, into)
    if not isinstance(result, dict):
        raise GoError("json: unexpected value")
    return result


def bind(node: Node, body: bytes, into: GoType) -> object:
    """Read an already parsed value into a Go type."""
    reader = Reader(body)
    try:
        result = into.read(reader, node, into.zero())
    except GoError as error:
        raise reader.context(error) from None
    if reader.saved is not None:
        raise reader.saved
    return result


def plain(node: Node, reader: Reader | None = None) -> object:
    """A value as Go reads it into ``any``: numbers are floats, objects lose duplicates."""
    if node.kind == "object":
        return GoMap({name: plain(member, reader) for name, member in node.members()})
    if node.kind == "array":
        return [plain(item, reader) for item in node.items()]
    if node.kind == "number":
        number = float(node.text())
        if math.isinf(number) and reader is not None:
            reader.save(TypeMismatch(f"number {node.text()}", "float64"))
        return number
    return {"true": True, "false": False, "null": None}.get(node.kind, node.value)


def decode_base64(text: str) -> bytes:
    """Standard base64 with padding, as ``base64.StdEncoding`` reads it: line breaks are skipped.

    Raises:
        GoError: "illegal base64 data at input byte N".
    """
    data = text.encode("utf-8", "surrogateescape")
    bad_at = _corrupt_at(data)
    if bad_at is not None:
        raise GoError(f"illegal base64 data at input byte {bad_at}")
    return base64.b64decode(bytes(byte for byte in data if byte not in _LINE_BREAKS))


_LINE_BREAKS: Final = b"\r\n"
_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _corrupt_at(data: bytes) -> int | None:
    """Where ``base64.Encoding.decodeQuantum`` finds the data corrupt; None where it does not."""
    position = in_quantum = 0
    while position < len(data):
        byte = data[position]
        position += 1
        if byte in _ALPHABET:
            in_quantum = (in_quantum + 1) % 4
        elif byte == ord("="):
            return _bad_padding(data, position, in_quantum)
        elif byte not in _LINE_BREAKS:
            return position - 1
    return position - in_quantum if in_quantum else None


def _bad_padding(data: bytes, position: int, in_quantum: int) -> int | None:
    """The same after a first padding character, which ``position`` is behind."""
    if in_quantum < 2:
        return position - 1
    if in_quantum == 2:
        position = _after_breaks(data, position)
        if position == len(data):
            return position
        if data[position] != ord("="):
            return position - 1
        position += 1
    position = _after_breaks(data, position)
    return position if position < len(data) else None


def _after_breaks(data: bytes, position: int) -> int:
    while position < len(data) and data[position] in _LINE_BREAKS:
        position += 1
    return position
