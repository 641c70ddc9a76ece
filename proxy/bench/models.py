"""``pilotlight bench --models``: models beside each other on one server, cold and warm, and which one to take.

In each run a model is unloaded, then called cold, called warm, and has to read one long prompt, for the speed of
reading. The models take turns, the other way round in every other run.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from proxy import __version__
from proxy.bench import machine, results
from proxy.bench.collector import without_collections
from proxy.bench.remaining import Expected, Remaining
from proxy.bench.run import Step, settings_of
from proxy.bench.statistics import PROMPT_SPEED
from proxy.bench.statistics import model as model_of
from proxy.bench.targets import in_vram
from proxy.bench.workloads.prompts import Prompts, long_system
from proxy.bench.workloads.scene import DIRECT, Scene, Side, SideLostError, WorkloadError
from proxy.bench.workloads.server import ServerError
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.bench.results import ModelResult
    from proxy.bench.workloads.plan import Plan
    from proxy.bench.workloads.server import Server

TARGET_MS: Final = 420.0
_GIB: Final = 2**30


class Comparison:
    """Measures models. Call ``prepare``, then ``measure``; ``result`` may be called at any time after ``prepare``.

    Args:
        plan: Its ``calls`` are the warm ones of each run; its ``model`` is not looked at.
        models: Names.
        server: Entered.
        target_ms: The warm median first token that is wanted.
        tell: Is told each step.
    """

    def __init__(
        self, plan: Plan, models: Sequence[str], server: Server, target_ms: float, tell: Callable[[Step], None]
    ) -> None:
        self._plan = plan
        self._names = list(dict.fromkeys(models))
        self._server = server
        self._target_ms = target_ms
        self._tell = tell
        self._machine = machine.look()
        self._version: str | None = None
        self._installed: Sequence[Mapping[str, Any]] = ()
        self._notes: list[str] = []
        self._started_at = datetime.now(UTC)
        self._zero_s = time.monotonic()
        prompts = Prompts(plan.seed, plan.prompts)
        self._scenes = {
            name: Scene(
                dataclasses.replace(plan, model=name),
                [Side(DIRECT, server)],
                prompts,
                is_shared=False,
                zero_s=self._zero_s,
                notes=self._notes,
            )
            for name in self._names
        }
        self._seen: dict[str, results.ModelInfo] = {}
        self._errors: dict[str, str] = {}
        # The two calls beside the warm ones: the cold one, and the long prompt.
        self._left = Remaining([Expected(plan.calls + 2, 1).times(len(self._names))], plan.runs, plan.seconds)
        self.is_interrupted = False
        self.lost = ""

    def __repr__(self) -> str:
        return f"<Comparison of {len(self._names)} models>"

    async def prepare(self) -> None:
        """Make sure that all models are there, before anything is measured.

        Raises:
            ServerError: One is not, or the server is not.
        """
        self._version = await self._server.version()
        for name in self._names:
            await self._server.describe(name)
        self._installed = await self._server.installed()
        for name in self._names:
            row = self._row(name)
            self._seen[name] = results.ModelInfo(name=name, digest=row.get("digest"), size_bytes=row.get("size"))

    def _row(self, name: str) -> Mapping[str, Any]:
        return next((row for row in self._installed if canonical(str(row["name"])) == canonical(name)), {})

    async def measure(self) -> None:
        """Run every model in turn. On cancellation what was measured is kept, and the cancellation goes on."""
        began_s = time.monotonic()
        try:
            for run in range(1, self._plan.runs + 1):
                if run > 1 and self._plan.seconds is not None and time.monotonic() - began_s >= self._plan.seconds:
                    self._notes.append(f"ended after {run - 1} of {self._plan.runs} runs: its time was up")
                    return
                for turn, name in enumerate(self._names if run % 2 else reversed(self._names)):
                    self._left.at(run - 1 + turn / len(self._names))
                    what = f"{name}: run {run} of {self._plan.runs}"
                    self._tell(Step(what, self._left.share, self._left.left_s(time.monotonic() - self._zero_s)))
                    if name not in self._errors:
                        await self._run(name, run)
        except SideLostError as error:
            self.lost = str(error)
            self._notes.append(f"the comparison ended early: {error}")
        except asyncio.CancelledError:
            self.is_interrupted = True
            raise

    async def _run(self, name: str, run: int) -> None:
        scene = self._scenes[name]
        side = scene.sides[0]
        try:
            await scene.unload(side)
            with without_collections():
                cold = await scene.ask(side, run, 1)
                await self._look(name, side)
                for call in range(2, self._plan.calls + 2):
                    warm = await scene.ask(side, run, call)
                    self._left.learn(cold.ttft_s, warm.total_s)
                await scene.ask(
                    side,
                    run,
                    0,
                    excluded=PROMPT_SPEED,
                    system=long_system(self._plan.seed + run),
                    options={"num_predict": 1},
                )
        except (WorkloadError, ServerError) as error:
            self._errors[name] = str(error)

    async def _look(self, name: str, side: Side) -> None:
        loaded = await side.server.loaded(name)
        if loaded is not None:
            self._seen[name] = dataclasses.replace(
                self._seen[name],
                memory_bytes=loaded.size_bytes,
                vram_bytes=loaded.vram_bytes,
                context_length=loaded.context_length,
            )

    def result(self) -> results.Run:
        """Everything that was measured until now."""
        models = tuple(self._model(name) for name in self._names)
        measured = {canonical(name) for name in self._names}
        others = [row for row in self._installed if canonical(str(row["name"])) not in measured]
        name, reason = recommend(models, self._target_ms, others)
        return results.Run(
            started_at=self._started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            duration_s=time.monotonic() - self._zero_s,
            interrupted=self.is_interrupted,
            pilotlight_version=__version__,
            machine=self._machine,
            direct=results.Server(url=self._server.url, version=self._version),
            via=None,
            model=None,
            settings=settings_of(self._plan),
            workloads=(),
            models=results.ModelComparison(
                goal=f"a warm first token (p50) below {self._target_ms:g} ms",
                models=models,
                recommended=name,
                reason=reason,
            ),
            notes=tuple(self._notes),
        )

    def _model(self, name: str) -> ModelResult:
        samples = self._scenes[name].sides[0].samples
        info = self._seen.get(name) or results.ModelInfo(name=name)
        found = model_of(info, samples, error=self._errors.get(name))
        warm_ms = found.ttft_warm.p50_s.value * 1e3 if found.ttft_warm is not None else None
        targets = (results.target("warm first token (p50)", self._target_ms, "ms", warm_ms), in_vram(info))
        return dataclasses.replace(found, targets=targets)


def recommend(
    models: Sequence[ModelResult], target_ms: float, others: Sequence[Mapping[str, Any]]
) -> tuple[str | None, str]:
    """Which model to take: of those that meet the target the largest, because it knows most.

    Args:
        models: What was measured.
        target_ms: The warm median first token that is wanted.
        others: Rows of ``/api/tags`` that were not measured.

    Returns:
        Its name, or ``None`` where none meets the target; and a sentence that says why, or what to try instead.
    """
    warm = [(each, each.ttft_warm.p50_s.value * 1e3) for each in models if each.ttft_warm is not None]
    if not warm:
        return None, "nothing was measured warm"
    meeting = [(each, ms) for each, ms in warm if ms < target_ms]
    if meeting:
        best, ms = max(meeting, key=lambda found: (found[0].model.size_bytes or 0, -found[1]))
        of = "the only one" if len(meeting) == 1 else f"the largest of {len(meeting)}"
        return best.model.name, f"{of} with a warm first token (p50) below {target_ms:g} ms: {ms:.0f} ms"
    nearest, ms = min(warm, key=lambda found: found[1])
    told = f"none is below {target_ms:g} ms; the nearest is {nearest.model.name} with {ms:.0f} ms"
    return None, f"{told}. {_smaller(nearest.model.size_bytes, target_ms / ms, others)}"


def _smaller(size_bytes: int | None, share: float, others: Sequence[Mapping[str, Any]]) -> str:
    """What to try instead of a model of which this share would do: its times are taken to grow with its size."""
    if not size_bytes:
        return "Try a smaller model, or a smaller quantization."
    limit_bytes = size_bytes * share
    fitting = [row for row in others if isinstance(row.get("size"), int) and 0 < row["size"] <= limit_bytes]
    wanted = f"a model of at most about {limit_bytes / _GIB:.2g} GiB, or a smaller quantization"
    texts = [row for row in fitting if not _is_other(row)]
    if not texts:
        return f"Try {wanted}: expected from its size, not measured"
    best = max(texts, key=lambda row: int(row["size"]))
    return f"Try {best['name']}, which is installed and small enough to be expected to meet it; it was not measured"


def _is_other(row: Mapping[str, Any]) -> bool:
    """Whether a model runs elsewhere, or by all signs only embeds; ``/api/tags`` has no capabilities."""
    details = row.get("details") or {}
    told = f"{row['name']} {details.get('family', '')}".casefold()
    return bool(row.get("remote_host")) or "embed" in told or "bert" in told
