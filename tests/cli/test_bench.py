"""`pilotlight bench`, started as a user starts it, on simulated servers."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from proxy.bench.results import read
from proxy.cli.bench import bench
from tests.bench.workloads.scenes import staged

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.bench.results import Run

COMMAND = [sys.executable, "-m", "proxy", "bench"]
QUICK = ("--runs", "1", "--tokens", "2", "--keep-alive", "100ms", "--settle", "2", "--concurrency", "2")
NOBODY = "http://127.0.0.1:9"


@dataclass
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str


async def command(
    *arguments: str, folder: Path, interrupt_at: str = "", environ: dict[str, str] | None = None
) -> Ended:
    """Run it in a folder; with ``interrupt_at``, send it a Ctrl-C when it has said that on standard error."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **(environ or {})},
    )
    assert process.stderr is not None
    said = b""
    try:
        while interrupt_at and interrupt_at.encode() not in said:
            line = await process.stderr.readline()
            assert line, said.decode()
            said += line
        if interrupt_at:
            process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), (said + err).decode())


def results(folder: Path) -> Run:
    (file,) = folder.glob("bench-*.json")
    return read(file)


async def test_a_run_prints_its_table_and_leaves_three_files(tmp_path: Path) -> None:
    async with staged() as stage:
        ended = await command(
            *("--direct", stage.direct.url, "--via", stage.via_url, "--model", "one", *QUICK),
            *("--workload", "idle", "--workload", "warm", "--calls", "5", "--header", "X-Team: red"),
            *("--seed", "3", "--out", "out", "--admin", f"http://{stage.proxy.admin_address}"),
            folder=tmp_path,
            environ={"PILOTLIGHT_KEY": "secret"},
        )
        fields = dict(stage.direct.requests_for("/api/chat")[-1].headers)
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out + ended.err
    assert re.search(r"idle +direct +\d", ended.out)
    assert re.search(r" +proxied +\d", ended.out)
    assert re.search(r"warm +first call +[\d.]+ ms +2000 ms +pass", ended.out)
    assert "warm-up of each side is in no figure" in " ".join(ended.out.split())
    assert "pilotlight_build_info" in ended.out
    assert re.search(r"^warm: run 1 of 1, about \d+ s left$", ended.err, re.MULTILINE)
    written = ended.out.split()[-3:]
    assert [path.rpartition(".")[2] for path in written] == ["json", "csv", "html"]
    assert all((tmp_path / path).stat().st_size for path in written)
    run = results(tmp_path / "out")
    assert [workload.name for workload in run.workloads] == ["idle", "warm"]
    assert (run.settings.seed, run.settings.header_names) == (3, ("X-Team",))
    # A key is the proxy's affair, and no file's.
    assert fields["X-Team"] == "red"
    assert "X-API-Key" not in fields
    assert not any("secret" in (tmp_path / path).read_text(encoding="utf-8") for path in written)


async def test_a_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    async with staged() as stage:
        ended = await command(
            *("--direct", stage.direct.url, "--via", stage.via_url, "--model", "one", *QUICK),
            *("--workload", "idle", "--workload", "warm", "--calls", "9000", "--out", "out"),
            folder=tmp_path,
            interrupt_at="warm: run 1 of 1",
        )
    assert ended.code == 130
    assert "stopped early" in ended.err
    assert "Traceback" not in ended.err
    run = results(tmp_path / "out")
    assert run.interrupted
    assert run.workloads[0].name == "idle"
    assert run.workloads[0].ratio is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--direct: is needed"),
        (["--direct", NOBODY], "--model: is needed"),
        (["--via", "ftp://x"], "--via: 'ftp://x' must be http"),
        (["--workload", "wram"], "--workload: wram is none; there are warm, idle,"),
        (["--workload", "swap"], "--second-model: is needed for swap"),
        (["--header", "no colon"], "--header: must be 'NAME: VALUE'"),
        (["--prompt-file", "absent.txt"], "--prompt-file: absent.txt: No such file"),
        (["--prompt-file", "blank.txt"], "--prompt-file: blank.txt has no prompt"),
        (["--system-file", "bytes.txt"], "--system-file: bytes.txt: is not UTF-8"),
        (["--keep-alive", "soon"], "--keep-alive: must be a duration"),
        (["--keep-alive", "-1s"], "--keep-alive: must be a duration"),
        (["--fail-on", "rain"], "--fail-on: rain is none; there are never, errors, slower, targets"),
        (["--out", "blank.txt/out"], "--out: blank.txt/out: "),
    ],
)
def test_what_cannot_be_used_is_one_line_with_its_option(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blank.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfd")
    whole = arguments
    if arguments and arguments[0] != "--direct":
        whole = ["--direct", NOBODY, "--model", "one", *arguments]
    ended = CliRunner().invoke(bench, whole)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"pilotlight bench: {said}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["--header", "hunter2"], ["--header", "hunter2 X-API-Key: a"], ["--via", "http://user:hunter2@127.0.0.1:9"]],
)
def test_a_key_in_the_wrong_place_is_not_repeated(arguments: list[str]) -> None:
    ended = CliRunner().invoke(bench, ["--direct", NOBODY, "--model", "one", *arguments])
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith(f"pilotlight bench: {arguments[0]}: ")
    assert "hunter2" not in ended.stderr


def test_a_server_that_is_not_there_is_one_line_and_no_fault_of_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(bench, ["--direct", NOBODY, "--model", "one"])
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == f"pilotlight bench: --direct {NOBODY}: cannot connect: Connection refused\n"


class OneModel(http.server.BaseHTTPRequestHandler):
    """As much of Ollama as is looked at before anything is measured."""

    def do_GET(self) -> None:
        self._answer(
            200, {"version": "0.24.0"} if self.path == "/api/version" else {"models": [{"name": "one:latest"}]}
        )

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(404, {"error": "model 'nope' not found"})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_an_unknown_model_is_one_line_with_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneModel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        ended = CliRunner().invoke(bench, ["--direct", url, "--model", "nope"])
        server.shutdown()
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr == f"pilotlight bench: --direct {url} has no model nope; it has: one:latest\n"
