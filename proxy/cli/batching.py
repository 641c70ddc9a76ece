"""What `pilotlight batch` does: flags into a job, signals, progress, the summary, and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import typer
import uvloop

from proxy.batch.file import Tally, run_file
from proxy.batch.job import Job
from proxy.batch.journal import Journal, Output, OutputFailed, OutputUnusable, Pipe, opened
from proxy.batch.run import BatchStopped, ChangedInput
from proxy.batch.source import InputUnusable, Source
from proxy.cli.exits import FAILED, INTERRUPTED, OK, UNUSABLE
from proxy.cli.options import read_header
from proxy.cli.progress import Progress


@dataclass(frozen=True, slots=True)
class Given:
    """The flags.

    Attributes:
        lines, out: ``None`` for the standard ones.
        job: Fields of the job that are taken as they are.
    """

    lines: Path | None
    out: Path | None
    headers: tuple[str, ...]
    options: str
    retry_errors: bool
    key: str
    job: dict[str, Any]


def run(given: Given) -> int:
    """Run it; the exit code: 0 all done, 1 errors or stopped, 2 it could not begin, 130 interrupted."""
    with contextlib.ExitStack() as stack:
        try:
            job = _job(given)
            source = _source(given, stack)
            output = _output(given, job, stack)
        except ValueError as error:
            return _say(f"--{error}", UNUSABLE)
        except (InputUnusable, OutputUnusable) as error:
            return _say(str(error), UNUSABLE)
        except KeyboardInterrupt:
            return INTERRUPTED
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(source, output, job, given))


def _job(given: Given) -> Job:
    try:
        headers = tuple(map(read_header, given.headers))
    except ValueError as error:
        raise ValueError(f"header: {error}") from None
    try:
        options = orjson.loads(given.options)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"options: not JSON: {error}") from None
    if not isinstance(options, dict):
        raise ValueError("options: must be a JSON object")
    try:
        return Job(**given.job, options=options, headers=headers, key=given.key)
    except ValueError as error:
        # Flags are spelt with hyphens.
        name, colon, rest = str(error).partition(":")
        name = {"key": "header or PILOTLIGHT_KEY", "headers": "header"}.get(name, name.replace("_", "-"))
        raise ValueError(f"{name}{colon}{rest}") from None


def _source(given: Given, stack: contextlib.ExitStack) -> Source:
    if given.lines is None:
        return Source(sys.stdin.fileno(), "standard input")
    try:
        descriptor = os.open(given.lines, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        # A folder can be opened, and not read.
        os.read(descriptor, 0)
        if given.out is not None and given.out.exists() and os.path.samestat(os.fstat(descriptor), given.out.stat()):
            raise InputUnusable(f"{given.lines}: is --out, too; the results need a file of their own")
    except OSError as error:
        raise InputUnusable(f"{given.lines}: {error.strerror}") from None
    return Source(descriptor, str(given.lines))


def _output(given: Given, job: Job, stack: contextlib.ExitStack) -> Output:
    if given.out is None:
        return Pipe(sys.stdout.fileno(), "standard output")
    output = opened(given.out, again=given.retry_errors, ordered=job.ordered)
    stack.callback(output.close)
    if isinstance(output, Journal) and output.cut_bytes:
        _say(f"{given.out}: the last result was torn by a crash and is done again", OK)
    return output


async def _run(source: Source, output: Output, job: Job, given: Given) -> int:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    began = time.monotonic()
    # Where results go to the terminal, a bar would stand between them.
    with Progress(output.done.count, may_draw=given.out is not None or not sys.stdout.isatty()) as progress:
        counting = asyncio.create_task(_count(source, progress))
        try:
            tally = await run_file(source, output, job, progress.on_tally)
            problem = ""
        except (BatchStopped, InputUnusable, OutputFailed) as error:
            tally, problem = progress.tally, str(error)
        except ChangedInput as error:
            progress.stop()
            return _say(f"{given.lines or 'standard input'}: {error}; give another --out than {given.out}", UNUSABLE)
        except asyncio.CancelledError:
            progress.stop()
            _sum_up(progress.tally, given, time.monotonic() - began)
            return _say(f"interrupted{_to_go_on(given, progress.tally)}", INTERRUPTED)
        finally:
            counting.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await counting
    if tally.done or not problem:
        _sum_up(tally, given, time.monotonic() - began)
    if problem:
        return _say(f"{problem}{_to_go_on(given, tally)}", FAILED)
    return FAILED if tally.errors else OK


async def _count(source: Source, progress: Progress) -> None:
    """How many lines there are, found out beside the work."""
    if source.is_file:
        progress.on_total(await asyncio.to_thread(source.count))


def _to_go_on(given: Given, tally: Tally) -> str:
    if given.out is None or not given.out.is_file() or not tally.before + tally.done:
        return ""
    return "; what is done is kept, the same command goes on"


def _sum_up(tally: Tally, given: Given, elapsed_s: float) -> None:
    rate = tally.done / elapsed_s if elapsed_s else 0.0
    parts = [f"{tally.done:,} {'line' if tally.done == 1 else 'lines'} done in {elapsed_s:,.1f} s, {rate:,.1f} lines/s"]
    if tally.before:
        parts.append(f"{tally.before:,} were done before")
    if tally.prompt_tokens or tally.tokens:
        parts.append(f"{tally.prompt_tokens:,} tokens read, {tally.tokens:,} written")
    if tally.repeats:
        parts.append(f"{tally.repeats:,} repetitions")
    _say("; ".join(parts), OK)
    if tally.errors:
        named = ", ".join(map(str, sorted(tally.named)))
        more = ", ..." if len(tally.named) < tally.errors and named else ""
        where = f" ({'line' if tally.errors == 1 else 'lines'} {named}{more})" if named else ""
        again = "; --retry-errors does them again" if given.out is not None else ""
        _say(f"{tally.errors:,} with an error{where}{again}", OK)


def _say(text: str, code: int) -> int:
    typer.echo(f"pilotlight batch: {text}", err=True)
    return code
