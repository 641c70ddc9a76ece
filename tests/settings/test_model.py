from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.edge.callers import Callers
from proxy.edge.hosts import Hosts
from proxy.edge.origins import Origins
from proxy.rewrite.options import RUNNER_OPTIONS
from proxy.settings import EdgeSettings, KeptModel, RelaySettings, RunnerOptions, Settings, Upstream
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


_TEXT = st.text("abz09.-_:/*[]% xX", max_size=12)


@given(_TEXT | _TEXT.map("http://{}".format) | _TEXT.map("app://{}".format))
@example("0x1f")
@example("a.-b")
@example("[::1]")
@example("[1.2.3.4]")
@example("https://[::1]:0")
@example("http://a.7")
@example("*.*")
def test_what_the_settings_let_pass_the_edge_can_use(text: str) -> None:
    def accepted(name: str) -> tuple[str, ...]:
        try:
            return tuple(getattr(EdgeSettings.model_validate({name: [text]}), name))
        except ValidationError:
            return ()

    Hosts(accepted("hosts"), ())
    Origins(accepted("origins"), any_origin=True)
    Callers(accepted("trusted_proxies"), accepted("manage_from"))


@pytest.mark.parametrize(
    "host", ["gpu", "gpu.example.org", "*.lan", "*", "10.0.0.7", "fe80::1", "a_b", "xn--bcher-kva.de"]
)
def test_names_of_hosts_are_taken(host: str) -> None:
    assert EdgeSettings(hosts=(host,)).hosts == (host,)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://a.example", "http://[::1]:3000", "chrome-extension://*", "http://10.0.0.*", "file://"],
)
def test_origins_are_taken_as_ollama_takes_them(origin: str) -> None:
    assert EdgeSettings(origins=(origin,)).origins == (origin,)
