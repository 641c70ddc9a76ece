"""Reading JSON with the syntax, and the error texts, of Go's ``encoding/json``.

Source: Go 1.26 ``encoding/json/scanner.go`` and ``stream.go`` (``Decoder.Decode``), which gin's
``ShouldBindJSON`` uses (gin v1.10.0 ``binding/json.go``). What follows the first value is ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4: Final = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES: Final = {
    ord("b"): "\b",
    ord("f"): "\f",
    ord("n"): "\n",
    ord("r"): "\r",
    ord("t"): "\t",
    ord("\\"): "\\",
    ord("/"): "/",
    ord('"'): '"',
}
_MAX_DEPTH: Final = 10_000  # encoding/json maxNestingDepth


class GoError(Exception):
    """An error as a Go function returns it: its text is the message."""


class EmptyInput(GoError):
    """``io.EOF``: there was nothing but space."""

    def __init__(self) -> None:
        super().__init__("EOF")


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value: ``kind`` is object, array, string, number, true, false or null."""

    kind: str
    value: object
    start: int
    end: int

    def members(self) -> list[tuple[str, Node]]:
        """The members of an object, duplicates included, in order."""
        assert isinstance(self.value, list)  # noqa: S101 - the parser made it
        return self.value

    def items(self) -> list[Node]:
        """The elements of an array."""
        assert isinstance(self.value, list)  # noqa: S101 - the parser made it
        return self.value

    def text(self) -> str:
        """The decoded text of a string, or the literal text of a number."""
        assert isinstance(self.value, str)  # noqa: S101 - the parser made it
        return self.value


def parse(body: bytes) -> Node:
    """Read the first JSON value of ``body``.

    Raises:
        EmptyInput: there is no value at all.
        GoError: with the text of Go's ``SyntaxError`` or "unexpected EOF".
    """
    position = _skip(body, 0)
    if position == len(body):
        raise EmptyInput
    try:
        return _value(body, position, 0)
    except RecursionError:
        raise GoError("exceeded max depth") from None


def _skip(body: bytes, position: int) -> int:
    match = _SPACE.match(body, position)
    return match.end() if match else position


def quote_char(byte: int) -> str:
    """A byte as ``encoding/json`` quotes it in a syntax error."""
    special = {0x27: "\\'", 0x22: '"', 0x5C: "\\\\", 7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t"}
    if byte in special:
        return f"'{special[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte < 0xA0 or byte in (0xA0, 0xAD):
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


def _bad(body: bytes, position: int, context: str) -> GoError:
    if position >= len(body):
        return GoError("unexpected EOF")
    return GoError(f"invalid character {quote_char(body[position])} {context}")


def _value(body: bytes, position: int, depth: int) -> Node:
    if position >= len(body):
        raise GoError("unexpected EOF")
    if depth > _MAX_DEPTH:
        raise GoError("exceeded max depth")
    first = body[position]
    if first == 0x22:
        text, end = _string(body, position)
        return Node("string", text, position, end)
    if first == 0x7B:
        return _object(body, position, depth)
    if first == 0x5B:
        return _array(body, position, depth)
    if first == 0x2D or 0x30 <= first <= 0x39:
        return _number(body, position)
    for literal in ("true", "false", "null"):
        if first == ord(literal[0]):
            return _literal(body, position, literal)
    raise _bad(body, position, "looking for beginning of value")


def _literal(body: bytes, position: int, literal: str) -> Node:
    for offset, expected in enumerate(literal[1:], start=1):
        at = position + offset
        if at >= len(body) or body[at] != ord(expected):
            raise _bad(body, at, f"in literal {literal} (expecting '{expected}')")
    return Node(literal, None, position, position + len(literal))


def _number(body: bytes, position: int) -> Node:
    match = _NUMBER.match(body, position)
    if match is None:
        raise _bad(body, position + 1, "in numeric literal")
    end = match.end()
    following = body[end : end + 1]
    if following == b"." and b"." not in match.group() and b"e" not in match.group().lower():
        raise _bad(body, end + 1, "after decimal point in numeric literal")
    if following in (b"e", b"E") and b"e" not in match.group().lower():
        at = end + 1
        if body[at : at + 1] in (b"+", b"-"):
            at += 1
        raise _bad(body, at, "in exponent of numeric literal")
    return Node("number", match.group().decode("ascii"), position, end)


def _string(body: bytes, position: int) -> tuple[str, int]:
    pieces: list[str] = []
    at = position + 1
    while True:
        match = _PLAIN.match(body, at)
        end = match.end() if match else at
        if end > at:
            pieces.append(_utf8(body[at:end]))
        if end >= len(body):
            raise GoError("unexpected EOF")
        stop = body[end]
        if stop == 0x22:
            return "".join(pieces), end + 1
        if stop != 0x5C:
            raise _bad(body, end, "in string literal")
        piece, at = _escape(body, end + 1)
        pieces.append(piece)


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Go replaces every byte that is not part of a valid sequence by its own U+FFFD.
        text = raw.decode("utf-8", "surrogateescape")
        return re.sub("[\udc80-\udcff]", "\ufffd", text)


def _escape(body: bytes, at: int) -> tuple[str, int]:
    if at >= len(body):
        raise GoError("unexpected EOF")
    if body[at] != ord("u"):
        if body[at] not in _ESCAPES:
            raise _bad(body, at, "in string escape code")
        return _ESCAPES[body[at]], at + 1
    code, at = _hex4(body, at + 1)
    if 0xD800 <= code < 0xDC00 and body[at : at + 2] == b"\\u":
        low, after = _hex4(body, at + 2)
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), after
    if 0xD800 <= code < 0xE000:
        return "\ufffd", at
    return chr(code), at


def _hex4(body: bytes, at: int) -> tuple[int, int]:
    if not _HEX4.match(body, at):
        for offset in range(4):
            if not re.match(rb"[0-9a-fA-F]", body[at + offset : at + offset + 1]):
                raise _bad(body, at + offset, "in \\u hexadecimal character escape")
    return int(body[at : at + 4], 16), at + 4


def _array(body: bytes, position: int, depth: int) -> Node:
    items: list[Node] = []
    at = _skip(body, position + 1)
    if body[at : at + 1] == b"]":
        return Node("array", items, position, at + 1)
    while True:
        item = _value(body, _skip(body, at), depth + 1)
        items.append(item)
        at = _skip(body, item.end)
        separator = body[at : at + 1]
        if separator == b"]":
            return Node("array", items, position, at + 1)
        if separator != b",":
            raise _bad(body, at, "after array element")
        at += 1


def _object(body: bytes, position: int, depth: int) -> Node:
    members: list[tuple[str, Node]] = []
    at = _skip(body, position + 1)
    if body[at : at + 1] == b"}":
        return Node("object", members, position, at + 1)
    while True:
        at = _skip(body, at)
        if body[at : at + 1] != b'"':
            raise _bad(body, at, "looking for beginning of object key string")
        name, at = _string(body, at)
        at = _skip(body, at)
        if body[at : at + 1] != b":":
            raise _bad(body, at, "after object key")
        member = _value(body, _skip(body, at + 1), depth + 1)
        members.append((name, member))
        at = _skip(body, member.end)
        separator = body[at : at + 1]
        if separator == b"}":
            return Node("object", members, position, at + 1)
        if separator != b",":
            raise _bad(body, at, "after object key:value pair")
        at += 1
