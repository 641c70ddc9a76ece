"""`pilotlight doctor`, started as a user starts it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from typer.testing import CliRunner

from proxy.bench.children import free_port
from proxy.cli import app
from proxy.simulator import SimulatedOllama, build_profile

if TYPE_CHECKING:
    from pathlib import Path

PROFILE: dict[str, Any] = {
    "machine": {"vram_bytes": 2**30},
    "weights": {"w": {"size_bytes": 2**20, "resident_bytes": 2**20, "load_s": 0.01, "tokens_per_s": 200}},
    "models": [
        {
            "name": "m",
            "weights": "w",
            "template": "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ end }}<|assistant|>",
        }
    ],
}


class Ended(NamedTuple):
    code: int | None
    out: str
    err: str


async def start(*flags: str, **environ: str) -> asyncio.subprocess.Process:
    # A port of our own, so that a Pilotlight of this machine's is not asked.
    given = {"PATH": "", "PILOTLIGHT_ADMIN": f"127.0.0.1:{free_port()}", **environ}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "doctor", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=given,
    )


async def doctor(*flags: str, **environ: str) -> Ended:
    """In a thread of this process, which spares the start of another; its environment is as given."""
    given = {"PILOTLIGHT_ADMIN": f"127.0.0.1:{free_port()}", **environ}
    result = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", *flags], env=given)
    return Ended(result.exit_code, result.stdout, result.stderr)


async def load(server: SimulatedOllama, keep_alive: Any) -> None:
    body = {"model": "m", "keep_alive": keep_alive, "stream": False}
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}/api/generate", json=body) as reply:
        assert reply.status == 200


async def test_findings_are_told_with_evidence_cost_and_remedy_and_end_with_1() -> None:
    async with SimulatedOllama(build_profile(PROFILE)) as server:
        await load(server, "5m")
        process = await start("--upstream", server.url)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        ended = Ended(process.returncode, out.decode(), err.decode())
        told = await doctor("--upstream", server.url, "--json")
        silent = await doctor("--upstream", server.url, "--ignore", "unpinned")
    assert ended.code == 1
    assert "WARNING  m:latest is unloaded when it was not used for a while  [unpinned]" in ended.out
    for part in ("seen (measured)", "cost", "remedy", "Not examined:", "0 errors, 1 warning, 0 notices"):
        assert part in ended.out
    assert "\x1b" not in ended.out + ended.err
    assert [line for line in ended.out.splitlines() if len(line) > 120] == []
    # What is done is said before it is done, and apart from what was found.
    assert "streaming 32 tokens from m:latest directly" in ended.err
    page = json.loads(told.out)
    assert told.code == 1
    assert [finding["code"] for finding in page["findings"]] == ["unpinned"]
    assert page["resident"][0]["name"] == "m:latest"
    assert silent.code == 0
    assert "nothing found" in silent.out


async def test_a_server_that_is_away_is_one_finding() -> None:
    ended = await doctor("--upstream", f"http://127.0.0.1:{free_port()}")
    assert ended.code == 1
    assert "ERROR  Ollama cannot be reached: the connection is refused  [unreachable]" in ended.out
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--via", "nginx"], "pilotlight: --via: 'nginx' must be http://HOST:PORT"),
        (["--header", "secret"], "pilotlight: --header: must be 'NAME: VALUE'"),
        (["--ignore", "everything"], "pilotlight: --ignore: everything is no finding's code"),
        (["--config", "nowhere.yaml"], "pilotlight: --config: cannot read nowhere.yaml"),
    ],
)
async def test_what_cannot_be_used_ends_with_2_and_its_name(flags: list[str], said: str) -> None:
    ended = await doctor(*flags)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(said)
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--header", "hunter2"],
        ["--via", "http://user:hunter2@127.0.0.1:9"],
        ["--upstream", "http://hunter2@127.0.0.1:9"],
    ],
)
async def test_a_key_in_the_wrong_place_is_not_repeated(flags: list[str]) -> None:
    ended = await doctor(*flags)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "hunter2" not in ended.err


async def test_the_settings_say_what_is_kept(tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    async with SimulatedOllama(build_profile(PROFILE)) as server:
        config.write_text(f"upstream: {{url: '{server.url}'}}\nmodels: [{{name: m}}, {{name: other}}]\n")
        ended = await doctor("--config", str(config), "--json", OLLAMA_KEEP_ALIVE="0", OLLAMA_API_KEY="hunter2")
    page = json.loads(ended.out)
    assert [finding["code"] for finding in page["findings"]] == ["not_stored", "not_resident", "keep_alive_zero"]
    assert page["environment"] == {"OLLAMA_KEEP_ALIVE": "0"}
    assert "hunter2" not in ended.out


async def test_ctrl_c_ends_it_at_once_and_quietly() -> None:
    async with SimulatedOllama(build_profile(PROFILE)) as server:
        process = await start("--upstream", server.url, "--watch", "60")
        assert process.stderr is not None
        while b"watching" not in await asyncio.wait_for(process.stderr.readline(), 20):
            assert process.returncode is None
        process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out, err) == (130, b"", b"")
