from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.errors import ConfigError
from proxy.settings import Settings, load, warnings

ANONYMOUS = {"PILOTLIGHT_EDGE__ALLOW_ANONYMOUS": "true"}
KEYS = [{"name": "a", "hash": "sha256:" + "0" * 64}, {"name": "b", "hash": "sha256:" + "1" * 64}]


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
    everywhere = {"listen": "0.0.0.0:11434", "edge": {"allow_anonymous": True}}
    load(None, {}, {**everywhere, "upstream": {"url": "http://ollama:11434"}})
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


@pytest.mark.parametrize("name", ["listen", "admin"])
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "gpu.example"])
def test_listening_for_other_machines_without_keys_has_to_be_said_in_so_many_words(name: str, host: str) -> None:
    given = {name: f"{host}:1"}
    with pytest.raises(ConfigError, match=r"pilotlight key new NAME.*edge\.allow_anonymous: true") as caught:
        load(None, {}, given)
    assert caught.value.field == name
    load(None, ANONYMOUS, given)
    load(None, {}, {**given, "keys": KEYS})


def test_keys_on_other_addresses_are_no_reason_to_warn() -> None:
    assert warned(listen="0.0.0.0:1", keys=KEYS) == []


@pytest.mark.parametrize("change", [{"name": "a"}, {"hash": "SHA256:" + "0" * 64}])
def test_a_key_that_is_listed_twice_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"keys\.0") as caught:
        load(None, {}, {"keys": [KEYS[0], KEYS[1] | change]})
    assert caught.value.field == f"keys.1.{next(iter(change))}"
    assert "000" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "anonymous", "remedy"),
    [([], False, "add keys"), ([], True, "add keys"), (KEYS, True, "allow_anonymous: false")],
)
def test_every_page_may_call_only_where_everyone_needs_a_key(
    keys: list[dict[str, Any]], anonymous: bool, remedy: str
) -> None:
    given = {"keys": keys, "edge": {"origins": ["https://a", "*"], "allow_anonymous": anonymous}}
    with pytest.raises(ConfigError, match=remedy) as caught:
        load(None, {}, given)
    assert caught.value.field == "edge.origins.1"
    load(None, {}, {"keys": KEYS, "edge": {"origins": ["*"]}})


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
        ({**ANONYMOUS, "PILOTLIGHT_LISTEN": "0.0.0.0:11435"}, "listen: 0.0.0.0:11435 can be reached from other"),
        ({**ANONYMOUS, "PILOTLIGHT_ADMIN": "10.0.0.1:11436"}, "admin: 10.0.0.1:11436 can be reached from other"),
    ],
)
def test_what_is_probably_not_meant_is_warned_of(environ: dict[str, str], text: str) -> None:
    (line,) = warned(environ)
    assert text in line


def fallback(**given: Any) -> dict[str, str]:
    entry = {"url": "https://api.example/v1", "kind": "openai", "models": {"a": "b"}, **given}
    return {"PILOTLIGHT_FALLBACK": json.dumps([entry]), "PROVIDER_KEY": "key"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"models": {}}, "models"),
        ({"client_credentials": True}, "client_credentials"),
        ({"url": "http://api.example/v1", "key_env": "PROVIDER_KEY"}, "url"),
        ({"url": "https://api.example/v1?key=x"}, "url"),
        ({"url": "https://user@api.example/v1"}, "url"),
        ({"kind": "ollama"}, "url"),
        (
            {"kind": "ollama", "url": "http://a", "client_credentials": True, "key_env": "PROVIDER_KEY"},
            "client_credentials",
        ),
        ({"kind": "anthropic"}, "kind"),
        ({"key_env": "PILOTLIGHT_PROVIDER_KEY"}, "key_env"),
    ],
)
def test_fallbacks_that_contradict_themselves_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, fallback(**given), {})
    assert caught.value.field == f"fallback.0.{field}"


@pytest.mark.parametrize(
    ("given", "origin", "base_path"),
    [
        ({}, "https://api.example", "/v1"),
        ({"url": "https://api.example:8443/openai/v1/"}, "https://api.example:8443", "/openai/v1"),
        ({"url": "https://api.example"}, "https://api.example", "/v1"),
        ({"url": "http://127.0.0.1:8000", "key_env": "PROVIDER_KEY"}, "http://127.0.0.1:8000", "/v1"),
        ({"url": "http://api.example/v1"}, "http://api.example", "/v1"),
        ({"url": "http://other:11434/", "kind": "ollama", "models": {}}, "http://other:11434", ""),
    ],
)
def test_a_fallback_has_an_origin_and_a_place_where_its_api_starts(
    given: dict[str, Any], origin: str, base_path: str
) -> None:
    (other,) = load(None, fallback(**given), {}).fallback
    assert (other.origin, other.base_path) == (origin, base_path)
