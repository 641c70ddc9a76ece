from __future__ import annotations

import math

from proxy.residency.runner import SETTLED, UNRANKED, Runner, State
from proxy.rewrite.facts import ModelFacts
from proxy.settings import KeptModel

FACTS = ModelFacts("one:latest", "", "sha256:w", trained_num_ctx=8192)


def test_a_runner_is_called_by_its_kept_name_then_by_the_one_that_was_met_first() -> None:
    assert Runner("sha256:w").name == "sha256:w"
    assert Runner("sha256:w", FACTS).name == "one:latest"
    assert Runner("sha256:w", FACTS, kept=KeptModel(name="Kept")).name == "kept:latest"


def test_the_limit_of_the_context_is_the_configured_one_else_the_trained_one() -> None:
    assert Runner("w").max_num_ctx is None
    assert Runner("w", FACTS).max_num_ctx == 8192
    assert Runner("w", FACTS, kept=KeptModel(name="one", max_num_ctx=4096)).max_num_ctx == 4096


def test_its_context_is_the_one_it_was_asked_to_have_else_the_one_that_was_seen() -> None:
    assert Runner("w", current={"num_ctx": 2048}, shown_num_ctx=4096).num_ctx == 2048
    assert Runner("w", current={}, shown_num_ctx=4096).num_ctx == 4096
    assert Runner("w").num_ctx is None


def test_a_pinned_model_is_described_without_a_time() -> None:
    runner = Runner("w", FACTS, state=State.RESIDENT, present=True, expires_at=1e10)
    assert (runner.described(0.0)["pinned"], runner.described(0.0)["expires_in_s"]) == (True, None)
    runner.expires_at = 90.0
    assert (runner.described(0.0)["pinned"], runner.described(0.0)["expires_in_s"]) == (False, 90.0)
    runner.present = False
    assert runner.described(0.0)["expires_in_s"] is None


def test_a_new_runner_is_unranked_absent_and_unknown() -> None:
    runner = Runner("w")
    assert (runner.rank, runner.state, runner.busy) == (UNRANKED, State.ABSENT, False)
    assert not runner.is_known(-math.inf)
    assert State.ABSENT not in SETTLED
