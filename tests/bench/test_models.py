from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from proxy.bench import statistics
from proxy.bench.models import Comparison, recommend
from proxy.bench.results import ModelInfo, from_json, to_json
from proxy.bench.statistics import PROMPT_SPEED
from proxy.bench.workloads.server import Server, UnknownModelError
from proxy.simulator import SimulatedOllama
from tests.bench.runs import sample
from tests.bench.workloads.scenes import GIB, LOAD_S, plan, profile
from tests.peers import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.bench.results import ModelResult


def ignore(step: object) -> None:
    """Nobody watches."""


def result(name: str, warm_s: float | None, *, gib: float = 1.0) -> ModelResult:
    samples = [] if warm_s is None else [sample(warm_s, call=call) for call in range(1, 6)]
    return statistics.model(ModelInfo(name=name, size_bytes=int(gib * GIB)), samples)


async def test_models_are_measured_cold_and_warm_in_turn() -> None:
    quick = profile(prompt_tokens_per_s=8000.0)
    async with SimulatedOllama(quick) as simulated, Server("--direct", simulated.url, {}) as server:
        comparison = Comparison(plan(runs=2, calls=2), ["one", "two", "one"], server, 10_000.0, ignore)
        await comparison.prepare()
        await comparison.measure()
        run = comparison.result()
        assert simulated.loads == 4
    assert from_json(to_json(run), "it") == run
    assert (run.via, run.model, run.workloads) == (None, None, ())
    assert run.models is not None
    one, two = run.models.models
    for each in (one, two):
        counted = [found for found in each.samples if not found.excluded]
        assert [found.cold for found in counted] == [True, False, False] * 2
        assert each.load_s is not None
        assert each.load_s.value >= LOAD_S * 0.9
        assert each.ttft_cold is not None
        assert each.ttft_warm is not None
        assert each.ttft_cold.p50_s.value > each.ttft_warm.p50_s.value
        assert each.model.vram_bytes == 2 * GIB
        # Of the long prompt alone.
        (first, *_) = (found for found in each.samples if found.excluded == PROMPT_SPEED)
        assert (first.prompt_tokens or 0) > 1000
        assert each.prompt_tokens_per_s is not None
        assert 1000 < each.prompt_tokens_per_s.value <= 8100
        assert [target.verdict for target in each.targets] == ["pass", "pass"]
    starts = [
        one.samples[0].t_start_s < two.samples[0].t_start_s,
        one.samples[-1].t_start_s < two.samples[-1].t_start_s,
    ]
    assert starts == [True, False]
    # It is twice the size of the other one.
    assert run.models.recommended == "one"


async def test_a_model_that_is_not_there_is_found_before_anything_is_loaded() -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as server:
        with pytest.raises(UnknownModelError, match="no model nope"):
            await Comparison(plan(), ["one", "nope"], server, 420.0, ignore).prepare()
        assert simulated.loads == 0


async def test_a_model_that_fails_leaves_the_others_alone() -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as server:
        simulated.fail("status", status=500, text="out of luck", times=5, path="/api/chat")
        comparison = Comparison(plan(calls=5), ["one", "two"], server, 1.0, ignore)
        await comparison.prepare()
        await comparison.measure()
        run = comparison.result()
    assert run.models is not None
    one, two = run.models.models
    assert one.error is not None
    assert "out of luck" in one.error
    assert two.error is None
    assert two.ttft_warm is not None


async def test_a_comparison_that_is_stopped_keeps_what_it_has() -> None:
    async with SimulatedOllama(profile()) as simulated, Server("--direct", simulated.url, {}) as server:
        comparison = Comparison(plan(calls=1000), ["one"], server, 420.0, ignore)
        await comparison.prepare()
        measuring = asyncio.create_task(comparison.measure())
        await until(lambda: len(simulated.requests_for("/api/chat")) >= 5)
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        run = comparison.result()
    assert run.interrupted
    assert run.models is not None
    assert len(run.models.models[0].samples) >= 4


def test_of_those_that_meet_the_target_the_largest_is_recommended() -> None:
    models = [result("small", 0.1, gib=1), result("middle", 0.3, gib=3), result("large", 0.9, gib=9)]
    assert recommend(models, 420.0, []) == (
        "middle",
        "the largest of 2 with a warm first token (p50) below 420 ms: 300 ms",
    )
    name, reason = recommend(models, 200.0, [])
    assert (name, reason.startswith("the only one")) == ("small", True)


def rows(*named: tuple[str, float]) -> Sequence[dict[str, Any]]:
    return [{"name": name, "size": int(gib * GIB)} for name, gib in named]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (rows(("tiny:1b", 1.0), ("half:2b", 1.9), ("big:8b", 5.0)), "Try half:2b, which is installed"),
        (rows(("nomic-embed-text:latest", 0.3), ("big:8b", 5.0)), "Try a model of at most about 2 GiB"),
        (
            [
                {"name": "far:cloud", "size": 357, "remote_host": "https://ollama.com:443"},
                {"name": "all-minilm:latest", "size": 46_000_000, "details": {"family": "bert"}},
            ],
            "Try a model of at most about 2 GiB",
        ),
        ([], "Try a model of at most about 2 GiB, or a smaller quantization: expected from its size, not measured"),
    ],
)
def test_where_none_meets_the_target_a_smaller_one_is_named(others: Sequence[dict[str, Any]], said: str) -> None:
    models = [result("slow", 0.9, gib=9), result("near", 0.84, gib=4)]
    name, reason = recommend(models, 420.0, others)
    assert name is None
    assert reason.startswith("none is below 420 ms; the nearest is near with 840 ms")
    assert said in reason


def test_without_a_warm_call_nothing_is_recommended() -> None:
    assert recommend([result("none", None)], 420.0, []) == (None, "nothing was measured warm")
    unknown = dataclasses.replace(result("m", 0.9), model=ModelInfo(name="m"))
    assert recommend([unknown], 420.0, [])[1].endswith("Try a smaller model, or a smaller quantization.")
