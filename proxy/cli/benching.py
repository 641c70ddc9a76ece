"""What `pilotlight bench` does with its options: measures, tells how far it is, prints, writes, picks the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from proxy.batch.pace import spoken
from proxy.bench import files
from proxy.bench.models import Comparison
from proxy.bench.results import ResultsError
from proxy.bench.run import Bench, Step
from proxy.bench.targets import failures
from proxy.bench.workloads.server import Server, ServerError, UnknownModelError
from proxy.cli.bench_table import print_run
from proxy.cli.exits import FAILED, INTERRUPTED, OK, UNUSABLE
from proxy.cli.screen import cancel_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from proxy.bench.results import Run
    from proxy.bench.targets import FailOn
    from proxy.bench.workloads.plan import Plan


@dataclass(frozen=True, slots=True)
class Given:
    """The options.

    Attributes:
        via: ``None``: the direct side by itself.
        admin: Pilotlight's admin port; ``None``: not asked.
        headers: To both sides.
        key: To the proxy only; empty: none.
        models: To be compared; empty: workloads are measured.
    """

    plan: Plan
    direct: str
    via: str | None
    admin: str | None
    headers: Mapping[str, str]
    key: str
    models: Sequence[str]
    target_ms: float
    out: Path
    fail_on: frozenset[FailOn]


def run(given: Given) -> int:
    """Do it; the exit code, as the command's help has it."""
    try:
        files.prepare(given.out)
    except ResultsError as error:
        return _say(f"--out: {error}", UNUSABLE)
    with _Screen() as screen:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                measured = runner.run(_measure(given, screen))
        except UnknownModelError as error:
            screen.stop()
            return _say(str(error), UNUSABLE)
        except ServerError as error:
            screen.stop()
            return _say(str(error), FAILED)
        except (KeyboardInterrupt, asyncio.CancelledError):
            # Before anything was measured.
            return INTERRUPTED
    return finish(measured.result(), measured.lost, given)


async def _measure(given: Given, screen: _Screen) -> Bench | Comparison:
    cancel_on(signal.SIGINT, signal.SIGTERM)
    async with contextlib.AsyncExitStack() as stack:

        async def enter(flag: str, url: str, **more: str) -> Server:
            return await stack.enter_async_context(Server(flag, url, {**given.headers, **more}))

        direct = await enter("--direct", given.direct)
        measured: Bench | Comparison
        if given.models:
            measured = Comparison(given.plan, given.models, direct, given.target_ms, screen.tell)
        else:
            key = {"X-API-Key": given.key} if given.key else {}
            via = await enter("--via", given.via, **key) if given.via is not None else None
            admin = await enter("--admin", given.admin, **key) if given.admin is not None else None
            measured = Bench(given.plan, direct, via, screen.tell, admin)
        await measured.prepare()
        # What was measured until then is kept; the caller says so.
        with contextlib.suppress(asyncio.CancelledError):
            await measured.measure()
    return measured


def finish(result: Run, lost: str, given: Given) -> int:
    """Print and write what was measured; the exit code.

    Args:
        result: May hold nothing.
        lost: Why it ended early; empty: it did not, or was stopped by a signal.
        given: The options.
    """
    if not _has_samples(result):
        _say(lost or "nothing was measured", FAILED)
        return INTERRUPTED if result.interrupted else FAILED
    print_run(result)
    code = _write(result, given.out)
    if lost:
        code = _say(lost, FAILED)
    for line in failures(result, given.fail_on):
        code = _say(line, FAILED)
    if result.interrupted:
        return _say("stopped early; the results hold what was measured until then", INTERRUPTED)
    return code


def _has_samples(result: Run) -> bool:
    return bool(result.workloads) or (result.models is not None and any(each.samples for each in result.models.models))


def _write(result: Run, folder: Path) -> int:
    """Where the folder takes nothing any more, a temporary one has to do: what took so long must not be lost."""
    code = OK
    try:
        written = files.write(result, folder)
    except ResultsError as error:
        code = _say(f"--out: {error}", FAILED)
        try:
            written = files.write(result, Path(tempfile.mkdtemp(prefix="pilotlight-bench-")))
        except (ResultsError, OSError) as again:
            return _say(f"nor elsewhere: {again}; the table above is all there is", FAILED)
    for path in written:
        typer.echo(path)
    return code


def _say(text: str, code: int) -> int:
    typer.echo(f"pilotlight bench: {text}", err=True)
    return code


class _Screen:
    """How far it is, on standard error: a bar on a terminal, else a line for each run."""

    def __init__(self) -> None:
        self._notes = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._notes,
            transient=True,
            disable=not self._notes.is_terminal,
        )
        self._task = self._progress.add_task("looking at the servers", total=1.0)
        self._said = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away; idempotent."""
        self._progress.stop()

    def tell(self, step: Step) -> None:
        left = f", about {spoken(step.left_s)} left" if step.left_s is not None else ""
        self._progress.update(self._task, completed=step.share, description=f"{step.what}{left}")
        if not self._notes.is_terminal and step.what != self._said:
            self._said = step.what
            typer.echo(f"{step.what}{left}", err=True)
