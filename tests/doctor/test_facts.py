from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.doctor.facts import (
    Admin,
    Snapshot,
    Stamp,
    clock_offset,
    context_bytes,
    expires_in_s,
    keep_alive_s,
    version_of,
)
from tests.doctor.observed import FOREVER, NOW, answer, described, observed, row, stream

INFO = {
    "general.architecture": "llama",
    "llama.block_count": 28,
    "llama.attention.head_count": 24,
    "llama.attention.head_count_kv": 8,
    "llama.attention.key_length": 128,
    "llama.attention.value_length": 128,
    "llama.embedding_length": 3072,
}


@pytest.mark.parametrize(
    ("text", "version"),
    [("0.24.0", (0, 24, 0)), ("v0.33.0-rc2", (0, 33, 0)), ("0.0.0", None), ("", None), ("1.2", None), ("a.b.c", None)],
)
def test_a_version_is_read_and_a_build_without_one_is_none(text: str, version: tuple[int, int, int] | None) -> None:
    assert version_of(text) == version


@given(
    st.floats(-86_400, 86_400),
    st.lists(st.tuples(st.floats(0, 10_000), st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=8),
)
def test_the_true_offset_is_within_the_bounds(offset: float, calls: list[tuple[float, float, float]]) -> None:
    stamps = []
    for begin, took, where in calls:
        sent = 1e9 + begin
        made = sent + took * where
        stamps.append(Stamp(sent, sent + took, math.floor(made + offset)))
    bounds = clock_offset(stamps)
    assert bounds is not None
    # A microsecond for what floats of this size cannot hold.
    assert bounds[0] - 1e-6 <= offset <= bounds[1] + 1e-6


def test_more_answers_bound_the_offset_closer() -> None:
    # A server whose clock agrees, asked shortly after a second began and shortly before one ends.
    stamps = [Stamp(100.1, 100.1, 100), Stamp(100.9, 100.9, 100)]
    assert clock_offset(stamps[:1]) == pytest.approx((-0.1, 0.9))
    assert clock_offset(stamps) == pytest.approx((-0.1, 0.1))


def test_of_answers_that_contradict_each_other_the_last_counts() -> None:
    assert clock_offset([Stamp(100, 100, 100), Stamp(200, 200, 500)]) == pytest.approx((300, 301))
    assert clock_offset([]) is None


def test_expiry_is_told_by_the_clock_of_the_server() -> None:
    assert expires_in_s(row("m", expires=NOW + 60), NOW, 0) == 60
    assert expires_in_s(row("m", expires=NOW + 60), NOW, 10) == 50
    assert expires_in_s(row("m", expires=FOREVER), NOW, 0) == math.inf
    assert expires_in_s(row("m", expires=None), NOW, 0) is None


def test_the_keep_alive_is_what_the_timer_says_after_a_stream() -> None:
    seen = observed(row("m", expires=NOW + 17), direct=stream(0.1, 0.2))
    assert keep_alive_s(seen) is None
    seen.after = Snapshot(NOW + 1, (row("m", expires=NOW + 301),))
    assert keep_alive_s(seen) == 300
    # Its request has not ended for Ollama yet, so the timer shows the past.
    seen.after = Snapshot(NOW + 1, (row("m", expires=NOW - 5),))
    assert keep_alive_s(seen) is None


def test_a_token_of_context_takes_what_layers_and_heads_say() -> None:
    assert context_bytes(INFO) == 28 * 8 * 256 * 2
    lengths = ("llama.attention.key_length", "llama.attention.value_length")
    assert context_bytes({name: value for name, value in INFO.items() if name not in lengths}) == 28 * 8 * 256 * 2


@pytest.mark.parametrize(
    "change",
    [
        {"llama.attention.head_count_kv": [8, 0, 8]},
        {"llama.attention.sliding_window": 1024},
        {"llama.block_count": None},
        {"general.architecture": "other"},
    ],
)
def test_what_cannot_be_worked_out_is_not_guessed(change: dict[str, object]) -> None:
    assert context_bytes({**INFO, **change}) is None


def test_names_of_the_same_weights_have_the_same_row() -> None:
    seen = observed(
        row("base:latest"), models={"base": described("base", "sha256:x"), "made": described("made", "sha256:x")}
    )
    assert seen.row("made") is seen.row("Base")
    assert seen.row("other") is None


def test_a_load_that_was_seen_is_what_a_load_costs() -> None:
    rows = [{"model": "m:latest", "start": "cold", "load_ms": ms} for ms in (900, 1500, 1200)]
    warm = [{"model": "m:latest", "start": "warm", "load_ms": 1}]
    seen = observed(admin=Admin(answer(body={"status": "ready"}), requests=rows + warm))
    assert seen.load_cost("m") == "a load took 1.2 s (median of 3 cold requests that Pilotlight saw)"
    assert "not measured here" in seen.load_cost("other")
