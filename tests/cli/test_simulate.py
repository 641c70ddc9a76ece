"""`pilotlight simulate`, started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from proxy.simulator import FAULT_KINDS

COMMAND = [sys.executable, "-m", "proxy", "simulate"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_answers_and_ends_when_told(number: signal.Signals) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as simulated:
        assert simulated.stdout is not None
        told = [simulated.stdout.readline(), simulated.stdout.readline()]
        assert "simulated Ollama (not Ollama" in told[0]
        url, control = (re.search(r"http://[\d.:]+", line) for line in told)
        assert url is not None
        assert control is not None
        with urllib.request.urlopen(f"{url[0]}/api/tags", timeout=10) as answer:  # noqa: S310 - our own address
            assert "llama3.2:3b" in {model["name"] for model in json.load(answer)["models"]}
        with urllib.request.urlopen(f"{control[0]}/_sim/state", timeout=10) as answer:  # noqa: S310 - as above
            assert json.load(answer)["loads"] == 0
        simulated.send_signal(number)
        assert simulated.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "nowhere"], "--listen"),
        (["--control", "nowhere"], "--control"),
        (["--profile", "none"], "no such profile: none"),
        (["--models", "nowhere.yaml"], "--models: nowhere.yaml: No such file"),
        (["--fail", "explode"], "--fail"),
        (["--fail", "cut,after"], "--fail: after: NAME=VALUE is needed"),
    ],
)
def test_a_wrong_flag_ends_with_2_and_one_line(arguments: list[str], said: str) -> None:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert said in result.stderr


def test_a_port_that_is_taken_ends_with_1_and_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run(
            [*COMMAND, "--listen", address], capture_output=True, text=True, timeout=30, check=False
        )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"cannot listen on {address}" in result.stderr


def test_the_help_names_every_fault() -> None:
    environ = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=30, check=True, env=environ)
    assert all(re.search(rf"\b{kind}\b", result.stdout) for kind in FAULT_KINDS)
