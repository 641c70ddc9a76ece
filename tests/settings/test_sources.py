from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ConfigError
from proxy.settings import Settings, fallback_keys, load

if TYPE_CHECKING:
    from pathlib import Path

HASH = "sha256:" + "0" * 64


def from_yaml(folder: Path, text: str, environ: dict[str, str] | None = None, **flags: Any) -> Settings:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {}, flags)


def test_without_any_source_the_defaults_hold() -> None:
    settings = load(None, {}, {})
    assert settings == Settings()
    assert settings.listen == "127.0.0.1:11435"
    assert settings.upstream.url == "http://127.0.0.1:11434"
    assert settings.defaults.keep_alive is None
    assert (settings.scheduler.parallel, settings.scheduler.max_loaded_models) == (1, 0)


def test_each_source_wins_over_the_one_before_it_name_by_name(tmp_path: Path) -> None:
    file = "relay: {idle_timeout_s: 1, write_stall_s: 1}\nlisten: 127.0.0.1:1\nadmin: 127.0.0.1:5\n"
    environ = {"PILOTLIGHT_RELAY__IDLE_TIMEOUT_S": "2", "PILOTLIGHT_LISTEN": "127.0.0.1:2"}
    settings = from_yaml(tmp_path, file, environ, listen="127.0.0.1:3")
    assert settings.relay.write_stall_s == 1
    assert settings.relay.idle_timeout_s == 2
    assert settings.listen == "127.0.0.1:3"
    assert settings.admin == "127.0.0.1:5"


def test_groups_without_values_and_an_empty_file_change_nothing(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "") == Settings()
    assert from_yaml(tmp_path, "relay:\nresidency:\n  # check_every_s: 5\n") == Settings()


def test_the_file_of_the_design_is_understood(tmp_path: Path) -> None:
    settings = from_yaml(
        tmp_path,
        """
models:
  - name: llama3.2:3b
    keep_alive: -1
    options: {num_gpu: 99, num_ctx: 4096}
    max_num_ctx: 16384
    long_prompts: tell
    warm: [{system: "You are a helpful assistant. Be brief."}]
  - name: embedder
    keep_alive: 10m
keys: [{name: laptop, hash: "sha256:HASH", class: batch, expires: 2027-01-31}]
edge:
  max_body: 64MiB
  hosts: [gpu.Example., "*.lan", "[::1]"]
  origins: [https://App.example, "app://*"]
  trusted_proxies: [10.0.0.0/8, 192.168.0.1]
  manage_from: []
  allow_anonymous: true
log: {format: json, level: debug}
""".replace("HASH", "Ab" * 32),
    )
    first, second = settings.models
    assert first.options == {"num_gpu": 99, "num_ctx": 4096}
    assert first.keep_alive == -1
    assert first.warm[0].system.startswith("You are")
    assert second.keep_alive == "10m"
    assert settings.edge.max_body_bytes == 64 * 2**20
    (key,) = settings.keys
    assert (key.name, key.hash, key.class_) == ("laptop", "sha256:" + "ab" * 32, "batch")
    assert (key.scopes, key.models, key.rate_per_s) == (("infer", "read"), ("*",), None)
    assert key.expires_unix == 1_801_353_600
    assert settings.edge.hosts == ("gpu.example", "*.lan", "::1")
    assert settings.edge.origins == ("https://app.example", "app://*")
    assert settings.edge.trusted_proxies == ("10.0.0.0/8", "192.168.0.1/32")
    assert (settings.edge.manage_from, settings.edge.allow_anonymous) == ((), True)


# --- files that cannot be used


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: cannot read .*nowhere\.yaml: No such file"):
        load(tmp_path / "nowhere.yaml", {}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relay: {idle_timeout_s: 1", "is not valid YAML: .*line 1"),
        ("- listen", "must hold names and values"),
        ("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2", "'listen' stands twice"),
        ("relay: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("? [a, b]\n: 1", "is not valid YAML"),
        (f"models: {'[' * 3000}", "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_yaml(tmp_path, text)
    assert caught.value.field == "--config"
    assert "\n" not in str(caught.value)


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"listen: \xe9\xe8")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(path, {}, {})


# --- names and values that cannot be used


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("residency: {chek_every_s: 5}", "residency.chek_every_s", "did you mean residency.check_every_s"),
        ("check_every_s: 5", "check_every_s", "did you mean residency.check_every_s"),
        ("models: [{name: a, optoins: {}}]", "models.0.optoins", "did you mean models.0.options"),
        ("models: [{name: a, options: {num_cxt: 1}}]", "models.0.options.num_cxt", "models.0.options.num_ctx"),
        ("models: [{name: a, options: {temperature: 0}}]", "models.0.options.temperature", "unknown setting"),
        ("models: [{keep_alive: 1}]", "models.0.name", "is missing"),
        ("models: [{name: ''}]", "models.0.name", "must be the name of a model"),
        ("models: [{name: a b}]", "models.0.name", "must be the name of a model"),
        ("models: &m [*m]", "models.0", "holds itself"),
        ("listen: 2026-13-45", "listen", "must be HOST:PORT"),
        ('upstream: {url: "http://a b"}', "upstream.url", "without spaces"),
        ('upstream: {url: "http://a\\tb"}', "upstream.url", "without spaces"),
        ("models: [llama]", "models.0", "must be a group of names and values"),
        ("models: llama", "models", "must be a list"),
        ("models: [{name: a, keep_alive: soon}]", "models.0.keep_alive", "duration"),
        ("models: [{name: a, keep_alive: true}]", "models.0.keep_alive", "true "),
        ("models: [{name: a, options: {num_ctx: big}}]", "models.0.options.num_ctx", "valid integer"),
        ("models: [{name: a, options: {num_ctx: true}}]", "models.0.options.num_ctx", "must be a number"),
        ("models: [{name: a, long_prompts: drop}]", "models.0.long_prompts", "'cut'"),
        ("listen: 11435", "listen", "11435 must be HOST:PORT"),
        ("listen: ':11435'", "listen", "must be HOST:PORT"),
        ("listen:", "listen", "must be HOST:PORT"),
        ("upstream: {url: 127.0.0.1:11434}", "upstream.url", "must be http://HOST:PORT"),
        ("upstream: {url: 'http://host/ollama'}", "upstream.url", "must have no user, path or query"),
        ("upstream: {url: 'http://host:99999'}", "upstream.url", "port"),
        ("upstream: {connect_timeout_s: 0}", "upstream.connect_timeout_s", "greater than 0"),
        ("upstream: {connect_timeout_s: yes}", "upstream.connect_timeout_s", "must be a number"),
        ("relay: {idle_timeout_s: .inf}", "relay.idle_timeout_s", "finite"),
        ("relay: {idle_timeout_s: -1}", "relay.idle_timeout_s", "greater than or equal to 0"),
        ("relay: 5", "relay", "must be a group of names and values"),
        ("edge: {max_body: much}", "edge.max_body", "is not a size"),
        ("edge: {max_body: 0}", "edge.max_body", "greater than or equal to"),
        ("log: {level: loud}", "log.level", "'debug'"),
        ("edge: {manage_from: [10.0.0.1/8]}", "edge.manage_from.0", "bits set beyond its length"),
        ("edge: {trusted_proxies: [nginx]}", "edge.trusted_proxies.0", "must be an address or a network"),
        ("edge: {hosts: ['gpu:80']}", "edge.hosts.0", "without a port"),
        ("edge: {hosts: ['http://gpu']}", "edge.hosts.0", "must be a host name"),
        ("edge: {hosts: [a.1]}", "edge.hosts.0", "must be a host name"),
        ("edge: {origins: [app.example]}", "edge.origins.0", "must be SCHEME://HOST"),
        ("edge: {origins: ['https://a/b']}", "edge.origins.0", "without a path"),
        ("edge: {origins: ['https://a:99999']}", "edge.origins.0", "must be SCHEME://HOST"),
        ("keys: [{hash: x}]", "keys.0.name", "is missing"),
        ("keys: [{name: a, hash: x, scopes: [infer, admin]}]", "keys.0.hash", "must be sha256:"),
        (f"keys: [{{name: a, hash: {HASH}, scopes: [infer, admin]}}]", "keys.0.scopes.1", "'infer', 'read' or"),
        (f"keys: [{{name: a, hash: {HASH}, scopes: []}}]", "keys.0.scopes", "at least one"),
        (f"keys: [{{name: a, hash: {HASH}, clas: batch}}]", "keys.0.clas", "did you mean keys.0.class"),
        (f"keys: [{{name: a, hash: {HASH}, class: urgent}}]", "keys.0.class", "'interactive', 'normal' or"),
        (f"keys: [{{name: a, hash: {HASH}, expires: soon}}]", "keys.0.expires", '"soon" must be a date'),
        (f"keys: [{{name: a, hash: {HASH}, models: ['a b']}}]", "keys.0.models.0", "or a pattern"),
        (f"keys: [{{name: a, hash: {HASH}, rate_per_s: -1}}]", "keys.0.rate_per_s", "greater than or equal to 0"),
    ],
)
def test_the_field_that_cannot_be_used_is_named(tmp_path: Path, text: str, field: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        from_yaml(tmp_path, text)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "keys: pl_secret",
        "keys: {pl_name: pl_secret}",
        "keys: [pl_secret]",
        "keys: [{name: a, hash: pl_secret}]",
        "keys: [{name: 'pl_secret secret'}]",
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_yaml(tmp_path, text)
    assert caught.value.field.startswith("keys")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "edge: {host: []}",
        f"keys: [{{name: a, hash: {HASH}, class_: batch}}]",
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="unknown setting"):
        from_yaml(tmp_path, text)


def test_the_source_of_a_bad_value_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"relay\.idle_timeout_s: .*in the environment, PILOTLIGHT_RELAY__IDLE"):
        load(None, {"PILOTLIGHT_RELAY__IDLE_TIMEOUT_S": "soon"}, {})
    with pytest.raises(ConfigError, match=r"in .*settings\.yaml"):
        from_yaml(tmp_path, "relay: {idle_timeout_s: -1}")
    with pytest.raises(ConfigError, match=r"\(flag\)"):
        load(None, {}, {"listen": "x"})


# --- the environment


def test_groups_lists_and_members_can_come_from_the_environment() -> None:
    settings = load(
        None,
        {
            "PILOTLIGHT_MODELS": '[{"name": "llama3.2:3b", "keep_alive": "10m"}]',
            "PILOTLIGHT_RESIDENCY": "{check_every_s: 1, warmup: false}",
            "PILOTLIGHT_RESIDENCY__CHECK_EVERY_S": "2",
            "PILOTLIGHT_DEFAULTS__KEEP_ALIVE": "-1",
            "PILOTLIGHT_DEFAULTS__OPTIONS__NUM_CTX": "8192",
            "PILOTLIGHT_REWRITE__OWN_CONTEXT": "false",
            "PILOTLIGHT_EDGE__MAX_BODY": "1MiB",
            "PILOTLIGHT_LOG__LEVEL": "",
        },
        {},
    )
    assert settings.models[0].keep_alive == "10m"
    assert (settings.residency.check_every_s, settings.residency.warmup) == (2, False)
    assert settings.defaults.keep_alive == -1
    assert settings.defaults.options == {"num_ctx": 8192}
    assert settings.rewrite.own_context is False
    assert settings.edge.max_body_bytes == 2**20
    assert settings.log.level == "info"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("PILOTLIGHT_RESIDENCY__CHEK_EVERY_S", "did you mean PILOTLIGHT_RESIDENCY__CHECK_EVERY_S"),
        ("PILOTLIGHT_RESIDENCY_CHECK_EVERY_S", "did you mean PILOTLIGHT_RESIDENCY__CHECK_EVERY_S"),
        ("PILOTLIGHT_UPSTREM", "did you mean PILOTLIGHT_UPSTREAM"),
        ("PILOTLIGHT_BACKEND", "unknown setting"),
        ("PILOTLIGHT_KEYS__0__HASH", "give PILOTLIGHT_KEYS whole"),
        ("PILOTLIGHT_MODELS__0__NAME", "give PILOTLIGHT_MODELS whole"),
        ("PILOTLIGHT_", "unknown setting"),
        ("PILOTLIGHT_RELAY__", "unknown setting"),
    ],
)
def test_an_unknown_variable_with_our_prefix_is_refused_even_when_empty(variable: str, message: str) -> None:
    for value in ("1", ""):
        with pytest.raises(ConfigError, match=message) as caught:
            load(None, {variable: value}, {})
        assert caught.value.field == variable


def test_what_kubernetes_puts_in_by_itself_is_passed_over() -> None:
    environ = {
        "PILOTLIGHT_PORT": "tcp://10.0.0.1:11435",
        "PILOTLIGHT_PORT_11435_TCP_ADDR": "10.0.0.1",
        "PILOTLIGHT_SERVICE_HOST": "10.0.0.1",
        "PILOTLIGHT_SERVICE_PORT_HTTP": "11435",
    }
    assert load(None, environ, {}) == Settings()


def test_the_key_that_our_own_clients_show_is_no_setting() -> None:
    assert load(None, {"PILOTLIGHT_KEY": "pl_key"}, {}) == Settings()


@pytest.mark.parametrize("url", ["http://user:hunter2@host:1", "ftp://hunter2@host", "http://a/b:hunter2@host"])
def test_a_password_in_a_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {"PILOTLIGHT_UPSTREAM__URL": url}, {})
    assert caught.value.field == "upstream.url"
    assert "hunter2" not in str(caught.value)
    assert "host" in str(caught.value) or "/b" in str(caught.value)


FALLBACK = "[{url: 'https://api.example/v1', kind: openai, models: {a: b}, key_env: PROVIDER_KEY}]"


def test_the_keys_of_fallbacks_are_read_by_the_names_that_the_settings_have_for_them() -> None:
    environ = {"PILOTLIGHT_FALLBACK": FALLBACK, "PROVIDER_KEY": " sk-Secret\n", "OTHER_KEY": "x"}
    settings = load(None, environ, {})
    assert fallback_keys(settings, environ) == {"PROVIDER_KEY": "sk-Secret"}
    # Nothing that is printed, compared or logged of the settings has it.
    assert "sk-Secret" not in f"{settings!r}{settings.model_dump()}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "PROVIDER_KEY is not set in the environment"),
        ("  ", "PROVIDER_KEY is not set in the environment"),
        ("sk Secret", "PROVIDER_KEY must hold printable ASCII"),
        ("sk-\u00fcSecret", "PROVIDER_KEY must hold printable ASCII"),
        ("sk\r\nSecret: x", "PROVIDER_KEY must hold printable ASCII"),
    ],
)
def test_a_key_that_is_not_there_or_is_none_names_the_field_and_the_variable(value: str | None, message: str) -> None:
    environ = {"PILOTLIGHT_FALLBACK": FALLBACK} | ({} if value is None else {"PROVIDER_KEY": value})
    with pytest.raises(ConfigError, match=message) as caught:
        load(None, environ, {})
    assert caught.value.field == "fallback.0.key_env"
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["sk-secret", "sk_secret", "PILOTLIGHT_secret", "1_secret"])
def test_a_fallbacks_key_in_the_place_of_its_name_is_not_repeated(name: str) -> None:
    text = FALLBACK.replace("PROVIDER_KEY", name)
    with pytest.raises(ConfigError, match=r"fallback\.0\.key_env") as caught:
        load(None, {"PILOTLIGHT_FALLBACK": text}, {})
    assert "secret" not in str(caught.value)


def test_an_unreadable_list_names_its_variable() -> None:
    with pytest.raises(ConfigError, match="PILOTLIGHT_MODELS: is neither JSON nor YAML"):
        load(None, {"PILOTLIGHT_MODELS": "[{"}, {})


def test_the_variable_that_clients_set_to_the_proxy_is_not_read() -> None:
    assert load(None, {"OLLAMA_HOST": "127.0.0.1:11435"}, {}).upstream.url == "http://127.0.0.1:11434"


@pytest.mark.parametrize(
    ("text", "keep_alive"),
    [("10m", "10m"), ("'1h'", "1h"), (" -1 ", -1), ("300", 300), ("0", "0"), ("soon", None), ("", None)],
)
def test_ollamas_keep_alive_is_the_default_as_ollama_reads_it(text: str, keep_alive: object) -> None:
    assert load(None, {"OLLAMA_KEEP_ALIVE": text}, {}).defaults.keep_alive == keep_alive


def test_a_configured_keep_alive_wins_over_ollamas(tmp_path: Path) -> None:
    environ = {"OLLAMA_KEEP_ALIVE": "10m"}
    assert from_yaml(tmp_path, "defaults: {keep_alive: 1h}", environ).defaults.keep_alive == "1h"
    assert from_yaml(tmp_path, "defaults: {keep_alive: null}", environ).defaults.keep_alive == "10m"


@pytest.mark.parametrize(("text", "slots"), [("4", 4), ('"4"', 4), ("0", 1), ("many", 1), ("-2", 1), ("", 1)])
def test_slots_are_read_as_ollama_reads_them(text: str, slots: int) -> None:
    assert load(None, {"OLLAMA_NUM_PARALLEL": text}, {}).scheduler.parallel == slots


@pytest.mark.parametrize(("text", "models"), [("2", 2), ("0", 0), ("auto", 0), ("", 0)])
def test_models_at_a_time_are_read_as_ollama_reads_them(text: str, models: int) -> None:
    assert load(None, {"OLLAMA_MAX_LOADED_MODELS": text}, {}).scheduler.max_loaded_models == models


def test_configured_places_win_over_ollamas(tmp_path: Path) -> None:
    environ = {"OLLAMA_NUM_PARALLEL": "4", "OLLAMA_MAX_LOADED_MODELS": "3"}
    scheduler = from_yaml(tmp_path, "scheduler: {parallel: 2}", environ).scheduler
    assert (scheduler.parallel, scheduler.max_loaded_models) == (2, 3)


# --- flags


def test_a_model_flag_adds_to_the_listed_models_once(tmp_path: Path) -> None:
    settings = from_yaml(
        tmp_path,
        "models: [{name: 'llama3.2:latest', keep_alive: 10m}]",
        models=[{"name": "llama3.2"}, {"name": "qwen3"}, {"name": "QWEN3"}],
    )
    assert [(model.name, model.keep_alive) for model in settings.models] == [("llama3.2:latest", "10m"), ("qwen3", -1)]


# --- anything at all


_NAMES = ["listen", "models", "name", "options", "num_ctx", "relay", "upstream", "url", "warm", "keep_alive", "system"]
_GROUP = st.sampled_from(_NAMES) | st.text(max_size=8)
_TREE = st.dictionaries(
    _GROUP,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_GROUP, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(_TREE)
def test_any_file_gives_settings_or_a_named_error_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    error: ConfigError | None = None
    try:
        from_yaml(folder, yaml.safe_dump(tree, allow_unicode=True))
    except ConfigError as caught:
        error = caught
    assert error is None or (error.field and "\n" not in str(error))
