from __future__ import annotations

import pytest
from pydantic import ValidationError

from proxy.rewrite.options import RUNNER_OPTIONS
from proxy.settings import KeptModel, RelaySettings, RunnerOptions, Settings, Upstream
from proxy.settings.rules import upstream_address


def test_settings_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().listen = "127.0.0.1:1"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Settings().relay.idle_timeout_s = 1  # type: ignore[misc]


def test_a_name_that_does_not_exist_is_refused_in_code_too() -> None:
    with pytest.raises(ValidationError, match="extra"):
        RelaySettings(retries=3)  # type: ignore[call-arg]


def test_the_runner_options_are_those_that_make_ollama_reload() -> None:
    assert set(RunnerOptions.__annotations__) == set(RUNNER_OPTIONS)


def test_values_that_go_to_ollama_keep_their_json_type() -> None:
    assert [KeptModel(name="a", keep_alive=value).keep_alive for value in (-1, 1.5, "10m")] == [-1, 1.5, "10m"]
    assert type(KeptModel(name="a", keep_alive=5).keep_alive) is int


@pytest.mark.parametrize(
    ("url", "kept", "address"),
    [
        ("http://ollama:11434/", "http://ollama:11434", ("ollama", 11434)),
        ("https://gpu.example", "https://gpu.example", ("gpu.example", 443)),
        ("http://[::1]:1", "http://[::1]:1", ("::1", 1)),
        ("http://ollama", "http://ollama", ("ollama", 80)),
        ("http://ollama:", "http://ollama", ("ollama", 80)),
    ],
)
def test_an_upstream_is_an_origin_without_a_path(url: str, kept: str, address: tuple[str, int]) -> None:
    assert Upstream(url=url).url == kept
    assert upstream_address(kept) == address


def test_slots_are_told_and_not_set() -> None:
    settings = Settings()
    assert settings.with_num_parallel(4).ollama_num_parallel == 4
    assert settings.ollama_num_parallel == 1
    assert "parallel" not in settings.model_dump_json()
