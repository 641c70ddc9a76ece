"""One output line, and what the output of an earlier run says about the input. Pure."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PAGE: Final = 1024


class Result(NamedTuple):
    """What became of one line.

    Attributes:
        line: Its number in the input, from 1.
        digest: By which it is known (``line.digest``).
        carried: ``id`` and ``meta`` of the line, where it has them.
        fields: ``text``, ``message``, ``embedding`` or ``embeddings``, and what Ollama says about it; empty where
            there is an error.
        error: What went wrong; ``None`` where nothing did.
        status: Of the answer with the error; ``None`` where none came.
        attempts: How often it was sent; 0 for a line that cannot be.
        elapsed_s: From taking the line to its result, waiting and pauses included.
    """

    line: int
    digest: str
    carried: Mapping[str, Any]
    fields: Mapping[str, Any]
    error: str | None
    status: int | None
    attempts: int
    elapsed_s: float

    def encode(self) -> bytes:
        """The output line, with its line feed."""
        made: dict[str, Any] = {"line": self.line, "digest": self.digest, **self.carried}
        if self.error is not None:
            made["error"] = self.error
            made["status"] = self.status
        made.update(self.fields)
        made["attempts"] = self.attempts
        made["elapsed_s"] = round(self.elapsed_s, 3)
        return orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE)


class Read(NamedTuple):
    """What an output line says."""

    line: int
    digest: str
    is_error: bool


def decode(raw: bytes) -> Read | None:
    """Read an output line; ``None`` where it is none of ours."""
    try:
        made = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(made, dict):
        return None
    line, digest = made.get("line"), made.get("digest")
    if not isinstance(line, int) or line < 1 or not isinstance(digest, str) or len(digest) != 16:
        return None
    try:
        int(digest, 16)
    except ValueError:
        return None
    return Read(line, digest, "error" in made)


class ByLine:
    """A number above 0 for each line: 8 bytes for each, wherever they begin."""

    def __init__(self) -> None:
        self._pages: dict[int, array[int]] = {}

    def __setitem__(self, line: int, value: int) -> None:
        page = self._pages.get(line // _PAGE)
        if page is None:
            page = self._pages[line // _PAGE] = array("Q", bytes(8 * _PAGE))
        page[line % _PAGE] = value

    def __getitem__(self, line: int) -> int:
        """0 for a line that has none."""
        page = self._pages.get(line // _PAGE)
        return 0 if page is None else page[line % _PAGE]

    def lines(self) -> Iterator[int]:
        """Lines that have one, in order."""
        for number in sorted(self._pages):
            yield from (number * _PAGE + place for place, value in enumerate(self._pages[number]) if value)


class Done:
    """Which lines have a result.

    Attributes:
        count: How many.
        last: The largest number; 0 for none.
    """

    def __init__(self) -> None:
        self._numbers = ByLine()
        self.count = 0
        self._with_error: set[int] = set()
        self.last = 0

    def __repr__(self) -> str:
        return f"<Done {self.count} lines, {self.errors} with an error>"

    @property
    def errors(self) -> int:
        """How many of them with an error."""
        return len(self._with_error)

    def add(self, read: Read) -> bool:
        """Take one; ``False`` where that line had a result already."""
        if self._numbers[read.line]:
            return False
        self._numbers[read.line] = _number(read.digest)
        self.count += 1
        if read.is_error:
            self._with_error.add(read.line)
        self.last = max(self.last, read.line)
        return True

    def has_error(self, line: int) -> bool:
        return line in self._with_error

    def knows(self, line: int) -> bool:
        return self._numbers[line] != 0

    def is_of(self, line: int, digest: str) -> bool:
        """Whether the result of that line is of the line as it is now."""
        return self._numbers[line] == _number(digest)


def _number(digest: str) -> int:
    # 0 stands for none.
    return int(digest, 16) or 1
