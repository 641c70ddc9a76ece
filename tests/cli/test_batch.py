"""`pilotlight batch`, started as a user starts it."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from proxy.bench.children import Child, free_port
from proxy.bench.own.batch import BATCH, MODEL, check, command, measure, write_lines
from proxy.cli import app
from proxy.simulator import SimulatedOllama
from tests.peers import until, upstream
from tests.server.test_run_tls import certificate  # noqa: F401 - a fixture
from tests.stage import chat_end, chat_token, staged

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from tests.peers import Answering, Seen

_MAIN = "import proxy.cli; proxy.cli.main()"
_ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTLIGHT_", "OLLAMA_"))}


class Ran:
    """How it ended."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.err = err.decode()

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def started(*arguments: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "proxy", "batch", *arguments],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**_ENVIRON, **environ},
    )


async def batch(*arguments: str, lines: str = "", **environ: str) -> Ran:
    process = await started(*arguments, **environ)
    out, err = await asyncio.wait_for(process.communicate(lines.encode()), 50)
    assert process.returncode is not None
    return Ran(process.returncode, out, err)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


async def say_yes(seen: Seen, reply: Answering) -> None:
    reply.json({"response": "Yes.", "done": True, "eval_count": 2})


def _is_beyond(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size > size


@asynccontextmanager
async def stand_in(folder: Path) -> AsyncIterator[str]:
    """A server that answers at once, in a process of its own."""
    port = free_port()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    program = (sys.executable, "-m", "proxy.bench.own.batch")
    async with Child(["--answer", str(port)], folder / "standin.log", environ, program=program) as child:
        await child.wait_listening(port, 20)
        yield f"http://127.0.0.1:{port}"


async def test_every_kind_of_line_is_answered_by_a_simulated_ollama(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [
        "Why is the sky blue?",
        {"messages": [{"role": "user", "content": "hi"}], "id": "b", "meta": {"row": 7}},
        {"input": "one text", "model": "nomic-embed-text"},
        {"input": ["two", "texts"], "model": "nomic-embed-text"},
        {"prompt": "hi", "model": "nope"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n" + '"the last one"')
    out = tmp_path / "out.jsonl"
    async with SimulatedOllama("demo", speed=float("inf")) as ollama:
        options = ("--url", ollama.url, "--model", "llama3.2:3b", "--options", '{"num_predict": 3}')
        ran = await batch(str(path), "--out", str(out), *options)
    prompt, chat, text, texts, unknown, broken, last = read(out)
    assert (ran.code, ran.out) == (1, "")
    assert (prompt["line"], prompt["eval_count"], type(prompt["text"])) == (1, 3, str)
    assert (chat["id"], chat["meta"], chat["message"]["role"]) == ("b", {"row": 7}, "assistant")
    assert len(text["embedding"]) == len(texts["embeddings"][0]) == len(texts["embeddings"][1]) > 1
    assert (unknown["line"], unknown["status"], unknown["error"]) == (5, 404, "model 'nope' not found")
    assert (broken["line"], broken["status"], broken["attempts"]) == (6, None, 0)
    assert broken["error"].startswith("not JSON: ")
    assert (last["line"], "text" in last) == (7, True)
    assert "7 lines done" in ran.err
    assert "2 with an error (lines 5, 6); --retry-errors does them again" in ran.err
    assert "\x1b" not in ran.err


async def test_one_line_is_counted_as_one(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("{broken\n")
    async with upstream(say_yes) as server:
        ran = await batch(str(path), "--url", server.url, "--model", "m")
    assert "1 line done" in ran.err
    assert "1 with an error (line 1)" in ran.err


async def test_from_standard_input_to_standard_output() -> None:
    async with upstream(say_yes) as server:
        lines = "".join(f'"{number}"\n' for number in range(300))
        ran = await batch("-", "--url", server.url, "--model", "tiny", lines=lines)
    assert ran.code == 0
    assert [result["line"] for result in ran.results] == list(range(1, 301))


async def test_through_the_proxy_lines_wait_as_batch_do_and_show_the_key_from_the_environment() -> None:
    async def script(seen: Seen, reply: Answering) -> None:
        reply.head()
        reply.frames(chat_token("Yes."), chat_end())
        reply.end()

    async with staged(script) as stage:
        options = ("--url", f"http://{stage.address}", "--model", "tiny")
        ran = await batch("-", *options, lines='"hi"\n')
        assert (ran.code, ran.results[0]["text"]) == (0, "Yes.")
        waited = [stage.metric("batch_processor_wait_seconds_count", priority=name) for name in ("batch", "normal")]
        assert waited == [1, 0]
    async with upstream(say_yes) as server:
        options = ("--url", server.url, "--model", "tiny", "--header", "X-Team: a", "--priority", "normal")
        await batch("-", *options, lines='"hi"\n', PILOTLIGHT_KEY="pl_key")
    (seen,) = server.seen
    assert [seen.header(name) for name in ("X-API-Key", "X-Team", "X-Priority")] == ["pl_key", "a", "normal"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_over_tls(certificate: tuple[str, ssl.SSLContext]) -> None:  # noqa: F811 - the fixture
    name, context = certificate
    async with upstream(say_yes, context) as server:
        options = ("-", "--url", server.url, "--model", "tiny")
        trusted = await batch(*options, lines='"hi"\n"you"\n', SSL_CERT_FILE=name)
        refused = await batch(*options, lines='"hi"\n')
    assert (trusted.code, len(trusted.results)) == (0, 2)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.count("\n") == 1


async def test_interrupted_it_says_so_and_the_same_command_goes_on(tmp_path: Path) -> None:
    reached = asyncio.Event()
    is_open = False

    async def script(seen: Seen, reply: Answering) -> None:
        if seen.json["prompt"] == "Is 5 a number?" and not is_open:
            reached.set()
            await seen.left.wait()
        else:
            await say_yes(seen, reply)

    path, out = write_lines(tmp_path / "in.jsonl", 10), tmp_path / "out.jsonl"
    async with upstream(script) as server:
        options = (str(path), "--out", str(out), "--url", server.url, "--model", "tiny", "--concurrency", "1")
        for number in (signal.SIGINT, signal.SIGTERM):
            reached.clear()
            process = await started(*options)
            await asyncio.wait_for(reached.wait(), 20)
            process.send_signal(number)
            _, err = await asyncio.wait_for(process.communicate(), 20)
            assert process.returncode == 130
            assert err.decode().splitlines()[-1].startswith("pilotlight batch: interrupted; what is done is kept")
            assert [result["line"] for result in read(out)] == [1, 2, 3, 4, 5]
        is_open = True
        assert (await batch(*options)).code == 0
    check(out, 10)


async def test_ten_thousand_lines_killed_five_times_have_one_result_each(tmp_path: Path) -> None:
    lines = 10_000
    path, out = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    moments = sorted(random.sample(range(1, lines * 9 // 10), 5))
    size = len(b'{"line":1000,"digest":"0123456789abcdef","text":"Yes.","model":"standin","done_reason":"stop",') + 110
    kept = b""
    async with stand_in(tmp_path) as url:
        for moment in moments:
            process = await started(*command(BATCH, path, out, url, 16)[4:])
            await until(functools.partial(_is_beyond, out, moment * size), 30)
            assert process.returncode is None, moments
            process.kill()
            await process.communicate()
            found = out.read_bytes()
            # What was there once stays there, in its place.
            assert found.startswith(kept), moments
            kept = found[: found.rfind(b"\n") + 1]
        before = kept.count(b"\n")
        assert 0 < before < lines, moments
        ran = await batch(*command(BATCH, path, out, url, 16)[4:])
    assert ran.code == 0, ran.err
    assert f"{lines - before:,} lines done" in ran.err
    assert f"{before:,} were done before" in ran.err
    check(out, lines)
    assert [result["line"] for result in read(out)] == list(range(1, lines + 1))


async def test_memory_does_not_grow_with_the_lines_and_one_processor_does_a_thousand_a_second(tmp_path: Path) -> None:
    taken = {}
    async with stand_in(tmp_path) as url:
        for lines in (2_000, 10_000):
            path, out = write_lines(tmp_path / f"{lines}.jsonl", lines), tmp_path / f"{lines}-out.jsonl"
            arguments = command(BATCH, path, out, url, 16)
            taken[lines] = await asyncio.to_thread(measure, arguments, tmp_path / "log", None)
            check(out, lines)
    # 2 MiB were measured; ten times the results of 8,000 lines would be 18 MiB.
    assert taken[10_000].rss_kib - taken[2_000].rss_kib < 8 * 1024
    # Processor time, because other programs have theirs: a quarter of this was measured.
    assert taken[10_000].cpu_s < 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["/etc"], "/etc: Is a directory"),
        (["{in}", "--out", "{in}"], "is --out, too; the results need a file of their own"),
        (["{in}", "--out", "/nowhere/out.jsonl"], "/nowhere/out.jsonl: No such file or directory"),
        (["{in}", "--out", "/etc"], "/etc: Is a directory"),
        (["-", "--url", "localhost"], "--url: must be http://HOST"),
        (["-", "--options", "{"], "--options: not JSON"),
        (["-", "--options", "[]"], "--options: must be a JSON object"),
        (["-", "--concurrency", "0"], "--concurrency: must be 1 to 1024"),
        (["-", "--priority", "low"], "--priority: must be batch, normal, interactive"),
        (["-", "--timeout-s", "-1"], "--timeout-s: must be 0 or more"),
        (["-", "--header", "nonsense"], "--header: must be 'NAME: VALUE'"),
        (["-", "--header", "Host: a"], "--header: Host is set by each request itself"),
    ],
)
def test_what_cannot_begin_ends_with_2_and_one_line(tmp_path: Path, arguments: list[str], said: str) -> None:
    path = write_lines(tmp_path / "in.jsonl", 2)
    # Here, because thirteen programs take long to start.
    ran = CliRunner().invoke(app, ["batch", *(argument.replace("{in}", str(path)) for argument in arguments)])
    assert (ran.exit_code, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith("pilotlight batch: ")
    assert said in ran.stderr
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize(
    "arguments",
    [["--header", "hunter2"], ["--header", "hunter2 X-API-Key: a"], ["--url", "ftp://user:hunter2@127.0.0.1:9"]],
)
def test_a_key_in_the_wrong_place_is_not_repeated(arguments: list[str]) -> None:
    ran = CliRunner().invoke(app, ["batch", "-", *arguments])
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith(f"pilotlight batch: {arguments[0]}: ")
    assert "hunter2" not in ran.stderr


def test_without_permission_it_ends_with_2_and_one_line(tmp_path: Path) -> None:
    # As root nothing is forbidden; what it is made of has to be read before.
    code = "import os, sys, proxy.cli, proxy.cli.batching; os.geteuid() or os.seteuid(65534); proxy.cli.main()"
    unreadable = write_lines(tmp_path / "unreadable.jsonl", 2)
    unreadable.chmod(0)
    for arguments, name in (
        ([str(unreadable)], unreadable),
        (["/etc/passwd", "--out", "/etc/pilotlight-out.jsonl"], Path("/etc/pilotlight-out.jsonl")),
    ):
        ran = subprocess.run(
            [sys.executable, "-c", code, "batch", *arguments], capture_output=True, text=True, timeout=30, check=False
        )
        assert (ran.returncode, ran.stderr) == (2, f"pilotlight batch: {name}: Permission denied\n")


async def test_a_server_that_is_not_there_ends_with_1_and_one_line(tmp_path: Path) -> None:
    path, out = write_lines(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    url = f"http://127.0.0.1:{free_port()}"
    ran = await batch(str(path), "--out", str(out), "--url", url, "--model", "tiny")
    assert (ran.code, ran.err) == (1, f"pilotlight batch: {url}: the server cannot be reached: connection refused\n")
    assert out.read_bytes() == b""


async def test_a_model_that_is_not_there_ends_with_1_and_one_line(tmp_path: Path) -> None:
    path, out = write_lines(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    async with SimulatedOllama("demo") as ollama:
        ran = await batch(str(path), "--out", str(out), "--url", ollama.url, "--model", "nope")
    assert (ran.code, ran.err) == (1, f"pilotlight batch: {ollama.url}: model 'nope' not found\n")
    assert out.read_bytes() == b""


async def test_a_full_disk_ends_with_1_and_a_later_run_has_every_line_once(tmp_path: Path) -> None:
    path, out = write_lines(tmp_path / "in.jsonl", 200), tmp_path / "out.jsonl"
    async with upstream(say_yes) as server:
        options = [str(path), "--out", str(out), "--url", server.url, "--model", "tiny"]
        device = await batch(str(path), "--out", "/dev/full", "--url", server.url, "--model", "tiny")
        # A limit on the size of files cuts a write short as a full disk does.
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); {_MAIN}"
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", limited, "batch", *options], stderr=asyncio.subprocess.PIPE, env=_ENVIRON
        )
        _, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 1
        assert f"{out}: File too large" in err.decode()
        kept = out.read_bytes()
        assert kept == b"" or kept.endswith(b"}\n")
        again = await batch(*options)
    assert (device.code, device.err) == (1, "pilotlight batch: /dev/full: No space left on device\n")
    assert again.code == 0
    check(out, 200)


async def test_an_input_that_was_changed_ends_with_2_and_says_which_line(tmp_path: Path) -> None:
    path, out = write_lines(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    async with upstream(say_yes) as server:
        options = (str(path), "--out", str(out), "--url", server.url, "--model", "tiny")
        await batch(*options)
        path.write_text(path.read_text().replace("Is 1 ", "Is 10 "))
        ran = await batch(*options)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert f"{path}: line 2 was answered when it, or the model" in ran.err
    assert f"give another --out than {out}" in ran.err


async def test_nobody_reads_standard_output(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.jsonl", 100)
    ours, theirs = os.pipe()
    os.close(ours)
    async with upstream(say_yes) as server:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "proxy", "batch", str(path), "--url", server.url, "--model", "tiny"],
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRON,
        )
        os.close(theirs)
        _, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, err) == (1, b"pilotlight batch: standard output: nobody reads it any more\n")


async def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left(tmp_path: Path) -> None:
    path, out = write_lines(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    ours, theirs = pty.openpty()
    shown = bytearray()

    def look() -> bool:
        try:
            shown.extend(os.read(ours, 65536))
        except OSError:  # Linux says so when the other end is closed.
            return False
        return True

    async def script(seen: Seen, reply: Answering) -> None:
        # So that it takes longer than one picture.
        await asyncio.sleep(0.002)
        await say_yes(seen, reply)

    async with upstream(script) as server:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "proxy", "batch", str(path), "--out", str(out), "--url", server.url],
            *["--model", MODEL, "--concurrency", "1"],
            stderr=theirs,
            env={**_ENVIRON, "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        deadline = time.monotonic() + 30
        while await asyncio.to_thread(look):
            assert time.monotonic() < deadline
        assert await process.wait() == 0
    os.close(ours)
    text = shown.decode()
    assert re.search(r"/400\S* +[\d.,]+ lines/s, \d+ s left", text), text
    assert "\x1b[" in text
    assert "400 lines done" in text
