"""A batch from a file into a file, that can be gone on with: what is said to be done is on the disk."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from proxy.batch.run import ChangedInput, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.batch.job import Job
    from proxy.batch.journal import Output
    from proxy.batch.record import Result
    from proxy.batch.source import Source

# Results of so long are written together, because having them on the disk is what takes the time.
_GROUP_S: Final = 0.05
_NAMED: Final = 5


@dataclass(slots=True)
class Tally:
    """How far a batch is.

    Attributes:
        before: Lines that had their result from an earlier run.
        done: Lines that got theirs in this run and have it on the disk.
        errors: How many of all those with an error.
        named: Numbers of the first few of them in this run.
        repeats: Attempts beyond each line's first.
        prompt_tokens, tokens: Read and written, as far as Ollama told.
        trouble: Why nothing goes on at the moment.
    """

    before: int = 0
    done: int = 0
    errors: int = 0
    named: tuple[int, ...] = ()
    repeats: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    trouble: str = ""

    def on_done(self, results: Sequence[Result]) -> None:
        self.done += len(results)
        for result in results:
            if result.error is not None:
                self.errors += 1
                if len(self.named) < _NAMED:
                    self.named += (result.line,)
            else:
                self.prompt_tokens += _count(result.fields.get("prompt_eval_count"))
                self.tokens += _count(result.fields.get("eval_count"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


async def run_file(
    source: Source, output: Output, job: Job, tell: Callable[[Tally], None] = lambda tally: None
) -> Tally:
    """Do every line of an input that has no result yet.

    Args:
        source: The input.
        output: Takes the results; knows those of earlier runs. Not closed here.
        job: What is asked. Whether the order is kept is also the output's, where that is a file: there the results
            are written as they come, so that none is lost with one that is slow, and brought into order at the end.
        tell: Told how far it is, after each group of results that is on the disk, and of trouble.

    Returns:
        How it came out.

    Raises:
        BatchStopped: The server cannot be reached or does not take the job.
        ChangedInput: A line is not the one that has the result of its number, or the input has become shorter.
        InputUnusable: It cannot be read on.
        OutputFailed: It cannot be written on.
        asyncio.CancelledError: What was answered up to then has been written.
    """
    done = output.done
    tally = Tally(before=done.count, errors=done.errors)

    def has_result(number: int, digest: str) -> bool:
        if not done.knows(number):
            return False
        if not done.is_of(number, digest):
            raise ChangedInput(
                f"line {number} was answered when it, or the model, system or options for all, was another"
                f"{'; --retry-errors takes its error back' if done.has_error(number) else ''}"
            )
        return True

    def on_trouble(trouble: str) -> None:
        tally.trouble = trouble
        tell(tally)

    if output.reorders:
        job = replace(job, ordered=False)
    async with Run(source.lines(), job, has_result, on_trouble) as run:
        try:
            while results := await run.take():
                began = time.monotonic()
                await _write(output, results, tally)
                tally.repeats = run.repeats
                tell(tally)
                await asyncio.sleep(began + _GROUP_S - time.monotonic())
        finally:
            # After Ctrl-C, too: answers are dear.
            await run.aclose()
            if left := run.take_now():
                output.append([result.encode() for result in left])
                tally.on_done(left)
            tally.repeats = run.repeats
            tell(tally)
    if run.left_out < done.count:
        missing = done.count - run.left_out
        raise ChangedInput(f"has become shorter, {missing:,} of the lines that were answered are not in it")
    await _whole(output.finish)
    return tally


async def _write(output: Output, results: list[Result], tally: Tally) -> None:
    """Have results on the disk, and only then count them."""
    records = [result.encode() for result in results]
    try:
        await _whole(lambda: output.append(records))
    except asyncio.CancelledError:
        tally.on_done(results)
        raise
    tally.on_done(results)


async def _whole(do: Callable[[], None]) -> None:
    """Do something in a thread to its end, however often this is cancelled: nobody else may touch the file before."""
    doing = asyncio.ensure_future(asyncio.to_thread(do))
    was_cancelled = False
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError:
            was_cancelled = True
    doing.result()
    if was_cancelled:
        raise asyncio.CancelledError
