"""`pilotlight simulate`, started as a user starts it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.simulator.replay import get, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def started(*flags: str, **environ: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    command = [sys.executable, "-m", "proxy", "simulate", "--listen", "127.0.0.1:0", *flags]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "", "PYTHONUNBUFFERED": "1", **environ},
    )
    assert process.stdout is not None
    banner = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    try:
        assert "simulated Ollama" in banner, banner
        yield process, int(banner.strip().rpartition(":")[2])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_calls_itself_simulated_and_ends_with_a_signal() -> None:
    async with started("--profile", "recorded") as (process, port):
        assert (await get(port, "/api/version")).json() == {"version": "0.24.0"}
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_models_faults_and_environment_are_taken() -> None:
    flags = ("--profile", "recorded", "--speed", "1000", "--fail", "cut,after=1,path=/api/chat")
    async with started(*flags, OLLAMA_KEEP_ALIVE="1h", OLLAMA_CONTEXT_LENGTH="2048") as (_, port):
        messages = [{"role": "user", "content": "x"}]
        assert (await post(port, "/api/chat", model="tiny", messages=messages)).ended == "cut"
        assert (await get(port, "/api/ps")).json()["models"][0]["context_length"] == 2048


async def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (("--listen", address), ("--listen", "127.0.0.1:0", "--control", address)):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "simulate", *flags),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            _, error = await asyncio.wait_for(process.communicate(), 30)
            assert (process.returncode, error.decode()) == (
                1,
                f"pilotlight: cannot listen on {address}: Address already in use\n",
            )


async def test_a_models_file_describes_other_models(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("weights: {w: {size_bytes: 1000, load_s: 0}}\nmodels: [{name: mine, weights: w}]\n")
    async with started("--models", str(path)) as (_, port):
        assert [model["name"] for model in (await get(port, "/api/tags")).json()["models"]] == ["mine:latest"]


async def test_a_crash_ends_the_process_or_comes_back() -> None:
    async with started("--profile", "recorded") as (process, port):
        await post(port, "/api/generate", model="tiny", prompt="x", context=[9999])
        assert await asyncio.wait_for(process.wait(), 10) == 134
    async with started("--profile", "recorded", "--restart-after", "0") as (process, port):
        await post(port, "/api/generate", model="tiny", prompt="x", context=[9999])
        assert process.stdout is not None
        assert b"again" in await asyncio.wait_for(process.stdout.readline(), 10)
        assert (await get(port, "/")).status == 200


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--profile", "real"], "real"),
        (["--fail", "nonsense"], "nonsense"),
        (["--models", "missing.yaml"], "missing.yaml"),
        (["--control", "nowhere"], "--control"),
    ],
)
async def test_what_cannot_be_used_is_named_with_exit_code_2(flags: list[str], named: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "proxy", "simulate", *flags], stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert named in errors.decode()
