from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.bench.children import Child, ChildError, free_port, pinned, processors
from tests.bench.programs import is_alive

if TYPE_CHECKING:
    from pathlib import Path


def simulated(folder: Path, port: int) -> Child:
    return Child(["simulate", "--listen", f"127.0.0.1:{port}"], folder / "log", dict(os.environ))


async def test_a_child_ends_with_its_context(tmp_path: Path) -> None:
    port = free_port()
    async with simulated(tmp_path, port) as child:
        await child.wait_listening(port, 20)
        assert is_alive(child.pid)
    assert not is_alive(child.pid)


async def test_a_child_ends_with_an_error_in_its_context(tmp_path: Path) -> None:
    child = simulated(tmp_path, free_port())
    with pytest.raises(KeyError):
        async with child:
            raise KeyError
    assert not is_alive(child.pid)


async def test_a_child_that_ends_on_its_own_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    async with Child(["check", "--listen", "nowhere"], tmp_path / "log", dict(os.environ)) as child:
        with pytest.raises(
            ChildError, match=r"(?s)check --listen nowhere` ended on its own.*listen: \"nowhere\" must be"
        ):
            await child.wait_listening(free_port(), 20)


async def test_what_does_not_come_true_in_time_is_an_error_that_says_so(tmp_path: Path) -> None:
    async def never() -> bool:
        return False

    async with simulated(tmp_path, free_port()) as child:
        with pytest.raises(ChildError, match=r"did not become ready within 0\.2 s"):
            await child.wait_until(never, 0.2, "did not become ready")


def test_what_is_measured_has_a_processor_of_its_own_where_there_are_two() -> None:
    measured, others = processors()
    usable = os.sched_getaffinity(0)
    if len(usable) == 1:
        assert (measured, others) == (None, None)
        return
    assert measured is not None
    assert others is not None
    assert len(measured) == 1
    assert (measured | others, measured & others) == (usable, frozenset())
    with pinned(measured):
        assert os.sched_getaffinity(0) == measured
    assert os.sched_getaffinity(0) == usable
