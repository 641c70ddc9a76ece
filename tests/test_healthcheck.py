from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.bench.children import free_port
from proxy.healthcheck import check, main
from tests.peers import upstream
from tests.stage import staged

if TYPE_CHECKING:
    from tests.peers import Answering, Seen


async def ask(*arguments: str, admin: str = "") -> int:
    """As it is run, but in a thread: the server is on this one."""
    return await asyncio.to_thread(main, list(arguments), admin)


async def nothing(seen: Seen, reply: Answering) -> None:
    raise AssertionError


async def test_a_proxy_that_runs_is_well_ready_or_not() -> None:
    async with staged(nothing) as stage:
        port = stage.proxy.admin_address.rpartition(":")[2]
        # As PILOTLIGHT_ADMIN has them: an address that means all of them is asked for on loopback.
        for admin in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f":{port}", f"localhost:{port}"):
            assert await ask(admin=admin) == 0
        assert await ask(f"http://127.0.0.1:{port}/livez") == 0
        assert await ask(f"http://127.0.0.1:{port}/nothing") == 1


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1, "answered 503"),
        (b"SSH-2.0-OpenSSH_9.2 200\r\n", 1, "answered nothing"),
        (b"", 1, "answered nothing"),
        (b"x" * 1000, 1, "answered nothing"),
    ],
)
async def test_only_a_200_is_well(answer: bytes, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        await reply.sliced(answer, 5)
        reply.fin()

    async with upstream(script) as server:
        assert await ask(f"{server.url}/") == code
        assert server.seen[0].start_line == "GET / HTTP/1.0"
    assert said in capsys.readouterr().err


def test_nobody_there_is_said_in_one_line() -> None:
    port = free_port()
    environ = {"PATH": os.environ["PATH"], "PILOTLIGHT_ADMIN": f"0.0.0.0:{port}"}
    command = [sys.executable, "-I", "-m", "proxy.healthcheck"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"http://0.0.0.0:{port}/livez: Connection refused\n"


def test_silence_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Nobody accepts, but the kernel has shaken hands; the wait is the program's own.
        assert check(f"http://127.0.0.1:{listener.getsockname()[1]}/", 0.05).endswith("timed out")


@pytest.mark.parametrize("arguments", [["https://127.0.0.1/"], ["127.0.0.1:80"], ["http://a/b"], ["http://a:1/", "b"]])
def test_wrong_arguments_are_2_and_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, "") == 2
    assert capsys.readouterr().err.startswith("usage: python -m proxy.healthcheck")


def test_it_imports_no_http_client() -> None:
    """Each run is a process beside the proxy; what it imports is what it costs."""
    program = (
        "import sys, proxy.healthcheck; print(*{'http', 'aiohttp', 'pydantic', 'asyncio', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
