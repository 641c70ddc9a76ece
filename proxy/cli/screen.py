"""What `pilotlight demo` shows: progress while it runs, then a table. Colours only on a terminal."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from proxy.bench.demo import Row, Stage, example_calls, run, stage

_WIDTH = 100


async def show(environ: dict[str, str], keep: bool) -> None:
    """Run the demonstration from start to end.

    Args:
        environ: For the programs that are started; without settings of ours.
        keep: Stay up after the table until cancelled.

    Raises:
        DemoError: It could not be completed. Nothing is left running, by cancellation neither.
    """
    cancel_on(signal.SIGTERM, signal.SIGHUP)
    out = Console() if Console().is_terminal else Console(width=_WIDTH)
    notes = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="pilotlight-demo-") as folder, spinner(notes) as progress:
        step = progress.add_task("", total=None)

        def tell(what: str) -> None:
            progress.update(step, description=what)
            if not notes.is_terminal:
                notes.print(what, markup=False)

        async with stage(Path(folder), environ, tell) as scene:
            rows = await run(scene, tell)
            progress.stop()
            _print_table(out, rows, scene)
            if keep:
                lines = ["\nStill running; Ctrl-C ends it. Try:", *example_calls(scene)]
                out.print(*lines, sep="\n  ", markup=False, highlight=False, soft_wrap=True)
                await asyncio.Event().wait()


def cancel_on(*numbers: signal.Signals) -> None:
    """Have these signals cancel the task that runs now, as Ctrl-C would."""
    task = asyncio.current_task()
    for number in numbers:
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def spinner(notes: Console) -> Progress:
    """A line with what is being done and for how long; nothing where it is no terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal)


def _print_table(out: Console, rows: list[Row], scene: Stage) -> None:
    table = Table(title="First token on a simulated Ollama", title_justify="left", caption_justify="left")
    table.add_column("workload")
    for heading in ("direct", "proxied", "loads direct", "loads proxied"):
        table.add_column(heading, justify="right")
    for row in rows:
        loads = (str(row.direct_loads), str(row.proxied_loads))
        table.add_row(row.name, _milliseconds(row.direct_s), _milliseconds(row.proxied_s), *loads)
    table.caption = (
        "First token: mean over a workload's calls. Loads: of the model, as each simulated server counts them. The "
        f"proxy was ready, model loaded, {scene.ready_s:.1f} s after its start. Measured just now on this machine, "
        "on a simulation: not figures of Ollama."
    )
    out.print(table)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f} ms"
