from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from proxy.bench.children import Child, ChildError, free_port

if TYPE_CHECKING:
    from pathlib import Path


def is_alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
        with pytest.raises(ChildError, match=r"(?s)check --listen nowhere` ended at once.*listen: \"nowhere\" must be"):
            await child.wait_listening(free_port(), 20)
