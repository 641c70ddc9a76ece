"""S10: a client gets its burst and its rate and nothing more, and the table of clients stays small."""

from __future__ import annotations

import random
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admission.ratelimit import RateLimits, client_of, refusal

SECRET = b"0123456789abcdef"

# Powers of two, and times in 64ths of a second: floats add these exactly, so that the rules can be held to the letter.
RATES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0, 32.0])
BURSTS = st.integers(1, 20)
GAPS = st.lists(st.integers(0, 640).map(lambda n: n / 64), max_size=80)


def test_a_burst_goes_at_once_and_the_next_one_waits_for_a_token() -> None:
    limits = RateLimits(rate_per_s=2.0, burst=3)
    assert [limits.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limits.take("a", 10.25) == 0.25
    assert limits.take("a", 10.5) == 0.0
    assert limits.take("a", 10.5) == 0.5


def test_a_refusal_takes_nothing() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=1)
    limits.take("a", 0.0)
    for _ in range(100):
        assert limits.take("a", 0.5) == 0.5
    assert limits.take("a", 1.0) == 0.0


def test_clients_do_not_share() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=1)
    assert [limits.take(key, 0.0) for key in "abab"] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("rate_per_s", [0.0, -1.0])
def test_a_rate_of_nothing_is_no_limit_and_remembers_nobody(rate_per_s: float) -> None:
    limits = RateLimits(rate_per_s, burst=1)
    assert {limits.take("a", 0.0) for _ in range(1000)} == {0.0}
    assert len(limits) == 0


def test_a_key_may_have_a_rate_of_its_own() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=1)
    assert [limits.take("fast", 0.0, rate_per_s=4.0, burst=2) for _ in range(3)] == [0.0, 0.0, 0.25]
    assert [limits.take("free", 0.0, rate_per_s=0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert [limits.take("slow", 0.0) for _ in range(2)] == [0.0, 1.0]


def test_other_figures_count_at_once_and_nobody_waits_for_the_old_ones() -> None:
    limits = RateLimits(rate_per_s=0.01, burst=1)
    assert [limits.take("a", 0.0) for _ in range(2)] == [0.0, 100.0]
    limits.change(rate_per_s=2.0, burst=2)
    assert len(limits) == 0
    assert [limits.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    limits.change(rate_per_s=0.0, burst=1)
    assert {limits.take("a", 0.0) for _ in range(10)} == {0.0}


@given(RATES, BURSTS, GAPS)
def test_no_window_holds_more_than_the_burst_and_what_flows_in(rate: float, burst: int, gaps: list[float]) -> None:
    limits = RateLimits(rate, burst)
    now, passed = 1000.0, []
    for gap in gaps:
        now += gap
        if limits.take("a", now) == 0.0:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + rate * (passed[j] - start)


@given(RATES, BURSTS, GAPS)
def test_it_is_a_token_bucket_to_the_letter(rate: float, burst: int, gaps: list[float]) -> None:
    limits = RateLimits(rate, burst)
    tokens, last, now = Fraction(burst), Fraction(1000), 1000.0
    for gap in gaps:
        now += gap
        tokens = min(Fraction(burst), tokens + (Fraction(now) - last) * Fraction(rate))
        last = Fraction(now)
        wait_s = limits.take("a", now)
        if tokens >= 1:
            assert wait_s == 0.0
            tokens -= 1
        else:
            assert Fraction(wait_s) == (1 - tokens) / Fraction(rate)


@given(
    st.floats(0.01, 1000),
    BURSTS,
    st.lists(st.floats(0, 10), max_size=50),
)
def test_no_rate_is_exceeded_by_more_than_rounding(rate: float, burst: int, gaps: list[float]) -> None:
    limits = RateLimits(rate, burst)
    now, passed = 1e5, []
    for gap in gaps:
        now += gap
        if limits.take("a", now) == 0.0:
            passed.append(now)
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= burst + rate * (passed[j] - start) + 1e-6


def test_after_the_wait_that_was_told_it_may_go() -> None:
    limits = RateLimits(rate_per_s=0.3, burst=2)
    now = 1e5
    for _ in range(200):
        wait_s = limits.take("a", now)
        # Clients wait for the whole seconds of Retry-After.
        now += refusal(wait_s).retry_after_s or 0.0 if wait_s else 0.0
        assert not wait_s or limits.take("a", now) == 0.0


def test_a_bucket_that_is_full_again_is_forgotten() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=2)
    for key in ("a", "b", "c"):
        limits.take(key, 0.0)
    limits.take("c", 0.5)
    assert len(limits) == 3
    limits.take("d", 1.0)
    assert repr(limits) == "<RateLimits 2 keys>"
    assert [limits.take("c", 1.0), limits.take("c", 1.0)] == [0.0, 1.0]


def test_full_ones_make_room_before_any_other() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=5, max_entries=3)
    for _ in range(5):
        limits.take("busy", 0.0)
    limits.take("x", 0.0)
    limits.take("y", 0.5)
    # x is full, and so the one that goes; busy was used before y.
    limits.take("new", 1.0)
    assert len(limits) == 3
    assert limits.take("busy", 1.0) == 0.0
    assert limits.take("busy", 1.0) == 1.0


def test_the_nearest_to_full_makes_room_where_none_is() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=2, max_entries=2)
    limits.take("a", 0.0)
    limits.take("a", 0.0)
    limits.take("b", 0.125)
    limits.take("c", 0.25)
    assert len(limits) == 2
    # b was forgotten: it had one token to get back, and has its whole burst.
    assert limits.take("a", 0.25) == 0.75


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 64).map(lambda n: n / 64)), max_size=200),
    st.integers(1, 6),
)
def test_the_table_never_grows_beyond_its_bound(takes: list[tuple[int, float]], most: int) -> None:
    limits = RateLimits(rate_per_s=1.0, burst=3, max_entries=most)
    now = 0.0
    for key, gap in takes:
        now += gap
        limits.take(str(key), now)
        assert len(limits) == len(limits._soonest) <= most
        assert set(limits._full_at) == {key for _, key in limits._soonest}


def test_coming_under_many_names_does_not_make_it_forget_who_is_deep_in_debt() -> None:
    limits = RateLimits(rate_per_s=1.0, burst=10, max_entries=100)
    for _ in range(10):
        limits.take("greedy", 0.0)
    for n in range(1000):
        limits.take(f"name {n}", 0.001 * n)
    assert limits.take("greedy", 0.5) == 0.5


def test_ten_thousand_clients_fit_into_five_mebibytes() -> None:
    """S10: keys as they come in production, many more of them than fit, with a clock that moves."""
    rng = random.Random(10)
    # Made before: a key costs the table its own size too, so these are dropped again as they are used.
    credentials = [rng.randbytes(12).hex() for _ in range(20_000)]
    limits = RateLimits(rate_per_s=0.01, burst=5)
    tracemalloc.start()
    try:
        now = 1e5
        for credential in credentials:
            for _ in range(rng.randrange(1, 4)):
                limits.take(client_of("10.0.0.1", credential, SECRET), now)
            now += rng.random() / 1000
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(limits) == 10_000
    assert size <= 5 * 2**20


def test_a_refusal_says_after_how_many_whole_seconds() -> None:
    error = refusal(0.2)
    assert (error.status, error.code, error.retry_after_s) == (429, "rate_limited", 1)
    assert refusal(2.4).retry_after_s == 3


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("192.0.2.7", "ip:192.0.2.7"),
        ("::ffff:192.0.2.7", "ip:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "ip:2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "ip:2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "ip:2001:db8:1:3::/64"),
        ("fe80::1%eth0", "ip:fe80::/64"),
        ("::1", "ip:::/64"),
        ("", "peer:"),
        ("/run/pilotlight.sock", "peer:/run/pilotlight.sock"),
    ],
)
def test_without_a_credential_the_peers_address_counts(peer: str, name: str) -> None:
    assert client_of(peer, "", SECRET) == name


def test_a_credential_counts_from_wherever_it_comes_and_is_not_told() -> None:
    name = client_of("192.0.2.7", "sk-very-secret", SECRET)
    assert name == client_of("2001:db8::1", "sk-very-secret", SECRET)
    assert name != client_of("192.0.2.7", "sk-very-secret2", SECRET)
    assert name != client_of("192.0.2.7", "sk-very-secret", b"another process ")
    assert name.startswith("key:")
    assert "secret" not in name
    assert len(name) == 20


@given(st.text(), st.text(min_size=1))
def test_no_peer_and_no_credential_raises(peer: str, credential: str) -> None:
    assert client_of(peer, "", SECRET) != client_of(peer, credential, SECRET)
