"""Where lines come from: a file, a pipe, or a program's own values. Memory for one piece, however long the input is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.batch.lines import Line, Numbered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable

_PIECE_BYTES: Final = 1 << 16


class InputUnusable(Exception):
    """The input cannot be read. One line, which names it."""


class Source:
    """Lines from an open file or pipe.

    Args:
        descriptor: Open for reading; :meth:`aclose` does not close it.
        name: For messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    @property
    def is_file(self) -> bool:
        """Whether it can be read twice."""
        return stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def count(self) -> int:
        """Lines that are not empty, of a file; blocks while it reads all of it."""
        numbered = Numbered()
        count = start = 0
        while piece := os.pread(self._descriptor, _PIECE_BYTES, start):
            start += len(piece)
            count += len(numbered.feed(piece))
        return count + len(numbered.end())

    async def lines(self) -> AsyncGenerator[list[Line], None]:
        """What each piece completes.

        Raises:
            InputUnusable: It cannot be read on.
        """
        numbered = Numbered()
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                yield numbered.feed(piece)
        yield numbered.end()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        mode = os.fstat(self._descriptor).st_mode
        may_wait = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._descriptor)
        try:
            while True:
                if may_wait:
                    await _readable(self._descriptor)
                else:
                    # Lines that have a result already need no waiting; others may want their turn.
                    await asyncio.sleep(0)
                if not (piece := os.read(self._descriptor, _PIECE_BYTES)):
                    return
                yield piece
        except OSError as error:
            raise InputUnusable(f"{self._name}: {error.strerror}") from None


async def _readable(descriptor: int) -> None:
    """Wait for something to read, or the end."""
    blocks = os.get_blocking(descriptor)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
        # The loop (libuv) has it not block any more; a terminal is the shell's, too.
        os.set_blocking(descriptor, blocks)


class Given(NamedTuple):
    """A value of a program's own in the place of a line."""

    number: int
    value: Any


async def numbered(values: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[list[Line | Given], None]:
    """Values as lines, numbered from 1: ``bytes`` are a line's JSON, anything else is what a line's JSON stands for."""
    number = 0
    if hasattr(values, "__aiter__"):
        async for value in values:
            number += 1
            yield [_line(number, value)]
        return
    for value in values:
        number += 1
        yield [_line(number, value)]


def _line(number: int, value: object) -> Line | Given:
    return Line(number, value) if isinstance(value, bytes) else Given(number, value)
