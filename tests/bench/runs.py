"""Runs for the tests of what is made of them: no server was asked, and the times are drawn from a seed."""

from __future__ import annotations

import functools
import random
from typing import TYPE_CHECKING

from proxy.bench import statistics
from proxy.bench.results import (
    Machine,
    ModelComparison,
    ModelInfo,
    Parts,
    Run,
    Sample,
    Server,
    Settings,
    target,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.bench.results import ModelResult, Side, Workload

MACHINE = Machine(cpu="A processor", cores=2, memory_bytes=8 << 30, os="Linux 6.1", python="CPython 3.11.7")


def sample(ttft_s: float | None, *, call: int = 1, run: int = 1, at_s: float = 0.0, **more: object) -> Sample:
    """A call with 8 tokens, each 10 ms after the other."""
    total_s = None if ttft_s is None else ttft_s + 0.07
    known: dict[str, object] = {"ttft_s": ttft_s, "total_s": total_s, "tokens": 8, "prompt_tokens": 20, **more}
    return Sample(run=run, call=call, t_start_s=at_s, **known)  # type: ignore[arg-type]


@functools.cache
def side(
    mean_s: float, *, seed: int, calls: int = 12, load_s: float = 0.0, loads: int | None = 0, from_s: float = 0.0
) -> Side:
    """Calls around a mean, after a warm-up that is in no figure; with a load, half of the calls wait for it."""
    chance = random.Random(seed)
    samples = [sample(9.0, call=0, at_s=from_s, excluded="warm-up")]
    for call in range(1, calls + 1):
        own_s = mean_s * chance.lognormvariate(0, 0.1)
        cold = load_s > 0 and call % 2 == 1
        parts = Parts(queue_s=0.0, load_s=load_s if cold else 0.0, prompt_s=own_s * 0.8, other_s=own_s * 0.2)
        whole_s = own_s + (load_s if cold else 0.0)
        samples.append(sample(whole_s, call=call, at_s=from_s + call, parts=parts, cold=cold))
    return statistics.side(samples, loads)


def workload(name: str, direct: Side, via: Side) -> Workload:
    reached = via.figures.ttft
    p95_ms = None if reached is None else reached.p95_s.value * 1000
    targets = (target("P95 of the first token", 740, "ms", p95_ms),)
    return statistics.workload(name, f"What {name} is.", "the first call: warm-up", direct, via, targets)


def run(
    workloads: Sequence[Workload] | None = None, *, models: ModelComparison | None = None, name: str = "llama3.2:3b"
) -> Run:
    """One with a workload that got better, one that got worse, and one without a difference."""
    if workloads is None:
        workloads = (
            workload("idle", side(0.1, seed=1, load_s=1.2, loads=6), side(0.1, seed=2, from_s=0.5)),
            workload("warm", side(0.1, seed=3, from_s=20), side(0.15, seed=4, from_s=20.5)),
            workload("openai", side(0.1, seed=5, loads=None, from_s=40), side(0.1, seed=5, loads=None, from_s=40.5)),
        )
    return Run(
        started_at="2026-11-26T08:15:00Z",
        duration_s=60.0,
        interrupted=False,
        pilotlight_version="1.0.0",
        machine=MACHINE,
        direct=Server(url="http://127.0.0.1:11434", version="0.24.0"),
        via=None if models else Server(url="http://127.0.0.1:11435", version="0.24.0"),
        model=None if models else ModelInfo(name=name, digest="sha256:abc", size_bytes=2 << 30, context_length=4096),
        settings=Settings(
            workloads=tuple(each.name for each in workloads),
            runs=1,
            seconds=None,
            concurrency=1,
            seed=1,
            prompts="built-in",
            num_predict=8,
            header_names=("Authorization",),
        ),
        workloads=() if models else tuple(workloads),
        models=models,
    )


def model(name: str, *, ttft_s: float, load_s: float, seed: int) -> ModelResult:
    measured = side(ttft_s, seed=seed, load_s=load_s, calls=24)
    warm = measured.figures.ttft
    targets = (target("later first tokens", 500, "ms", None if warm is None else warm.p50_s.value * 1000),)
    return statistics.model(ModelInfo(name=name, size_bytes=3 << 30, vram_bytes=None), measured.samples, targets)


def models_run(names: Sequence[str] = ("llama3.2:1b", "llama3.2:3b")) -> Run:
    results = tuple(model(name, ttft_s=0.1 * (i + 1), load_s=1.0 + i, seed=i) for i, name in enumerate(names))
    comparison = ModelComparison(
        goal="later first tokens below 500 ms", models=results, recommended=names[0], reason="It is the faster one."
    )
    return run((), models=comparison)
