from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rewrite.keepalive import decide

VALUES = st.none() | st.integers(-10, 10_000) | st.sampled_from(["5m", "1h", "-1s", "0", "abc", ""]) | st.booleans()
POLICIES: Any = st.sampled_from(["ignore", "respect", "extend"])


@pytest.mark.parametrize("client", [None, "1s", 0, 600, "24h"])
def test_a_kept_models_own_value_wins_whatever_the_client_sends(client: object) -> None:
    assert decide(client, -1, None) == -1


def test_a_request_that_has_the_value_already_is_left_alone() -> None:
    assert decide(-1, -1, None) is None


@pytest.mark.parametrize("client", ["abc", True, [], {}, ""])
def test_a_value_that_ollama_refuses_is_left_for_its_error(client: object) -> None:
    assert decide(client, -1, "5m") is None


def test_respect_lets_the_client_have_its_way() -> None:
    assert decide("1s", -1, None, "respect") is None
    assert decide(None, -1, None, "respect") == -1


def test_extend_takes_the_longer_one() -> None:
    assert decide("1h", "10m", None, "extend") is None
    assert decide("1m", "10m", None, "extend") == "10m"
    assert decide(-1, "10m", None, "extend") is None


def test_the_default_is_put_in_only_where_the_client_sent_none() -> None:
    assert decide(None, None, "30m") == "30m"
    assert decide("1s", None, "30m") is None
    assert decide(None, None, None) is None


def test_the_default_never_shortens_the_life_of_a_loaded_model() -> None:
    assert decide(None, None, "30m", runner_expires_in_s=3600.0) is None
    assert decide(None, None, "30m", runner_expires_in_s=60.0) == "30m"


@given(VALUES, st.none() | st.sampled_from([-1, "10m", 300]), st.none() | st.sampled_from(["5m", -1]), POLICIES)
def test_nothing_is_raised_and_only_configured_values_are_put_in(
    client: object, kept: Any, default: Any, policy: Any
) -> None:
    assert decide(client, kept, default, policy) in (None, kept if kept is not None else default)
