"""``scripts/bench selfcheck``: whether `pilotlight bench` measures right, on servers whose times are known.

Two simulated Ollamas of the same speeds, and Pilotlight in front of one of them. From how long a load takes, and how
fast prompts are read and tokens written, follows what each workload must come to; that is set beside what was measured.
The speeds are slow, so that what the machine and the programs add is small beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop

from proxy.bench.children import ENVIRON, Child, ChildError, free_port
from proxy.bench.own.output import tell
from proxy.bench.run import Bench
from proxy.bench.workloads.kinds import AHEAD_S, SYSTEM_CALLS, WORKLOADS
from proxy.bench.workloads.plan import Plan
from proxy.bench.workloads.prompts import long_system
from proxy.bench.workloads.server import Server, ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from proxy.bench.results import Run, Sample
    from proxy.bench.run import Step

WITHIN: Final = 0.10
MODEL, SECOND_MODEL = "one", "two"
_EXIT_FAILED: Final = 1
_EXIT_INTERRUPTED: Final = 130
_LOADED_S: Final = 20.0
_SEED: Final = 7
# Some 500 tokens: the simulated tokenizer needs time too, which is no setting.
_SYSTEM_CHARACTERS: Final = 2000


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of both simulated servers and all their models."""

    load_s: float = 4.0
    prompt_tokens_per_s: float = 100.0
    tokens_per_s: float = 4.0

    def first_s(self, prompt_tokens: float) -> float:
        """The first token of a loaded model."""
        return self.whole_s(prompt_tokens, 1)

    def whole_s(self, prompt_tokens: float, tokens: int) -> float:
        """A whole answer of a loaded model."""
        return prompt_tokens / self.prompt_tokens_per_s + tokens / self.tokens_per_s


def implied_s(name: str, speeds: Speeds, plan: Plan, prompt: float, system: float) -> tuple[float, float]:
    """What the mean first token of a workload must be, direct and by way of a proxy that keeps the model.

    Args:
        name: The workload's.
        speeds: Of the servers, which answer one call at a time and hold one model.
        plan: What was asked for.
        prompt: Tokens of a prompt.
        system: Tokens of the long system prompt, which the proxy is told to keep warm.
    """
    load_s, first_s = speeds.load_s, speeds.first_s(prompt)
    clients = plan.concurrency
    batch_s = speeds.whole_s(prompt, plan.background_factor * plan.num_predict)
    if name == "warm":
        return first_s + load_s / plan.calls, first_s
    if name in ("idle", "mixed-options", "openai"):
        return first_s + load_s, first_s
    if name == "flood":
        # It comes when the first of the batch calls has its first token: the rest of that one, the others, its own.
        return clients * batch_s, batch_s
    if name == "swap":
        # Direct, the first model is never idle before its load is over.
        return clients * plan.background_calls * batch_s + load_s, batch_s + load_s
    if name == "shared-load":
        # Those who stay are answered one after the other; direct, half of a load is for nothing.
        queue_s = (clients - 1) / 2 * speeds.whole_s(prompt, plan.num_predict)
        lost_s = (load_s + first_s) / 2
        return lost_s + load_s + queue_s + first_s, load_s - AHEAD_S + queue_s + first_s
    # long-system: from the second call on the prompt cache has it on both sides.
    return first_s + system / speeds.prompt_tokens_per_s / SYSTEM_CALLS, first_s


@dataclass(frozen=True, slots=True)
class Row:
    """One workload: the ratio that the settings imply, and the measured one."""

    name: str
    implied: float
    measured: float

    @property
    def deviation(self) -> float:
        return self.measured / self.implied - 1

    @property
    def passed(self) -> bool:
        return abs(self.deviation) <= WITHIN


def rows_of(run: Run, speeds: Speeds, plan: Plan) -> list[Row]:
    """Every workload that was measured on both sides.

    The lengths of the prompts are those that the servers told.
    """
    found = []
    for workload in run.workloads:
        if workload.ratio is None:
            continue
        counted = [sample for sample in workload.direct.samples if sample.call]
        prompt = _tokens(counted)
        system = 0.0
        if workload.name == "long-system":
            # The warm-up asks without it.
            prompt, both = _tokens(s for s in workload.direct.samples if not s.call), prompt
            system = both - prompt
        direct_s, via_s = implied_s(workload.name, speeds, plan, prompt, system)
        found.append(Row(workload.name, direct_s / via_s, workload.ratio.mean.value))
    return found


def _tokens(samples: Iterable[Sample]) -> float:
    return statistics.fmean(sample.prompt_tokens for sample in samples if sample.prompt_tokens is not None)


def models(speeds: Speeds) -> dict[str, Any]:
    """The simulated servers: two models, of which one fits, and one call at a time."""
    weights = {
        "size_bytes": 2 << 30,
        "resident_bytes": 2 << 30,
        "load_s": speeds.load_s,
        "prompt_tokens_per_s": speeds.prompt_tokens_per_s,
        "tokens_per_s": speeds.tokens_per_s,
    }
    template = "{{ if .System }}{{ .System }}\n{{ end }}{{ .Prompt }}"
    names = (MODEL, SECOND_MODEL)
    return {
        "machine": {"vram_bytes": 3 << 30, "parallel": 1, "max_loaded": 1},
        "weights": {name: weights for name in names},
        "models": [{"name": name, "weights": name, "template": template} for name in names],
    }


@contextlib.asynccontextmanager
async def stage(folder: Path, speeds: Speeds, system: str) -> AsyncIterator[tuple[str, str]]:
    """Two simulated servers, and Pilotlight in front of the second; they end when the context is left.

    Args:
        folder: For their files.
        speeds: Of the servers.
        system: A system prompt that the proxy keeps warm.

    Yields:
        The addresses: direct, and by way of the proxy.

    Raises:
        ChildError: One did not start.
    """
    direct, behind, listen, admin = (free_port() for _ in range(4))
    described = folder / "models.json"
    described.write_text(json.dumps(models(speeds)))
    config = folder / "pilotlight.yaml"
    settings = {
        "listen": f"127.0.0.1:{listen}",
        "admin": f"127.0.0.1:{admin}",
        "upstream": {"url": f"http://127.0.0.1:{behind}"},
        "models": [{"name": MODEL, "warm": [{"system": system}]}],
        "scheduler": {"parallel": 1, "max_loaded_models": 1},
        # Sooner than in real life, where a run would take as long as it takes.
        "residency": {"check_every_s": 0.5},
    }
    # What is JSON is YAML.
    config.write_text(json.dumps(settings))
    async with contextlib.AsyncExitStack() as stack:
        for port in (direct, behind):
            arguments = ["simulate", "--listen", f"127.0.0.1:{port}", "--models", str(described)]
            child = await stack.enter_async_context(Child(arguments, folder / f"{port}.log", ENVIRON))
            await child.wait_listening(port)
        proxy = await stack.enter_async_context(
            Child(["serve", "--config", str(config)], folder / "proxy.log", ENVIRON)
        )
        await proxy.wait_listening(listen)
        yield f"http://127.0.0.1:{direct}", f"http://127.0.0.1:{listen}"


async def measure(plan: Plan, speeds: Speeds) -> Run:
    """Start everything, measure, and end everything.

    Raises:
        ChildError: Something did not start.
        ServerError: Something does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as folder:
        async with (
            stage(Path(folder), speeds, plan.system) as (direct_url, via_url),
            Server("--direct", direct_url, {}) as direct,
            Server("--via", via_url, {}) as via,
        ):
            await via.wait_loaded(plan.model, _LOADED_S)
            bench = Bench(plan, direct, via, _tell)
            await bench.prepare()
            await bench.measure()
            return bench.result()


def _tell(step: Step) -> None:
    left = f", {step.left_s:.0f} s left" if step.left_s is not None else ""
    tell(f"{step.what}{left}")


def describe(rows: Sequence[Row], means: Mapping[str, tuple[float, float]]) -> str:
    """The table, and what it shows."""
    lines = [f"{'':14}{'direct':>10}{'proxied':>10}{'ratio':>8}{'implied':>9}{'off':>8}"]
    for row in rows:
        direct_s, via_s = means[row.name]
        lines.append(
            f"{row.name:14}{direct_s:>8.3f} s{via_s:>8.3f} s{row.measured:>8.2f}{row.implied:>9.2f}"
            f"{row.deviation:>+8.1%}  {'pass' if row.passed else 'MISS'}"
        )
    lines += [
        "",
        f"Mean first tokens and their ratio; implied: by the settings of the simulated servers; within {WITHIN:.0%}.",
        "Nothing here says anything about Ollama: the servers are simulated, and their speeds are made up.",
        "",
    ]
    return "\n".join(lines)


def _means(run: Run) -> dict[str, tuple[float, float]]:
    found = {}
    for workload in run.workloads:
        sides = (workload.direct.figures.ttft, workload.via.figures.ttft)
        if sides[0] is not None and sides[1] is not None:
            found[workload.name] = (sides[0].mean_s.value, sides[1].mean_s.value)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench selfcheck", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2, help="of each workload (%(default)s)")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="one of them; repeatable")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs must be at least 1")
    speeds = Speeds()
    plan = Plan(
        model=MODEL,
        second_model=SECOND_MODEL,
        workloads=given.workload or list(WORKLOADS),
        runs=given.runs,
        calls=10,
        concurrency=3,
        num_predict=2,
        background_calls=3,
        # The proxy looks twice a second, waits for a second of quiet, and reads the system prompt.
        settle_s=10.0,
        system=long_system(_SEED)[:_SYSTEM_CHARACTERS],
        seed=_SEED,
    )
    try:
        run = uvloop.run(measure(plan, speeds))
    except (ChildError, ServerError, OSError) as error:
        parser.exit(_EXIT_FAILED, f"scripts/bench selfcheck: {error}\n")
    except (KeyboardInterrupt, asyncio.CancelledError):
        # Everything that was started has been ended on the way here.
        parser.exit(_EXIT_INTERRUPTED)
    rows = rows_of(run, speeds, plan)
    sys.stdout.write(describe(rows, _means(run)))
    sys.stdout.writelines(f"note: {note}\n" for note in run.notes)
    if not all(row.passed for row in rows) or len(rows) < len(plan.workloads):
        parser.exit(_EXIT_FAILED)


if __name__ == "__main__":
    main()
