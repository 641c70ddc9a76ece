"""What of an output file is kept when a run goes on with it. Pure.

Only whole lines that are on the disk were said to be done. A crash can leave a last line that is torn, and a loss of
power more than that: whatever had not reached the disk may be anything. So what cannot be read is cut off, but only at
the end of the file: something unreadable with results behind it is no trace of a crash, and the file is left alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.batch.record import ByLine, Done, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


# How a result of ours begins, or zeros in its place; less of it is no evidence against us.
_TORN = re.compile(rb'\{"line":[0-9].*|\x00+', re.DOTALL)
_BEGINNING = b'{"line":'


class NotOurs(Exception):
    """The file holds something else than results of one input; the message names the line."""


class Recovery:
    """Reads an output file, whole lines in order.

    Attributes:
        done: What it has results of.
        keep_bytes: The file up to here is kept.
        in_order: The results are in the order of their lines.
    """

    def __init__(self) -> None:
        self.done = Done()
        self.keep_bytes = 0
        self.in_order = True
        self._read_bytes = 0
        self._lines = 0
        self._unreadable: int | None = None
        self._first = b""

    def feed(self, lines: Iterable[bytes]) -> None:
        """Take what comes next.

        Args:
            lines: Each with its line feed; the file's last one perhaps without.

        Raises:
            NotOurs: A line that is no result has a result behind it, or one line of the input has two results.
        """
        for raw in lines:
            self._lines += 1
            if self._lines == 1:
                self._first = raw
            self._read_bytes += len(raw)
            read = decode(raw) if raw.endswith(b"\n") else None
            if read is None:
                self._unreadable = self._unreadable or self._lines
                continue
            if self._unreadable is not None:
                raise NotOurs(f"line {self._unreadable} is no result of pilotlight batch")
            is_next = read.line > self.done.last
            if not self.done.add(read):
                raise NotOurs(f"line {self._lines} is a second result of line {read.line} of the input")
            self.in_order = self.in_order and is_next
            self.keep_bytes = self._read_bytes

    def check(self) -> None:
        """To be called at the end.

        Raises:
            NotOurs: Nothing of the file is a result, and it does not begin as one that was torn: it is somebody's file.
        """
        first = self._first.rstrip(b"\n")
        is_torn = _BEGINNING.startswith(first) or _TORN.fullmatch(first) is not None
        if self._lines and not self.keep_bytes and not is_torn:
            raise NotOurs("it holds no results of pilotlight batch")

    @property
    def cut_bytes(self) -> int:
        """What is cut off at the end."""
        return self._read_bytes - self.keep_bytes


class Spans:
    """Where each result stands in the file, for writing it anew."""

    def __init__(self) -> None:
        self._starts = ByLine()
        self._sizes = ByLine()

    def add(self, line: int, start: int, size: int) -> None:
        self._starts[line] = start
        self._sizes[line] = size

    def in_order(self) -> Iterator[tuple[int, int]]:
        """``(start, size)`` of each, in the order of the input's lines."""
        for line in self._sizes.lines():
            yield self._starts[line], self._sizes[line]
