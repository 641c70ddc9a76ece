"""What a workload has to do with: the sides, the texts, and asking.

A side is called ``direct`` or ``via``. Where both reach the same Ollama, as they do when a proxy stands in front of the
one that is measured, what one side does to the model is there for the other one too; ``is_shared`` tells workloads
that they have to keep that apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from proxy.bench.first_token import MeasureError, measure
from proxy.bench.workloads.noting import (
    BACKGROUND,
    LEFT,
    PREPARATION,
    failed_sample,
    sample_of,
)
from proxy.bench.workloads.server import ServerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from proxy.bench.results import Sample
    from proxy.bench.workloads.plan import Plan
    from proxy.bench.workloads.prompts import Prompts
    from proxy.bench.workloads.server import Server

DIRECT: Final = "direct"
VIA: Final = "via"
CHAT: Final = "/api/chat"
V1_CHAT: Final = "/v1/chat/completions"
INTERACTIVE: Final = {"X-Priority": "interactive"}
BATCH: Final = {"X-Priority": "batch"}

_ONE_TOKEN: Final = {"num_predict": 1}
_MOST_FAILURES: Final = 5
_RENEWED_TRIES: Final = 4
# Beyond the client's keep_alive, before the next call.
_AFTER_EXPIRY_S: Final = 0.5
# The Date field of a reply counts in whole seconds.
_CLOCK_S: Final = 1.0


class WorkloadError(Exception):
    """A workload cannot go on; what it has measured stays. The message is one line."""


class SideLostError(Exception):
    """A side does not answer any more, so nothing can go on."""


@dataclass(slots=True)
class Side:
    """One side of one workload.

    Attributes:
        held_back: Of each call that can tell: whether its frames came in heaps.
        failures: Calls in a row that were not answered.
        load_s: The first token of a cold call, once it is known.
    """

    name: str
    server: Server
    samples: list[Sample] = field(default_factory=list)
    held_back: list[bool] = field(default_factory=list)
    failures: int = 0
    load_s: float | None = None


@dataclass(slots=True)
class Scene:
    """Everything that a workload needs. One for each workload of a run.

    Attributes:
        sides: Direct first; the other one where a proxy is measured.
        is_shared: Both reach the same Ollama.
        zero_s: When the whole run began, on the monotonic clock.
        over_at_s: When no further call is to begin, on the same clock; ``None``: no such limit.
        step: Told of each part of a run that is over, as a share of it.
        notes: For the reader of the results.
    """

    plan: Plan
    sides: Sequence[Side]
    prompts: Prompts
    is_shared: bool
    zero_s: float
    over_at_s: float | None = None
    step: Callable[[float], None] = lambda share: None
    notes: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """The time of this workload is up."""
        return self.over_at_s is not None and time.monotonic() >= self.over_at_s

    def in_turn(self, number: int) -> Sequence[Side]:
        """The sides in the order for this turn: the other way round in every other one."""
        return self.sides if number % 2 else tuple(reversed(self.sides))

    def note(self, text: str) -> None:
        """Tell the reader, once."""
        if text not in self.notes:
            self.notes.append(text)

    async def ask(
        self,
        side: Side,
        run: int,
        call: int,
        *,
        model: str = "",
        path: str = CHAT,
        excluded: str = "",
        options: Mapping[str, Any] | None = None,
        system: str = "",
        headers: Mapping[str, str] | None = None,
        on_first: Callable[[], None] | None = None,
        **more: Any,
    ) -> Sample:
        """Make one call and note it; one that fails is noted with its error.

        Args:
            side: Where.
            run, call: Which one it is; 0 for calls that do not count.
            model: Empty: that of the plan.
            path: ``CHAT`` or ``V1_CHAT``.
            excluded: Why it does not count.
            options: Beside ``num_predict``.
            system: A system prompt in front.
            headers: Of this call.
            on_first: Called when its first token is there.
            **more: Further members of the body.

        Raises:
            WorkloadError: Too many in a row have failed on this side.
            SideLostError: They could not even connect.
        """
        body = self._body(model or self.plan.model, path, options or {}, system, more)
        t_start_s = time.monotonic() - self.zero_s
        try:
            measured = await measure(
                side.server.session, f"{side.server.url}{path}", body, headers=headers, on_first=on_first
            )
        except MeasureError as error:
            sample = failed_sample(str(error), run=run, call=call, t_start_s=t_start_s, excluded=excluded)
            side.samples.append(sample)
            self._on_failure(side, error)
            return sample
        except asyncio.CancelledError:
            # Only calls that are there for others are ever cut off; a Ctrl-C meets the measured ones too.
            if excluded:
                reason = LEFT if excluded == BACKGROUND else excluded
                side.samples.append(failed_sample(None, run=run, call=0, t_start_s=t_start_s, excluded=reason))
            raise
        side.failures = 0
        if measured.is_held_back is not None and not excluded:
            side.held_back.append(measured.is_held_back)
        sample = sample_of(measured, run=run, call=call, t_start_s=t_start_s, excluded=excluded)
        side.samples.append(sample)
        return sample

    def _body(
        self, model: str, path: str, options: Mapping[str, Any], system: str, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": self.prompts()})
        body: dict[str, Any] = {"model": model, "messages": messages, "stream": True, **more}
        if path == CHAT:
            return {**body, "options": {"num_predict": self.plan.num_predict, **options}}
        return {**body, "max_tokens": self.plan.num_predict, "stream_options": {"include_usage": True}}

    def _on_failure(self, side: Side, error: MeasureError) -> None:
        side.failures += 1
        if side.failures < _MOST_FAILURES:
            return
        if error.status is None:
            raise SideLostError(f"{side.name} does not answer any more: {error}") from None
        raise WorkloadError(f"{_MOST_FAILURES} calls in a row have failed, the last one with: {error}") from None

    async def prepare(self, side: Side, run: int, **more: Any) -> Sample:
        """A call of one token that does not count: the model is loaded, with the options that this side gives it."""
        more["options"] = {**_ONE_TOKEN, **more.get("options", {})}
        return await self.ask(side, run, 0, excluded=more.pop("excluded", PREPARATION), **more)

    async def turn_to(self, side: Side) -> None:
        """Begin a turn of a side: where both are one Ollama, the other one is not to interfere.

        A proxy that was asked to unload leaves the model alone until the next request for it by way of it.
        """
        if not self.is_shared or side.name != DIRECT:
            return
        try:
            if not await self.sides[-1].server.unload(self.plan.model):
                self.note("the proxy does not let us unload the model, so it may load it in the middle of direct calls")
            # A runner that is about to go answers calls that come at once, and then is gone.
            await side.server.wait_gone(self.plan.model)
        except ServerError as error:
            raise WorkloadError(str(error)) from None

    async def unload(self, side: Side) -> None:
        """Have the model unloaded, wherever this side's calls go, and wait until it is gone.

        Where both sides reach the same Ollama, both are asked: the proxy first, which then knows that it is wanted and
        does not put the model back.

        Raises:
            WorkloadError: It was refused, or the model stays.
        """
        model = self.plan.model
        asked = [each for each in reversed(self.sides) if self.is_shared or each is side]
        try:
            taken = [await each.server.unload(model) for each in asked]
            if not any(taken):
                raise WorkloadError(f"{side.name} does not let us unload the model, which this workload needs")
            if not await side.server.wait_gone(model):
                raise WorkloadError(f"{model} is still loaded on {side.name} after it was unloaded")
        except ServerError as error:
            raise WorkloadError(str(error)) from None

    async def expire(self, side: Side, run: int) -> None:
        """Let the model's time run out, as a client's own short ``keep_alive`` has it, unless the side keeps it.

        Where both sides reach the same Ollama, the proxy may renew the time while the direct side waits for its end,
        which would not happen without the proxy: then it begins again.
        """
        for _ in range(_RENEWED_TRIES):
            await self.prepare(side, run, keep_alive=self.plan.keep_alive)
            await asyncio.sleep(self.plan.keep_alive_s + _AFTER_EXPIRY_S)
            try:
                loaded = await side.server.loaded(self.plan.model)
                if loaded is not None and loaded.left_s <= _CLOCK_S:
                    await side.server.wait_gone(self.plan.model)
                    return
            except ServerError as error:
                raise WorkloadError(str(error)) from None
            if loaded is None or not self.is_shared or side.name != DIRECT:
                return
        self.note("idle: the proxy renewed the model's time while the direct side waited for its end")

    @contextlib.asynccontextmanager
    async def background(self, side: Side, run: int, calls: int | None, factor: int) -> AsyncIterator[None]:
        """As many clients as the plan says, at batch priority, each with one call after the other.

        The context begins when all have asked and a first token is there; leaving it cuts them off.

        Args:
            side: Where.
            run: For the notes.
            calls: Of each client; ``None``: without end.
            factor: How many times more tokens than a measured call they ask for.
        """
        begun = asyncio.Event()
        options = {"num_predict": factor * self.plan.num_predict}

        async def client() -> None:
            done = 0
            while calls is None or done < calls:
                done += 1
                await self.ask(side, run, 0, excluded=BACKGROUND, options=options, headers=BATCH, on_first=begun.set)

        tasks = [asyncio.create_task(client()) for _ in range(self.plan.concurrency)]
        waiting = asyncio.create_task(begun.wait())
        try:
            # A client that fails ends this as well, and so does the last one of a load that is over.
            await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            for task in (waiting, *tasks):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, WorkloadError | SideLostError):
                raise error
