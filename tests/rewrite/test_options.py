from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.options import (
    RUNNER_OPTIONS,
    SERVER_DEFAULTS,
    Unified,
    grown_num_ctx,
    header_value,
    neutral,
    runner_options,
    unify,
)

NUM_CTX = st.integers(1, 200_000)
RUNNER_SETS = st.fixed_dictionaries(
    {},
    optional={
        "num_ctx": NUM_CTX,
        "num_batch": st.integers(1, 2048),
        "num_gpu": st.integers(-1, 99),
        "main_gpu": st.integers(0, 3),
        "use_mmap": st.booleans(),
        "num_thread": st.integers(0, 64),
    },
)
SAMPLING = st.fixed_dictionaries(
    {}, optional={"temperature": st.floats(0, 2), "stop": st.lists(st.text(), max_size=2), "warp": st.none()}
)
ASKED = st.builds(lambda runner, sampling: {**sampling, **runner}, RUNNER_SETS, SAMPLING)
MAX_NUM_CTX = st.none() | NUM_CTX
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ILL_TYPED = (
    ("num_ctx", "big"),
    ("num_ctx", True),
    ("num_ctx", [4096]),
    ("num_thread", {}),
    ("use_mmap", 1),
    ("use_mmap", "yes"),
    ("temperature", "hot"),
    ("stop", "x"),
    ("stop", [1]),
)


def applied(asked: dict[str, Any], unified: Unified) -> dict[str, Any]:
    """The options that Ollama gets."""
    return {name: value for name, value in {**asked, **unified.set}.items() if name not in unified.remove}


def sent_runner_options(asked: dict[str, Any], unified: Unified) -> dict[str, Any]:
    return {name: value for name, value in applied(asked, unified).items() if name in RUNNER_OPTIONS}


# --- merge ---


def test_configured_options_are_put_into_a_request_without_options() -> None:
    unified = unify({}, {"num_ctx": 4096, "num_gpu": 99}, {"num_ctx": 4096, "num_gpu": 99})
    assert unified.set == {"num_ctx": 4096, "num_gpu": 99}
    assert not unified.overridden


def test_a_client_that_asks_for_less_context_gets_the_current_one_and_is_told() -> None:
    unified = unify({"num_ctx": 2048}, {"num_ctx": 4096}, {"num_ctx": 4096})
    assert sent_runner_options({"num_ctx": 2048}, unified) == {"num_ctx": 4096}
    assert unified.overridden == (("num_ctx", 2048, 4096),)
    assert unified.avoided == ("num_ctx",)
    assert not unified.grows


def test_a_client_that_asks_for_more_context_makes_it_grow() -> None:
    unified = unify({"num_ctx": 8192}, {"num_ctx": 4096}, {"num_ctx": 4096}, max_num_ctx=16384)
    assert unified.grows
    assert unified.target == {"num_ctx": 8192}
    assert not unified.avoided


def test_more_than_the_maximum_is_cut_to_it_and_told() -> None:
    unified = unify({"num_ctx": 99_999}, {}, {"num_ctx": 4096}, max_num_ctx=16384)
    assert unified.target == {"num_ctx": 16384}
    assert header_value(unified) == "num_ctx=16384; asked=99999"


def test_at_the_maximum_nothing_grows_any_more() -> None:
    unified = unify({"num_ctx": 99_999}, {}, {"num_ctx": 16384}, max_num_ctx=16384)
    assert not unified.grows
    assert unified.avoided == ("num_ctx",)


def test_a_growth_that_did_not_fit_is_not_tried_again_but_a_smaller_one_is() -> None:
    again = unify({"num_ctx": 16384}, {}, {"num_ctx": 4096}, refused_num_ctx=16384)
    smaller = unify({"num_ctx": 8192}, {}, {"num_ctx": 4096}, refused_num_ctx=16384)
    assert not again.grows
    assert smaller.target == {"num_ctx": 8192}


def test_from_the_second_growth_on_it_doubles_so_that_small_steps_do_not_reload_each_time() -> None:
    unified = unify({"num_ctx": 8193}, {}, {"num_ctx": 8192}, max_num_ctx=131072, grow_to_at_least=16384)
    assert unified.target == {"num_ctx": 16384}


def test_a_generous_growth_is_not_taken_where_it_did_not_fit() -> None:
    unified = unify({"num_ctx": 9000}, {}, {"num_ctx": 8192}, refused_num_ctx=16384, grow_to_at_least=16384)
    assert unified.target == {"num_ctx": 9000}


def test_what_the_current_set_lacks_is_taken_out() -> None:
    unified = unify({"num_batch": 64, "num_thread": 2, "top_k": 3}, {}, {})
    assert unified.remove == {"num_batch", "num_thread"}
    assert header_value(unified) == "num_batch=512; asked=64, num_thread=0; asked=2"


def test_asking_for_the_default_is_no_override() -> None:
    assert not unify({"num_batch": 512, "num_gpu": -1}, {}, {}).overridden


def test_without_its_own_num_ctx_the_shown_one_is_the_current_one() -> None:
    less = unify({"num_ctx": 2048}, {}, {}, shown_num_ctx=4096)
    more = unify({"num_ctx": 8192}, {}, {}, shown_num_ctx=4096)
    assert less.remove == {"num_ctx"}
    assert not less.grows
    assert more.grows


def test_a_model_without_configured_options_takes_its_set_from_the_first_request() -> None:
    first = unify({"num_ctx": 8192, "num_thread": 2}, {}, None, max_num_ctx=32768)
    assert first.target == {"num_ctx": 8192, "num_thread": 2}
    assert not first.set
    assert not first.grows


def test_the_first_request_cannot_load_more_than_the_maximum() -> None:
    unified = unify({"num_ctx": 99_999}, {}, None, max_num_ctx=8192)
    assert unified.set == {"num_ctx": 8192}


def test_defaults_hold_for_the_first_request_too() -> None:
    unified = unify({"num_gpu": 1, "num_ctx": 8192}, {"num_gpu": 99}, None)
    assert unified.target == {"num_gpu": 99, "num_ctx": 8192}


def test_an_automatic_num_gpu_never_reloads_so_overriding_it_avoids_nothing() -> None:
    assert unify({"num_gpu": -1}, {"num_gpu": 99}, {"num_gpu": 99}).avoided == ()


@pytest.mark.parametrize(("name", "value"), ILL_TYPED)
def test_an_option_that_ollama_refuses_is_left_alone(name: str, value: object) -> None:
    unified = unify({name: value, "num_batch": 1}, {"num_ctx": 4096}, {"num_ctx": 4096})
    assert unified.ill_typed
    assert not unified.set
    assert not unified.remove


def test_a_number_with_a_fraction_is_read_as_ollama_reads_it() -> None:
    assert unify({"num_ctx": 4096.7}, {}, None).target == {"num_ctx": 4096}


def test_null_is_absent() -> None:
    assert unify({"num_ctx": None}, {}, {"num_ctx": 4096}).set == {"num_ctx": 4096}


# --- names that share weights ---


def test_another_name_says_the_default_that_its_modelfile_would_change() -> None:
    unified = unify({}, {}, {}, parameters={"num_ctx": 1024, "num_batch": 64}, shown_num_ctx=4096)
    assert unified.set == {"num_ctx": 4096, "num_batch": 512}


def test_the_name_that_was_loaded_needs_nothing_put_in() -> None:
    unified = unify({}, {}, {"num_ctx": 1024}, parameters={"num_ctx": 1024})
    assert not unified.set


def test_a_name_without_parameters_carries_those_of_the_name_that_was_loaded() -> None:
    assert unify({}, {}, {"num_ctx": 1024}).set == {"num_ctx": 1024}


# --- enforce and respect ---


def test_enforce_uses_configured_values_only() -> None:
    unified = unify({"num_ctx": 9000, "num_batch": 1}, {"num_ctx": 4096}, {"num_ctx": 4096}, "enforce")
    assert unified.set == {"num_ctx": 4096}
    assert unified.remove == {"num_batch"}
    assert not unified.grows


def test_respect_lets_the_clients_options_win() -> None:
    unified = unify({"num_ctx": 9000}, {"num_ctx": 4096, "num_gpu": 9}, {"num_ctx": 4096}, "respect")
    assert unified.target == {"num_ctx": 9000, "num_gpu": 9}
    assert unified.set == {"num_gpu": 9}
    assert not unified.overridden


# --- properties ---


@given(ASKED, RUNNER_SETS, RUNNER_SETS, MAX_NUM_CTX, st.sampled_from(["merge", "enforce", "respect"]))
def test_ollama_gets_exactly_the_target(
    asked: dict[str, Any], configured: dict[str, Any], current: dict[str, Any], limit: int | None, policy: Any
) -> None:
    unified = unify(asked, configured, current, policy, limit)
    assert sent_runner_options(asked, unified) == unified.target


@given(ASKED, RUNNER_SETS, st.none() | RUNNER_SETS, MAX_NUM_CTX)
def test_what_was_unified_needs_nothing_more(
    asked: dict[str, Any], configured: dict[str, Any], current: dict[str, Any] | None, limit: int | None
) -> None:
    unified = unify(asked, configured, current, "merge", limit)
    again = unify(applied(asked, unified), configured, unified.target, "merge", limit)
    assert (again.set, again.remove, again.overridden, again.grows) == ({}, frozenset(), (), False)
    assert again.target == unified.target


@given(ASKED, RUNNER_SETS, RUNNER_SETS, MAX_NUM_CTX, MAX_NUM_CTX, st.integers(0, 100_000))
def test_merging_changes_nothing_but_num_ctx_and_never_makes_that_smaller(
    asked: dict[str, Any],
    configured: dict[str, Any],
    current: dict[str, Any],
    limit: int | None,
    refused: int | None,
    at_least: int,
) -> None:
    unified = unify(asked, configured, current, "merge", limit, refused, grow_to_at_least=at_least)
    assert unified.target.get("num_ctx", 0) >= current.get("num_ctx", 0)
    rest = {name: value for name, value in unified.target.items() if name != "num_ctx"}
    assert rest == {name: value for name, value in current.items() if name != "num_ctx"}
    if unified.grows:
        assert limit is None or unified.target["num_ctx"] <= limit
        assert refused is None or unified.target["num_ctx"] < refused
    else:
        assert unified.target == current


@given(st.lists(ASKED, max_size=12), RUNNER_SETS)
def test_however_many_options_are_asked_for_only_growth_reloads(
    requests: list[dict[str, Any]], configured: dict[str, Any]
) -> None:
    current: dict[str, Any] | None = None
    reloads = growths = 0
    for asked in requests:
        unified = unify(asked, configured, current)
        reloads += current is not None and unified.target != current
        growths += unified.grows
        current = unified.target
    assert reloads == growths


@given(st.dictionaries(st.sampled_from([*RUNNER_OPTIONS, "temperature", "stop", "warp"]), JSON), RUNNER_SETS)
def test_whatever_is_asked_nothing_is_raised_and_no_ill_typed_value_is_overwritten(
    asked: dict[str, Any], current: dict[str, Any]
) -> None:
    unified = unify(asked, {}, current)
    for name, value in asked.items():
        if value is not None and name in RUNNER_OPTIONS and not runner_options({name: value}):
            assert unified.ill_typed
            assert not unified.set


@given(ASKED, RUNNER_SETS)
def test_the_header_is_plain_text_for_every_override(asked: dict[str, Any], current: dict[str, Any]) -> None:
    unified = unify(asked, {}, current)
    text = header_value(unified)
    assert text.isascii()
    assert text.isprintable()
    assert text.count("asked=") == len(unified.overridden)


# --- calls that can carry no options ---


@pytest.mark.parametrize(
    ("current", "parameters", "expected"),
    [
        ({}, {}, True),
        ({"num_ctx": 2048}, {}, False),
        ({"num_ctx": 2048}, {"num_ctx": 2048}, True),
        ({}, {"num_ctx": 2048}, False),
        ({"num_gpu": 99}, {}, True),
        ({"num_batch": 512}, {}, True),
        ({"num_batch": 64}, {}, False),
        ({"use_mmap": True}, {}, False),
    ],
)
def test_a_call_without_options_runs_on_the_current_set(
    current: dict[str, Any], parameters: dict[str, Any], expected: bool
) -> None:
    assert neutral(current, parameters) is expected


def test_server_defaults_are_runner_options() -> None:
    assert set(SERVER_DEFAULTS) < set(RUNNER_OPTIONS)


@pytest.mark.parametrize(
    ("have", "prompt_bytes", "limit", "expected"),
    [(4096, 1_000, None, 8192), (4096, 100_000, None, 65536), (4096, 100_000, 16384, 16384), (4096, 1, 4096, 4096)],
)
def test_context_for_a_long_prompt_is_doubled_up_to_the_limit(
    have: int, prompt_bytes: int, limit: int | None, expected: int
) -> None:
    assert grown_num_ctx(have, prompt_bytes, limit) == expected
