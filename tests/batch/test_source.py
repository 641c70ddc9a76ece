from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from proxy.batch.lines import Line
from proxy.batch.source import Given, InputUnusable, Source, numbered

if TYPE_CHECKING:
    from pathlib import Path

TEXT = b'"one"\n\n' + b'"%b"\n' % (b"x" * 200_000) + b'"last"'
NUMBERS = [1, 3, 4]


async def read(source: Source) -> list[Line]:
    return [line async for piece in source.lines() for line in piece]


async def test_a_files_lines_are_read_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(TEXT)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = Source(descriptor, "in.jsonl")
        assert source.is_file
        # Counting moves nothing.
        assert source.count() == 3
        lines = await read(source)
        assert [line.number for line in lines] == NUMBERS
        assert lines[-1].raw == b'"last"'
    finally:
        os.close(descriptor)


async def test_a_pipes_lines_come_as_they_are_written_and_it_blocks_again_afterwards() -> None:
    ours, theirs = os.pipe()
    try:
        source = Source(ours, "standard input")
        assert not source.is_file
        pieces = source.lines()
        os.write(theirs, b'"one"\n"tw')
        assert await asyncio.wait_for(anext(pieces), 10) == [Line(1, b'"one"')]
        os.write(theirs, b'o"')
        os.close(theirs)
        assert [line async for piece in pieces for line in piece] == [Line(2, b'"two"')]
        assert os.get_blocking(ours)
    finally:
        os.close(ours)


async def test_a_pipe_that_nobody_writes_to_can_be_left() -> None:
    ours, theirs = os.pipe()
    try:
        waiting = asyncio.ensure_future(anext(Source(ours, "standard input").lines()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        os.close(ours)
        os.close(theirs)


async def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(InputUnusable, match=r"in\.jsonl: Is a directory"):
            await read(Source(descriptor, "in.jsonl"))
    finally:
        os.close(descriptor)


async def test_a_programs_values_are_numbered_bytes_are_lines() -> None:
    async def values() -> object:
        for value in ("a", b'"b"'):
            yield value

    expected = [Given(1, "a"), Line(2, b'"b"')]
    assert [line async for piece in numbered(["a", b'"b"']) for line in piece] == expected
    assert [line async for piece in numbered(values()) for line in piece] == expected  # type: ignore[arg-type]
