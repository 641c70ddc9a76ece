"""Each workload against simulated servers of known speeds. By how much they differ is `scripts/bench selfcheck`'s
business; here it is which side comes first, and what was loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.bench.workloads.kinds import WORKLOADS
from proxy.bench.workloads.noting import BACKGROUND, LEAVES, LEFT, PREPARATION, WARM_UP
from proxy.bench.workloads.scene import V1_CHAT
from tests.bench.workloads.scenes import LOAD_S, SYSTEM, entered, measured, plan, staged

if TYPE_CHECKING:
    from proxy.bench.results import Sample, Side, Workload


def counted(side: Side) -> list[Sample]:
    return [sample for sample in side.samples if not sample.excluded]


def ratio(workload: Workload) -> float:
    assert workload.ratio is not None
    assert not workload.direct.figures.errors + workload.via.figures.errors
    return workload.ratio.p50.value


async def test_warm_begins_as_after_a_start_and_takes_turns_call_by_call() -> None:
    (warm,) = (await measured(plan("warm", calls=5))).workloads
    assert [sample.cold for sample in counted(warm.direct)] == [True, False, False, False, False]
    assert not any(sample.cold for sample in counted(warm.via))
    assert (warm.direct.loads, warm.via.loads) == (1, 0)
    assert [sample.call for sample in counted(warm.via)] == [1, 2, 3, 4, 5]
    later = sorted(
        (s.t_start_s, name) for name, side in (("d", warm.direct), ("v", warm.via)) for s in counted(side)[1:]
    )
    assert "".join(name for _, name in later) in ("dvvddvvd", "vddvvddv")


async def test_idle_finds_the_model_gone_but_for_a_proxy_that_keeps_it() -> None:
    (idle,) = (await measured(plan("idle", runs=2))).workloads
    assert all(sample.cold for sample in counted(idle.direct))
    assert (idle.direct.loads, idle.via.loads) == (2, 0)
    assert ratio(idle) > 2
    # Each run has the other side first.
    starts = [(counted(idle.direct)[run].t_start_s < counted(idle.via)[run].t_start_s) for run in (0, 1)]
    assert starts == [True, False]


async def test_mixed_options_load_anew_each_time_but_for_a_proxy_that_has_one_set() -> None:
    (mixed,) = (await measured(plan("mixed-options"))).workloads
    assert (mixed.direct.loads, mixed.via.loads) == (4, 0)
    assert ratio(mixed) > 2
    (target,) = mixed.targets
    assert (target.value, target.verdict) == (0, "pass")


async def test_flood_asks_when_all_batch_calls_are_there_and_says_which_call_is_urgent() -> None:
    wanted = plan("flood", background_factor=10)
    async with staged() as stage, entered(stage, wanted) as bench:
        await bench.measure()
        (flood,) = bench.result().workloads
        requests = stage.direct.requests_for("/api/chat")
    seen = [value for request in requests for name, value in request.headers if name.lower() == "x-priority"]
    # The loads are over: what is waited for is others.
    assert ratio(flood) > 1.5
    assert seen.count("interactive") == 1
    assert seen.count("batch") >= wanted.concurrency
    assert {sample.excluded for sample in flood.direct.samples} == {"", WARM_UP, PREPARATION, BACKGROUND, LEFT}


async def test_swap_waits_for_the_end_of_the_load_on_the_first_model_but_for_a_proxy_that_gives_turns() -> None:
    (swap,) = (await measured(plan("swap", background_factor=10))).workloads
    assert ratio(swap) > 1.2
    assert swap.direct.loads == 1
    # Both have to load the second model.
    assert all((sample.ttft_s or 0.0) > LOAD_S for side in (swap.direct, swap.via) for sample in counted(side))


async def test_shared_load_loses_the_load_of_the_client_that_leaves_but_for_a_proxy_that_owns_it() -> None:
    wanted = plan("shared-load", concurrency=2)
    # Half of it has to be longer than whatever holds this process up.
    async with staged(load_s=0.8) as stage, entered(stage, wanted) as bench:
        await bench.measure()
        (shared,) = bench.result().workloads
        outcomes = [[record.outcome for record in server.load_records] for server in (stage.direct, stage.behind)]
    assert [sum(outcome == "aborted" for outcome in found) for found in outcomes] == [1, 0]
    assert ratio(shared) > 1.1
    # Both wait for it, direct; by way of the proxy the second one waits in the queue.
    assert [sum(sample.cold for sample in counted(side)) for side in (shared.direct, shared.via)] == [2, 1]
    assert shared.via.loads == 1
    assert [sample.excluded for sample in shared.via.samples].count(LEAVES) == 1


async def test_long_system_is_read_once_or_not_at_all_where_the_proxy_keeps_it_warm() -> None:
    wanted = plan("long-system", system=SYSTEM, num_predict=1)
    keeps = [{"name": "one", "warm": [{"system": SYSTEM}]}]
    (long,) = (await measured(wanted, models=keeps)).workloads
    direct, via = ([sample.parts for sample in counted(side)] for side in (long.direct, long.via))
    read_s = [[parts.prompt_s or 0.0 for parts in side if parts is not None] for side in (direct, via)]
    assert read_s[0][0] > 2 * max(*read_s[0][1:], *read_s[1])


async def test_openai_takes_turns_with_a_client_that_has_options_of_its_own() -> None:
    async with staged() as stage, entered(stage, plan("openai")) as bench:
        await bench.measure()
        (found,) = bench.result().workloads
        assert len(stage.direct.requests_for(V1_CHAT)) == len(stage.behind.requests_for(V1_CHAT)) == 2
        assert stage.direct.reloads >= 4
    assert ratio(found) > 2
    # The tokens of a /v1 answer are counted as well.
    assert {sample.tokens for sample in counted(found.direct)} == {2}


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_what_is_expected_of_a_run_grows_with_what_is_asked_for(name: str) -> None:
    few, many = plan(name), plan(name, calls=300, concurrency=30, settle_s=30.0, keep_alive="1m")
    expected = WORKLOADS[name].expected
    assert 0 < sum(expected(few)) <= sum(expected(many))


async def test_on_one_server_the_sides_are_kept_apart() -> None:
    # As rarely as in production, compared with how long the calls take: a look in mid-turn would renew the model.
    wanted = plan("mixed-options", "warm", calls=4, settle_s=5.0)
    async with staged(shared=True, check_every_s=1.0) as stage, entered(stage, wanted) as bench:
        await bench.measure()
        run = bench.result()
    mixed, warm = run.workloads
    assert any("the same Ollama" in note for note in run.notes)
    assert mixed.direct.loads == 4
    assert mixed.via.loads == 0
    assert [sample.cold for sample in counted(warm.direct)] == [True, False, False, False]
    # It was put back before its first user came.
    assert not any(sample.cold for sample in counted(warm.via))
    assert [sample.call for sample in counted(warm.via)] == [1, 2, 3, 4]
