"""JSON the way Ollama reads and writes it, which is the way of Go's ``encoding/json``.

What must live here: reading one object into its members *with their places in the text*, replacing members without
touching anything else, and Go's way of writing a string. What must not: any knowledge of requests or models.

How Go reads a struct (``encoding/json``: ``decode.go``, ``scanner.go``, ``fold.go``; gin uses ``Decoder.Decode``):

* the first value counts, what follows it is ignored;
* a name is matched exactly or, failing that, under simple Unicode case folding: the Kelvin sign is a ``k``;
* of members with one name the last one counts, and ``null`` leaves a field as it was;
* no NaN, no Infinity, no control characters in strings, at most 10,000 levels;
* bytes that are no UTF-8 and lone surrogates become U+FFFD instead of an error.

Python's C scanner does the reading. Where it is stricter than Go (depth, numbers of thousands of digits) the value is
checked by Go's rules without being decoded and stands as :data:`UNREAD`.
"""

from __future__ import annotations

import enum
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

# encoding/json, scanner.go: maxNestingDepth.
MAX_DEPTH: Final = 10_000

_SPACE = re.compile(r"[ \t\n\r]*")
# A name without escapes up to the first byte of its value: nearly every member of nearly every request.
_PLAIN_NAME = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_AFTER_VALUE = re.compile(r"[ \t\n\r]*([,}])")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?|true|false|null")
# Go escapes what could end a <script>, and writes bytes that are no UTF-8 as an escaped U+FFFD.
_TO_ESCAPE = re.compile('["\\\\\x00-\x1f<>&\u2028\u2029\ud800-\udfff]')
_SHORT_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Absent(enum.Enum):
    """What :meth:`JsonObject.get` answers for a name that is not there; ``None`` is JSON's null."""

    MISSING = "missing"


class Unread(enum.Enum):
    """A value that Go accepts and Python's scanner does not decode; of unknown type."""

    UNREAD = "unread"


MISSING: Final = Absent.MISSING
UNREAD: Final = Unread.UNREAD


class Member(NamedTuple):
    """One member of an object.

    Attributes:
        name: As Go sees it, escapes resolved.
        value: As Python's ``json`` reads it; lone surrogates are U+FFFD.
        start: Where the value begins in the object's text.
        end: Where it ends.
        name_start: Where the name's opening quote stands.
    """

    name: str
    value: Any
    start: int
    end: int
    name_start: int


class JsonObject:
    """An object and the text it was read from.

    Attributes:
        text: The whole text; bytes that are no UTF-8 stand as surrogate escapes.
        members: In the order of the text, those with one name included.
        start: Place of the opening brace.
        end: Place after the closing brace.
    """

    __slots__ = ("_clean", "_last", "end", "members", "start", "text")

    def __init__(self, text: str, start: int, end: int, members: list[Member], clean: bool) -> None:
        self.text = text
        self.start = start
        self.end = end
        self.members = members
        self._clean = clean
        self._last = {member.name: member for member in members}

    def __repr__(self) -> str:
        return f"<JsonObject {len(self.members)} members, {self.end - self.start} characters>"

    @property
    def odd(self) -> bool:
        """A name stands twice, or two are equal without regard to case: which one Ollama takes, its names decide."""
        return len({name.casefold() for name in self._last}) != len(self.members)

    def __contains__(self, name: object) -> bool:
        return name in self._last

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def get(self, name: str) -> Any:
        """The value of the last member with this name, or :data:`MISSING`."""
        member = self._last.get(name)
        return MISSING if member is None else member.value

    def given(self, name: str) -> Any:
        """The value, or ``None`` where it is absent or null: Go's fields cannot tell these two apart."""
        member = self._last.get(name)
        return None if member is None else member.value

    def raw(self, name: str) -> str:
        """The JSON text of the last member with this name; "" where there is none."""
        member = self._last.get(name)
        return "" if member is None else self.text[member.start : member.end]

    def place(self, name: str) -> tuple[int, int]:
        """Where the value of the last member with this name stands in the text.

        Raises:
            KeyError: There is none.
        """
        member = self._last[name]
        return member.start, member.end

    def odd_for(self, known: frozenset[str]) -> bool:
        """Whether Ollama could read another member than :meth:`get` answers.

        Args:
            known: Field names that Ollama knows for this request, in lower case as its struct tags have them.
        """
        # ``casefold`` folds more than Go's simple folding ("ß" is "ss"): it may call a body odd that is not, never
        # the other way round.
        if known.issuperset(self._last):
            # Known names differ by more than case.
            return len(self._last) != len(self.members)
        return self.odd or any(name not in known and name.casefold() in known for name in self._last)


def read_object(body: bytes) -> JsonObject | None:
    """Read the first JSON value of a body as an object.

    Returns:
        The object, or ``None`` where Go would refuse the text or reads no object from it.
    """
    try:
        text = body.decode()
        exact = True
    except UnicodeDecodeError:
        text = body.decode("utf-8", "surrogateescape")
        exact = False
    return read_text(text, exact=exact)


def read_text(text: str, *, exact: bool = False) -> JsonObject | None:
    """Like :func:`read_object`, for a text. ``exact``: it is known to hold no surrogates."""
    start = _SPACE.match(text).end()  # type: ignore[union-attr]  # matches the empty text
    return _read(text, start, clean=exact and _ESCAPED_SURROGATE.search(text) is None)


def read_value(data: bytes) -> Any:
    """Read what is exactly one JSON value, with nothing around it; for its kind, not for what it says.

    Returns:
        The value, or :data:`MISSING` where it is none, something stands beside it, or it could not be decoded.
    """
    try:
        text = data.decode()
        value, end = _value(text, 0, True)
    except (ValueError, StopIteration):
        return MISSING
    return value if end == len(text) and value is not UNREAD else MISSING


def read_nested(obj: JsonObject, name: str) -> JsonObject | None:
    """Read a member that is an object itself; its places are places in the same text. ``None`` for anything else."""
    if not isinstance(obj.given(name), dict):
        return None
    member = obj._last[name]
    return _read(obj.text, member.start, clean=obj._clean)


def _read(text: str, start: int, *, clean: bool) -> JsonObject | None:
    """Read the object at ``start``. ``clean``: no string in the text can hold a surrogate."""
    if text[start : start + 1] != "{":
        return None
    members: list[Member] = []
    try:
        at = start + 1
        while True:
            named = _PLAIN_NAME.match(text, at)
            if named is not None:
                name, name_start, value_start = named[1], named.start(1) - 1, named.end()
                if not clean:
                    name = _SURROGATE.sub("\ufffd", name)
            else:
                name_start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
                if text[name_start : name_start + 1] == "}" and not members:
                    return JsonObject(text, start, name_start + 1, members, clean)
                if text[name_start : name_start + 1] != '"':
                    return None
                name, after = scanstring(text, name_start + 1, True)
                name = _SURROGATE.sub("\ufffd", name)
                colon = _COLON.match(text, after)
                if colon is None:
                    return None
                value_start = colon.end()
            value, end = _value(text, value_start, clean)
            members.append(Member(name, value, value_start, end, name_start))
            following = _AFTER_VALUE.match(text, end)
            if following is None:
                return None
            at = following.end()
            if following[1] == "}":
                return JsonObject(text, start, at, members, clean)
    except (json.JSONDecodeError, StopIteration):
        return None


def _refuse_constant(name: str) -> NoReturn:
    """Python's scanner knows NaN and Infinity; Go does not."""
    raise json.JSONDecodeError("no JSON", name, 0)


_scan: Callable[[str, int], tuple[Any, int]]
_scan = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]  # likewise


def _value(text: str, at: int, clean: bool) -> tuple[Any, int]:
    """One value of any type and the place after it. Raises what the scanner raises when it is no JSON."""
    try:
        value, end = _scan(text, at)
        if end - at > MAX_DEPTH and text.count("[", at, end) + text.count("{", at, end) >= MAX_DEPTH:
            _end_of_value(text, at)  # later versions of Python read deeper than Go does
        return (value if clean else _without_surrogates(value)), end
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        # Too many digits for an int, or too deep for the scanner: Go may take it all the same.
        return UNREAD, _end_of_value(text, at)


def _end_of_value(text: str, at: int) -> int:
    """The place after a value, by Go's grammar and depth, without decoding it."""
    # The member's own object is the first level.
    closers: list[str] = []
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        opener = text[at : at + 1]
        if opener in ("{", "["):
            if len(closers) + 2 > MAX_DEPTH:
                raise StopIteration(at)
            closers.append("}" if opener == "{" else "]")
            inner = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
            if text[inner : inner + 1] != closers[-1]:
                at = _after_name(text, inner) if opener == "{" else inner
                continue
            closers.pop()
            at = inner + 1
        else:
            scalar = (_STRING if opener == '"' else _SCALAR).match(text, at)
            if scalar is None:
                raise StopIteration(at)
            at = scalar.end()
        while closers:
            after = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            if text[after : after + 1] == ",":
                at = after + 1
                if closers[-1] == "}":
                    at = _after_name(text, _SPACE.match(text, at).end())  # type: ignore[union-attr]
                break
            if text[after : after + 1] != closers[-1]:
                raise StopIteration(after)
            closers.pop()
            at = after + 1
        else:
            return at


def _after_name(text: str, at: int) -> int:
    name = _STRING.match(text, at)
    colon = None if name is None else _COLON.match(text, name.end())
    if colon is None:
        raise StopIteration(at)
    return colon.end()


def _without_surrogates(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD, as Go does when it decodes a string."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value] if _may_hold_text(value) else value
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value


def _may_hold_text(values: list[Any]) -> bool:
    return not {str, list, dict}.isdisjoint(map(type, values))


def splice(obj: JsonObject, put: Mapping[str, str], remove: Collection[str] = ()) -> bytes:
    """Replace, add and remove members; every other character stays as it was.

    Args:
        obj: What was read. It is not changed.
        put: Name to raw JSON text. A member that is there keeps its place, a new one goes to the end.
        remove: Names that go. A name in ``put`` stays.

    Returns:
        The object alone: what stood before and after it is gone.
    """
    return splice_text(obj, put, remove).encode("utf-8", "surrogateescape")


def splice_text(obj: JsonObject, put: Mapping[str, str], remove: Collection[str] = ()) -> str:
    """Like :func:`splice`, as text, for an object inside another one."""
    text = obj.text
    pieces: list[str] = []
    at = obj.start  # everything before it is in ``pieces`` or removed
    opened = False  # a member has been written
    for member in obj.members:
        value = put.get(member.name)
        if value is None and member.name in remove:
            # The space before the first member belongs to the brace, that before a later one to the comma.
            if not opened and at == obj.start:
                pieces.append(text[at : member.name_start])
            at = member.end
            continue
        if opened or at == obj.start:
            pieces.append(text[at : member.name_start])
        opened = True
        if value is None:
            pieces.append(text[member.name_start : member.end])
        else:
            pieces.append(text[member.name_start : member.start])
            pieces.append(value)
        at = member.end
    if at == obj.start:
        pieces.append("{")
        at += 1
    for name, value in put.items():
        if name not in obj:
            pieces.append(f"{',' if opened else ''}{go_quote(name)}:{value}")
            opened = True
    pieces.append(text[at : obj.end])
    return "".join(pieces)


def go_quote(value: str) -> str:
    """Write a string as ``json.Marshal`` of Go 1.22 and later does, quotes included."""
    return f'"{_TO_ESCAPE.sub(_escape, value)}"'


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    short = _SHORT_ESCAPES.get(character)
    if short is not None:
        return short
    return "\\ufffd" if "\ud800" <= character <= "\udfff" else f"\\u{ord(character):04x}"


def decode_string(raw: str) -> str:
    """Decode the JSON text of a string as Go does: lone surrogates and bytes that are no UTF-8 become U+FFFD.

    Raises:
        ValueError: It is not the text of one string.
    """
    if raw[:1] != '"':
        raise ValueError("not a JSON string")
    value, end = scanstring(raw, 1, True)
    if end != len(raw):
        raise ValueError("more than one JSON string")
    return _SURROGATE.sub("\ufffd", value)
