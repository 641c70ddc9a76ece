from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import ConfigError
from proxy.settings import Settings, load, warnings


def warned(environ: dict[str, str] | None = None, **flags: Any) -> list[str]:
    return list(warnings(load(None, environ or {}, flags)))


def models(*given: dict[str, Any]) -> dict[str, Any]:
    return {"PILOTLIGHT_MODELS": str(list(given)).replace("None", "null")}


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"listen": "127.0.0.1:9000", "admin": "127.0.0.1:9000"}, "admin"),
        ({"listen": "0.0.0.0:9000", "admin": "localhost:9000"}, "admin"),
        ({"upstream": {"url": "http://127.0.0.1:11435"}}, "upstream.url"),
        ({"upstream": {"url": "http://localhost:11435/"}}, "upstream.url"),
        ({"upstream": {"url": "http://0.0.0.0:11435"}}, "upstream.url"),
        ({"upstream": {"url": "http://127.0.0.1:11436"}}, "upstream.url"),
        ({"listen": "0.0.0.0:11434"}, "upstream.url"),
        ({"listen": "[::]:11434"}, "upstream.url"),
        ({"listen": "ollama:80", "upstream": {"url": "http://OLLAMA"}}, "upstream.url"),
    ],
)
def test_addresses_that_collide_are_refused(flags: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=r"same place|is the proxy itself") as caught:
        load(None, {}, flags)
    assert caught.value.field == field


def test_a_neighbour_on_the_same_port_is_not_the_proxy() -> None:
    load(None, {}, {"listen": "0.0.0.0:11434", "upstream": {"url": "http://ollama:11434"}})
    load(None, {}, {"upstream": {"url": "http://10.0.0.2:11435"}})


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([{"name": "llama3.2"}, {"name": "qwen3"}, {"name": "Llama3.2:latest"}], "models.2.name"),
        ([{"name": "a", "keep_alive": 0}], "models.0.keep_alive"),
        ([{"name": "a", "keep_alive": "0s"}], "models.0.keep_alive"),
        ([{"name": "a", "options": {"num_ctx": 8192}, "max_num_ctx": 4096}], "models.0.max_num_ctx"),
        ([{"name": "a", "warm": [{"system": ""}]}], "models.0.warm.0"),
    ],
)
def test_kept_models_that_contradict_themselves_are_refused(given: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, models(*given), {})
    assert caught.value.field == field


def test_growing_for_long_prompts_needs_options_that_can_change() -> None:
    environ = models({"name": "a", "long_prompts": "grow"})
    assert load(None, environ, {}).models[0].long_prompts == "grow"
    with pytest.raises(ConfigError, match=r"models\.0\.long_prompts"):
        load(None, {**environ, "PILOTLIGHT_REWRITE__CLIENT_OPTIONS": "enforce"}, {})


def test_the_defaults_warn_of_nothing() -> None:
    assert list(warnings(Settings())) == []
    assert warned(models=[{"name": "llama3.2"}]) == []


def test_more_warm_entries_than_slots_are_worth_a_warning() -> None:
    environ = models({"name": "a", "warm": [{"system": "one"}, {"system": "two"}]})
    (line,) = warned(environ)
    assert "2 warm entries, but 1 slot" in line
    assert warned({**environ, "OLLAMA_NUM_PARALLEL": "2"}) == []


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        (models({"name": "a", "keep_alive": "1s"}), "shorter than residency.check_every_s"),
        (models({"name": "gpt-oss:20b-cloud"}), "nothing to keep resident"),
        ({**models({"name": "a", "warm": [{"system": "x"}]}), "PILOTLIGHT_RESIDENCY__WARMUP": "false"}, "are not read"),
        ({"PILOTLIGHT_LISTEN": "0.0.0.0:11435"}, "listen: 0.0.0.0:11435 can be reached from other machines"),
        ({"PILOTLIGHT_ADMIN": "10.0.0.1:11436"}, "admin: 10.0.0.1:11436 can be reached from other machines"),
    ],
)
def test_what_is_probably_not_meant_is_warned_of(environ: dict[str, str], text: str) -> None:
    (line,) = warned(environ)
    assert text in line
