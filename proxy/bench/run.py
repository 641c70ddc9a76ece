"""One run of ``pilotlight bench``: every workload in turn, on both sides, and what it comes to.

What has been measured is kept at every moment, so that a run that is stopped early has results too.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from proxy import __version__
from proxy.bench import machine, results
from proxy.bench.collector import without_collections
from proxy.bench.remaining import Remaining
from proxy.bench.statistics import side as side_of
from proxy.bench.statistics import workload as workload_of
from proxy.bench.targets import targets_of
from proxy.bench.workloads.kinds import WORKLOADS, Workload
from proxy.bench.workloads.noting import WARM_UP, count_loads
from proxy.bench.workloads.prompts import Prompts
from proxy.bench.workloads.scene import DIRECT, VIA, Scene, Side, SideLostError, WorkloadError
from proxy.bench.workloads.server import ServerError
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.bench.workloads.plan import Plan
    from proxy.bench.workloads.server import Server

# A side that buffers does so in nearly every call; a client that was not woken in time does not.
_HELD_BACK_SHARE: Final = 0.5
_LEAST_CALLS: Final = 3


@dataclass(frozen=True, slots=True)
class Step:
    """How far a run is.

    Attributes:
        what: The workload and its run, for people.
        share: Of the whole that is done, from 0 to 1.
        left_s: An estimate; ``None`` while there is none.
    """

    what: str
    share: float
    left_s: float | None


class Bench:
    """Measures. Call ``prepare``, then ``measure``; ``result`` may be called at any time after ``prepare``.

    Args:
        plan: What was asked for.
        direct: Entered.
        via: Entered; ``None``: one side only, and no ratio.
        tell: Is told each step.
        admin: Pilotlight's admin port, for its version; ``None``: not asked.
    """

    def __init__(
        self,
        plan: Plan,
        direct: Server,
        via: Server | None,
        tell: Callable[[Step], None],
        admin: Server | None = None,
    ) -> None:
        self._plan = plan
        self._servers = (direct,) if via is None else (direct, via)
        self._tell = tell
        self._admin = admin
        self._prompts = Prompts(plan.seed, plan.prompts)
        self._machine = machine.look()
        self._versions: list[str | None] = []
        self._model: results.ModelInfo | None = None
        self._is_shared = False
        self._scenes: list[tuple[Workload, Scene]] = []
        self._notes: list[str] = []
        expected = [WORKLOADS[name].expected(plan).times(len(self._servers)) for name in plan.workloads]
        self._left = Remaining(expected, plan.runs, plan.seconds)
        self._started_at = datetime.now(UTC)
        self._zero_s = time.monotonic()
        self.is_interrupted = False
        self.lost = ""

    def __repr__(self) -> str:
        return f"<Bench {self._plan.model} {len(self._scenes)} of {len(self._plan.workloads)} workloads>"

    async def prepare(self) -> None:
        """Make sure that everything that was named is there, before anything is measured.

        Raises:
            ServerError: It is not; nothing was sent that loads a model.
        """
        for server in self._servers:
            self._versions.append(await server.version())
            for model in filter(None, (self._plan.model, self._plan.second_model)):
                await server.describe(model)
        if self._admin is not None:
            text = await self._admin.fetch_text("/metrics")
            self._notes.append(f"the admin port says: {_build(text)}")

    async def measure(self) -> None:
        """Run every workload.

        On cancellation what was measured is kept, and the cancellation goes on. A side that does not answer any more
        ends the run, and ``lost`` says so.
        """
        try:
            for name in self._plan.workloads:
                await self._run(WORKLOADS[name])
        except SideLostError as error:
            self.lost = str(error)
            self._notes.append(f"the run ended early: {error}")
        except asyncio.CancelledError:
            self.is_interrupted = True
            raise

    async def _run(self, workload: Workload) -> None:
        began_s = time.monotonic()
        seconds = self._plan.seconds
        names = (DIRECT, VIA)
        sides = [Side(name, server) for name, server in zip(names, self._servers, strict=False)]
        scene = Scene(
            self._plan,
            sides,
            self._prompts,
            self._is_shared,
            self._zero_s,
            None if seconds is None else began_s + seconds,
            notes=self._notes,
        )
        self._scenes.append((workload, scene))
        try:
            self._tell(self._step(f"{workload.name}: warm-up"))
            await self._warm_up(scene)
            for run in range(1, self._plan.runs + 1):
                if run > 1 and scene.is_over:
                    scene.note(f"{workload.name}: ended after {run - 1} of {self._plan.runs} runs: its time was up")
                    break
                self._one_run(scene, workload, run)
                with without_collections():
                    await workload.run(scene, run)
        except WorkloadError as error:
            scene.note(f"{workload.name}: ended early: {error}")
        self._left.end()

    def _one_run(self, scene: Scene, workload: Workload, run: int) -> None:
        what = f"{workload.name}: run {run} of {self._plan.runs}"
        done = 0.0

        def step(share: float) -> None:
            nonlocal done
            done += share
            self._left.at(run - 1 + done)
            self._tell(self._step(what))

        scene.step = step
        self._left.at(run - 1)
        self._tell(self._step(what))

    async def _warm_up(self, scene: Scene) -> None:
        """Open connections, load the model, and see what can be seen once it is loaded."""
        for side in scene.sides:
            cold = await scene.prepare(side, 1, excluded=WARM_UP)
            warm = await scene.ask(side, 1, 0, excluded=WARM_UP)
            self._left.learn(cold.ttft_s, warm.total_s)
        if self._model is None:
            await self._look_at_model(scene)

    async def _look_at_model(self, scene: Scene) -> None:
        name = self._plan.model
        try:
            # The side that is judged has the last word.
            loaded = [await side.server.loaded(name) for side in scene.sides]
            rows = await self._servers[-1].installed()
        except ServerError as error:
            scene.note(f"what the model takes could not be seen: {error}")
            return
        row = next((row for row in rows if canonical(str(row["name"])) == canonical(name)), {})
        last = loaded[-1]
        self._model = results.ModelInfo(
            name=name,
            digest=row.get("digest"),
            size_bytes=row.get("size"),
            memory_bytes=last.size_bytes if last is not None else None,
            vram_bytes=last.vram_bytes if last is not None else None,
            context_length=last.context_length if last is not None else None,
        )
        first = loaded[0]
        scene.is_shared = self._is_shared = (
            len(loaded) > 1 and first is not None and last is not None and first.expires_at == last.expires_at
        )
        if self._is_shared:
            scene.note(
                "both sides reach the same Ollama, so each has its calls in blocks, with one that does not count before"
                " each block"
            )

    def _step(self, what: str) -> Step:
        return Step(what, self._left.share, self._left.left_s(time.monotonic() - self._zero_s))

    # -- what it comes to

    def result(self) -> results.Run:
        """Everything that was measured until now."""
        plan = self._plan
        versions = [*self._versions, None, None]
        direct = self._servers[0]
        via = self._servers[1] if len(self._servers) > 1 else None
        workloads = self._workloads()
        return results.Run(
            started_at=self._started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            duration_s=time.monotonic() - self._zero_s,
            interrupted=self.is_interrupted,
            pilotlight_version=__version__,
            machine=self._machine,
            direct=results.Server(url=direct.url, version=versions[0]),
            via=results.Server(url=via.url, version=versions[1]) if via is not None else None,
            model=self._model or results.ModelInfo(name=plan.model),
            settings=settings_of(plan),
            workloads=workloads,
            models=None,
            notes=(*self._notes, *self._held_back()),
        )

    def _workloads(self) -> tuple[results.Workload, ...]:
        found: dict[str, results.Workload] = {}
        for kind, scene in self._scenes:
            if not any(sample.call for side in scene.sides for sample in side.samples):
                continue
            sides = [side_of(side.samples, count_loads(side.samples)) for side in scene.sides]
            if len(sides) == 1:
                sides.append(side_of((), None))
            judged = sides[len(scene.sides) - 1]
            targets = targets_of(kind.name, judged, self._model, found)
            found[kind.name] = workload_of(kind.name, kind.description, kind.excluded, sides[0], sides[1], targets)
        return tuple(found.values())

    def _held_back(self) -> Sequence[str]:
        told = []
        for name in (DIRECT, VIA):
            sides = [side for _, scene in self._scenes for side in scene.sides if side.name == name]
            calls = [held for side in sides for held in side.held_back]
            if len(calls) >= _LEAST_CALLS and sum(calls) > _HELD_BACK_SHARE * len(calls):
                told.append(
                    f"{name}: the first token came with the last in {sum(calls)} of {len(calls)} calls: something in "
                    "between buffers"
                )
        return told


def settings_of(plan: Plan) -> results.Settings:
    """The plan, as the results have it."""
    return results.Settings(
        workloads=tuple(plan.workloads),
        runs=plan.runs,
        seconds=plan.seconds,
        concurrency=plan.concurrency,
        seed=plan.seed,
        prompts=plan.prompts_name,
        num_predict=plan.num_predict,
        header_names=tuple(plan.header_names),
    )


def _build(page: str) -> str:
    """What a metrics page says about the version, as it is written there."""
    lines = (line for line in page.splitlines() if line.startswith("pilotlight_build_info{"))
    return next((line.rpartition(" ")[0] for line in lines), "nothing about a version of Pilotlight")
