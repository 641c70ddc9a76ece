"""`pilotlight check`, started as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path


def pilotlight(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PILOTLIGHT_", "OLLAMA_"))}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        env={**environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_what_is_printed_is_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    text = "models: [{name: a, options: {num_ctx: 4096}, warm: [{system: 'brïef: yes'}]}]\nlog: {level: error}\n"
    path.write_text(text, encoding="utf-8")
    first = pilotlight("check", "--config", str(path), "--model", "b", PILOTLIGHT_LISTEN="127.0.0.1:1")
    assert (first.returncode, first.stderr) == (0, "")
    printed = tmp_path / "printed.yaml"
    printed.write_text(first.stdout, encoding="utf-8")
    settings = load(printed, {}, {})
    assert [model.name for model in settings.models] == ["a", "b"]
    assert settings.listen == "127.0.0.1:1"
    assert pilotlight("check", "--config", str(printed)).stdout == first.stdout


def test_the_defaults_are_printed_whole() -> None:
    result = pilotlight("check")
    assert result.returncode == 0
    assert yaml.safe_load(result.stdout).keys() == Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--config", "nowhere.yaml"], {}, "--config: cannot read nowhere.yaml"),
        (["--listen", "11435"], {}, "listen: "),
        (["--upstream", "http://127.0.0.1:11435"], {}, "upstream.url: http://127.0.0.1:11435 is the proxy itself"),
        ([], {"PILOTLIGHT_LOG__LEVEL": "loud"}, "log.level: "),
        (
            [],
            {"PILOTLIGHT_LOG__LEVLE": "info"},
            "PILOTLIGHT_LOG__LEVLE: unknown setting; did you mean PILOTLIGHT",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_ends_with_2_and_one_line_that_names_it(
    arguments: list[str], variables: dict[str, str], said: str
) -> None:
    for command in ("check", "serve"):
        result = pilotlight(command, *arguments, **variables)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith(f"pilotlight: {said}")
        assert result.stderr.count("\n") == 1


def test_warnings_do_not_spoil_the_printed_settings() -> None:
    result = pilotlight("check", PILOTLIGHT_MODELS='[{"name": "a", "warm": [{"system": "x"}, {"system": "y"}]}]')
    assert result.returncode == 0
    assert result.stderr.startswith("warning: models.0 (a): 2 warm entries")
    assert yaml.safe_load(result.stdout)["models"][0]["name"] == "a"


def test_check_needs_no_web_server() -> None:
    code = "import sys, proxy.cli; assert not {'aiohttp', 'uvloop', 'prometheus_client'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert result.stderr == ""


def test_the_version_is_told() -> None:
    result = pilotlight("--version")
    assert (result.returncode, result.stdout) == (0, "pilotlight 0.1.0\n")


def test_an_unknown_flag_ends_with_2() -> None:
    assert pilotlight("check", "--lisen", "x").returncode == 2


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_fallbacks_key_that_is_not_in_the_environment_ends_the_program(command: str) -> None:
    fallback = '[{"url": "https://api.example/v1", "kind": "openai", "models": {"a": "b"}, "key_env": "PROVIDER_KEY"}]'
    result = pilotlight(command, PILOTLIGHT_FALLBACK=fallback, PROVIDER_KEY="")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "pilotlight: fallback.0.key_env: PROVIDER_KEY is not set in the environment\n"
    if command == "check":
        result = pilotlight(command, PILOTLIGHT_FALLBACK=fallback, PROVIDER_KEY="sk-Secret")
        assert (result.returncode, result.stderr) == (0, "")
        assert "PROVIDER_KEY" in result.stdout
        assert "sk-Secret" not in result.stdout
