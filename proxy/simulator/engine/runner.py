"""A loaded model: its slots, its prompt cache, and generating.

Source: Ollama v0.24.0 ``llm/server.go`` (``Completion``), ``runner/llamarunner/runner.go`` and ``cache.go``,
``runner/common/stop.go``.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.simulator.engine.faults import (
    UNEXPECTED_EOF,
    CleanEnd,
    CutConnection,
    Fault,
    Gate,
    ServerCrash,
)
from proxy.simulator.engine.schemas import is_known_schema
from proxy.simulator.engine.texts import Ask, embedding, reply_tokens
from proxy.simulator.engine.weights import Tokenizer, Weights
from proxy.simulator.golang.clock import NANOSECONDS, go_quote
from proxy.simulator.golang.jsonin import GoError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from proxy.simulator.engine.model import Model
    from proxy.simulator.engine.options import Options, RunnerOptions

TOO_LONG: Final = "the input length exceeds the context length"


class StatusError(GoError):
    """``api.StatusError``: a message with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Pace:
    """How fast things go: every duration is divided by ``speed``, loads by ``load_scale`` as well."""

    speed: float = 1.0
    load_scale: float = 1.0

    async def spend(self, seconds: float) -> float:
        """Let time pass; returns the seconds that passed."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        await asyncio.sleep(seconds / self.speed if math.isfinite(self.speed) else 0)
        return loop.time() - begin


@dataclass(slots=True)
class Piece:
    """What the runner reports: text, or the final record."""

    content: str = ""
    logprobs: list[dict[str, object]] = field(default_factory=list)
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int = 0
    prompt_eval_ns: int = 0
    eval_count: int = 0
    eval_ns: int = 0


@dataclass(slots=True)
class Completion:
    """What is asked of a runner."""

    ask: Ask
    options: Options
    form: bytes | None = None
    shift: bool = True
    truncate: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    fault: Fault | None = None


@dataclass(slots=True)
class Slot:
    """One place to run, with the tokens that its cache holds."""

    cached: list[int] = field(default_factory=list)
    busy: bool = False


class Runner:
    """Weights in memory under certain options."""

    def __init__(
        self, model: Model, weights: Weights, options: RunnerOptions, parallel: int, pace: Pace, gate: Gate
    ) -> None:
        self.model = model
        self.weights = weights
        self.options = options
        self.context_length = min(options.num_ctx, weights.context_length)
        self.slots = [Slot() for _ in range(parallel)]
        self.size_bytes = weights.memory_bytes(self.context_length * parallel)
        self.vram_bytes = 0
        self.users = 0
        self.keep_alive_ns = 0
        self.expires_ns = 0
        self.expiry: asyncio.TimerHandle | None = None
        self.evaluated_tokens = 0
        self.tokenizer = Tokenizer(weights)
        self.is_dead = False
        self._places = asyncio.Semaphore(parallel)
        self._pace = pace
        self._gate = gate

    def __repr__(self) -> str:
        return f"<Runner {self.model.short_name} users={self.users} num_ctx={self.context_length}>"

    def check_form(self, form: bytes | None) -> str:
        """The form of the reply, "" for free text.

        Raises:
            GoError: neither "json" nor an object.
        """
        text = (form or b"").decode("utf-8", "replace")
        if text in ("", "null", '""'):
            return ""
        if text != '"json"' and not text.startswith("{"):
            raise GoError(f'invalid format: {go_quote(text)}; expected "json" or a valid JSON Schema object')
        if text.startswith("{") and not is_known_schema(text):
            raise GoError("invalid JSON schema in format")
        return text

    async def complete(self, request: Completion) -> AsyncGenerator[Piece, None]:
        """Generate.

        Raises:
            GoError, StatusError: as Ollama's runner reports them.
            CutConnection, CleanEnd, ServerCrash: a fault was planned.
        """
        request.ask.form = self.check_form(request.form)
        async with self._places:
            slot = self._slot(request)
            slot.busy = True
            try:
                async with aclosing(self._generate(request, slot)) as pieces:
                    async for piece in pieces:
                        yield piece
            finally:
                slot.busy = False

    def _slot(self, request: Completion) -> Slot:
        tokens = self._input(request.ask.prompt)
        free = [slot for slot in self.slots if not slot.busy]
        return max(free, key=lambda slot: _common(slot.cached, tokens))

    def _input(self, prompt: str) -> list[int]:
        tokens = self.tokenizer.encode(prompt)
        return [-1, *tokens] if self.weights.adds_bos else tokens

    def _fitting(self, request: Completion) -> list[int]:
        tokens = self._input(request.ask.prompt)
        if not tokens:
            raise StatusError(500, "Failed to create new sequence: no input provided")
        limit = self.context_length
        if len(tokens) <= limit:
            return tokens
        if not request.truncate:
            raise StatusError(400, TOO_LONG)
        keep = request.options.num_keep if request.options.num_keep >= 0 else len(tokens)
        keep = min(keep + self.weights.adds_bos, limit - 1)
        return tokens[:keep] + tokens[keep + len(tokens) - limit :]

    async def _generate(self, request: Completion, slot: Slot) -> AsyncGenerator[Piece, None]:
        tokens = self._fitting(request)
        past = _common(slot.cached, tokens)
        past -= past == len(tokens)
        new = len(tokens) - past
        slot.cached = tokens[:past]
        prompt_s = await self._pace.spend(new / self.weights.prompt_tokens_per_s)
        self.evaluated_tokens += new
        slot.cached = list(tokens)
        final = Piece(done=True, prompt_eval_count=len(tokens), prompt_eval_ns=_ns(prompt_s))
        loop = asyncio.get_running_loop()
        begin = loop.time()
        stops = Stops(request.options.stop)
        for text in self._texts(request, final, room=self.context_length - len(tokens)):
            await self._fault(request.fault, final.eval_count)
            await self._gate.pass_one()
            await self._pace.spend(1 / self.weights.tokens_per_s)
            final.eval_count += 1
            slot.cached.extend(self.tokenizer.encode(text))
            logprobs = _logprobs(text, request.top_logprobs) if request.logprobs else []
            out = stops.add(text, logprobs)
            if out is not None:
                yield out
            if stops.hit:
                final.done_reason = "stop"
                break
        await self._fault(request.fault, final.eval_count)
        rest = stops.rest()
        if rest is not None:
            yield rest
        # The runner counts time from the second token on.
        final.eval_ns = _ns(loop.time() - begin) if final.eval_count > 1 else 0
        yield final

    def _texts(self, request: Completion, final: Piece, room: int) -> Iterator[str]:
        """The tokens, up to the limit; leaves the reason of the end in ``final``."""
        options = request.options
        limit = options.num_predict
        if limit < 0 or limit > 10 * self.context_length:
            limit = 10 * self.context_length if limit > 0 else 0
        if not request.shift and (limit <= 0 or room < limit):
            limit = max(1, room + 1)
        request.ask.limit = limit
        final.done_reason = "stop"
        count = 0
        natural = 40 + int.from_bytes(hashlib.sha256(request.ask.prompt.encode("utf-8", "replace")).digest()[:1], "big")
        for text in reply_tokens(self.weights, request.ask):
            if count == (limit if limit > 0 else natural if self.weights.bytewise else -1):
                if limit > 0:
                    final.done_reason = "length"
                return
            yield text
            count += 1
        if limit > 0 and count == limit:
            final.done_reason = "length"
        else:
            final.eval_count += 1  # the end-of-sequence token counts as one

    async def _fault(self, fault: Fault | None, sent: int) -> None:
        if fault is None or sent < fault.after:
            return
        if fault.kind == "stall":
            await (asyncio.sleep(fault.seconds) if fault.seconds else asyncio.Event().wait())
            fault.after = 1 << 62
        elif fault.kind == "error_line":
            self.is_dead = True
            text = fault.text or UNEXPECTED_EOF
            raise GoError(f"an error was encountered while running the model: {text}")
        elif fault.kind == "clean_end":
            raise CleanEnd
        elif fault.kind == "crash":
            raise ServerCrash
        else:
            raise CutConnection(in_line=fault.kind == "cut_line", reset=fault.kind == "reset_stream")

    async def embed(self, text: str) -> tuple[list[float], int]:
        """The raw vector of a text and how many tokens it has.

        Raises:
            StatusError: longer than the context, or empty.
        """
        async with self._places:
            tokens = self._input(text)
            if not tokens:
                raise StatusError(500, "Failed to create new sequence: no input provided")
            if len(tokens) > self.context_length:
                raise StatusError(400, TOO_LONG)
            await self._pace.spend(len(tokens) / self.weights.prompt_tokens_per_s)
            self.evaluated_tokens += len(tokens)
            return embedding(self.weights, text), len(tokens)


class Stops:
    """Holds back text that may be the beginning of a stop sequence, and cuts at one (``stop.go``)."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._pending: list[str] = []
        self._logprobs: list[dict[str, object]] = []
        self.hit = False

    def add(self, text: str, logprobs: list[dict[str, object]]) -> Piece | None:
        """Take the next token; what may go out now."""
        self._pending.append(text)
        self._logprobs += logprobs
        joined = "".join(self._pending)
        for stop in self._stops:
            at = joined.find(stop)
            if at >= 0:
                self.hit = True
                self._truncate(joined[:at])
                return None
        if any(joined.endswith(stop[:size]) for stop in self._stops for size in range(1, len(stop) + 1)):
            return None
        return self.rest()

    def _truncate(self, kept: str) -> None:
        pieces: list[str] = []
        left = kept
        for piece in self._pending:
            if not left:
                break
            pieces.append(left[: len(piece)])
            left = left[len(piece) :]
        removed = len(self._pending) - len(pieces)
        if self._logprobs:
            self._logprobs = self._logprobs[: max(0, len(self._logprobs) - removed)]
        self._pending = pieces

    def rest(self) -> Piece | None:
        """What is held back."""
        text, logprobs = "".join(self._pending), self._logprobs
        self._pending, self._logprobs = [], []
        return Piece(text, logprobs) if text else None


def _common(left: list[int], right: list[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _ns(seconds: float) -> int:
    return max(1, int(seconds * NANOSECONDS))


def _token_logprob(text: str, value: float) -> dict[str, object]:
    out: dict[str, object] = {"token": text, "logprob": value}
    raw = text.encode("utf-8", "replace")
    if raw:
        out["bytes"] = list(raw)
    return out


def _logprobs(text: str, top: int) -> list[dict[str, object]]:
    value = -0.125 - (len(text) % 7) / 16
    entry = _token_logprob(text, value)
    if top > 0:
        entry["top_logprobs"] = [_token_logprob(text if i == 0 else f"{text}{i}", value - i / 2) for i in range(top)]
    return [entry]
