"""Warming: one token, and the configured prompts read into the prompt cache.

A model that was just loaded is slow once more for its first token, and a long system prompt is slow whenever the cache
does not hold it (120 s against 1 s on two CPU cores). One slot holds one prefix, so other requests push a warmed prompt
out; it is warmed again when the model has been quiet for a while.

A request that arrives meanwhile goes first: the warming is given up and tried again later. What of the prompt was read
by then stays in the cache.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from proxy.errors import PilotlightError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.residency.runner import Runner
    from proxy.settings import WarmEntry
    from proxy.upstream.ollama import Ollama

# Any text will do: what counts is that it comes after the system prompt, whose tokens then are the common prefix.
_ANY_TEXT: Final = "Hi"
# A runner reads 0 as "no limit" (v0.24.0, runner/ollamarunner/runner.go: ``seq.numPredict > 0 && ...``).
_ONE_TOKEN: Final = 1


@dataclass(frozen=True, slots=True)
class Warmed:
    """How a warming went.

    Attributes:
        token_s: Seconds that the warm-up token took; ``None`` where none was asked for.
        prompts: Prompts that were read.
        prompts_s: Seconds that they took.
        error: Why it ended early; "" where it did not.
    """

    token_s: float | None = None
    prompts: int = 0
    prompts_s: float = 0.0
    error: str = ""


def token_body(runner: Runner) -> dict[str, Any]:
    """The request for one token, with the options and ``keep_alive`` of every other request for the model."""
    return _with_options(runner, {"messages": [{"role": "user", "content": _ANY_TEXT}]})


def prompt_body(runner: Runner, entry: WarmEntry) -> dict[str, Any]:
    """The request that has one prompt read."""
    messages = [{"role": "user", "content": _ANY_TEXT}]
    if entry.system:
        messages.insert(0, {"role": "system", "content": entry.system})
    body: dict[str, Any] = {"messages": messages}
    if entry.tools:
        body["tools"] = entry.tools
    return _with_options(runner, body)


def _with_options(runner: Runner, body: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "model": runner.name,
        **body,
        "options": {**(runner.current or {}), "num_predict": _ONE_TOKEN},
    }
    if runner.kept is not None:
        whole["keep_alive"] = runner.kept.keep_alive
    return whole


class Warmer:
    """Warms one model at a time, in a task that it owns.

    Args:
        ollama: Where.
        timeout_s: The longest time for one prompt.
        on_done: Called with the result of a warming that was not given up.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        ollama: Ollama,
        *,
        timeout_s: float,
        on_done: Callable[[Runner, Warmed], None],
        clock: Callable[[], float],
    ) -> None:
        self._ollama = ollama
        self._timeout_s = timeout_s
        self._on_done = on_done
        self._clock = clock
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Warmer {self._runner.name if self._runner is not None else 'idle'}>"

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self, runner: Runner) -> None:
        """Begin; does nothing while another warming is under way."""
        if not self.is_busy:
            self._runner = runner
            self._task = asyncio.create_task(self._warm(runner), name=f"warm {runner.name}")

    def give_way(self, runner: Runner) -> bool:
        """A request for this model goes first. Returns whether a warming was given up for it."""
        if self._task is None or self._runner is not runner:
            return False
        self._task.cancel()
        return True

    async def join(self) -> None:
        """Wait for the warming under way."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _warm(self, runner: Runner) -> None:
        first = runner.warmed_at < runner.loaded_at
        try:
            warmed = await self._run(runner, with_token=first)
        except asyncio.CancelledError:
            # Not before it has been quiet again, or two would keep cancelling each other.
            runner.warmed_at = runner.loaded_at
            raise
        finally:
            self._runner = None
        runner.warmed_at = self._clock()
        self._on_done(runner, warmed)

    async def _run(self, runner: Runner, *, with_token: bool) -> Warmed:
        token_s: float | None = None
        read = 0
        started = middle = self._clock()
        facts, kept = runner.facts, runner.kept
        try:
            if with_token:
                error = await self._one_token(runner)
                middle = self._clock()
                if error:
                    return Warmed(error=error)
                token_s = middle - started
            if facts is not None and facts.embedding_only:
                return Warmed(token_s)
            for entry in kept.warm if kept is not None else ():
                if not runner.confirmed:
                    # It was evicted meanwhile, and asking for more would load it again.
                    return Warmed(token_s, read, self._clock() - middle)
                answer = await self._ollama.chat_once(prompt_body(runner, entry), timeout_s=self._timeout_s)
                if answer.error:
                    return Warmed(token_s, read, self._clock() - middle, answer.error)
                read += 1
        except PilotlightError as error:
            return Warmed(token_s, read, self._clock() - middle, error.message)
        return Warmed(token_s, read, self._clock() - middle)

    async def _one_token(self, runner: Runner) -> str:
        if runner.facts is not None and runner.facts.embedding_only:
            body: dict[str, Any] = {"model": runner.name, "input": _ANY_TEXT, "options": dict(runner.current or {})}
            if runner.kept is not None:
                body["keep_alive"] = runner.kept.keep_alive
            return (await self._ollama.embed_once(body, timeout_s=self._timeout_s)).error
        return (await self._ollama.chat_once(token_body(runner), timeout_s=self._timeout_s)).error
