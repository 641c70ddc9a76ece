"""How long the first token of one call takes, as a client sees it, and what the call tells besides."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from proxy.wire.lines import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NS_PER_S: Final = 1e9
# Fewer tell nothing about gaps between them, and closer ones arrive together anyway.
_LEAST_FRAMES: Final = 8
_LEAST_INTERVAL_S: Final = 0.003


class MeasureError(Exception):
    """The call gave no token, or no whole answer; the message says what came instead.

    Attributes:
        status: Of the reply; ``None`` where there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Measured:
    """One call.

    Attributes:
        first_token_s: From just before the request is sent to the arrival of the first frame with content.
        total_s: To the arrival of the last frame.
        arrivals_s: When each frame with content arrived, from the same moment on.
        record: Ollama's final record; empty on ``/v1``, which has none.
        timing: What the reply's ``Server-Timing`` says, in seconds by name.
    """

    first_token_s: float
    total_s: float
    arrivals_s: tuple[float, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)

    def duration_s(self, name: str) -> float | None:
        """A duration of the final record (``load_duration`` ...), in seconds; ``None`` where it has none.

        Source: Ollama v0.24.0, api/types.go, ``Metrics``: nanoseconds, and left out where 0.
        """
        value = self.record.get(name)
        return value / _NS_PER_S if isinstance(value, int | float) else None

    @property
    def is_held_back(self) -> bool | None:
        """Whether frames that were made one after the other arrived in few heaps: something in between buffers.

        Returns:
            ``None`` where it cannot be told: few frames, made too fast, or no record of how fast.
        """
        made_s = self.duration_s("eval_duration")
        frames = len(self.arrivals_s)
        if made_s is None or frames < _LEAST_FRAMES or made_s / frames < _LEAST_INTERVAL_S:
            return None
        apart_s = made_s / frames / 2
        heaps = 1 + sum(
            later - earlier >= apart_s for earlier, later in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)
        )
        return heaps <= frames / 4


async def measure(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    on_first: Callable[[], None] | None = None,
) -> Measured:
    """Send one streaming call and read it to its end.

    Args:
        session: Without a total timeout that a load would exceed.
        url: Of ``/api/chat``, ``/api/generate``, ``/v1/chat/completions`` or ``/v1/completions``.
        body: Asks for a stream; on ``/v1`` it has to say so.
        headers: Beside the session's.
        on_first: Called when the first token is there.

    Raises:
        MeasureError: Another status than 200, an error frame, or no whole answer.
    """
    call = _Call(url, on_first)
    try:
        async with session.post(url, json=body, headers=headers) as response:
            if response.status != 200:
                text = " ".join((await response.text(errors="replace"))[:200].split())
                raise MeasureError(f"{url} answered {response.status}: {text}", response.status)
            async for piece in response.content.iter_any():
                call.feed(piece, time.monotonic())
            timing = read_timing(response.headers.getall("Server-Timing", []))
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise MeasureError(f"{url}: {reason_of(error)}") from error
    return call.measured(time.monotonic(), timing)


class _Call:
    """A reply as it comes in."""

    def __init__(self, url: str, on_first: Callable[[], None] | None) -> None:
        self._url = url
        self._on_first = on_first
        self._is_native = "/api/" in url
        self._lines = LineSplitter()
        self._arrivals: list[float] = []
        self._record: dict[str, Any] = {}
        self._is_whole = False
        self._started = time.monotonic()

    def feed(self, piece: bytes, now: float) -> None:
        for line in self._lines.feed(piece):
            frame = self._frame(line.strip())
            if frame is None:
                continue
            if frame.get("error"):
                raise MeasureError(f"{self._url} broke off: {_error_text(frame['error'])}", 200)
            if _has_token(frame):
                self._arrivals.append(now - self._started)
                if len(self._arrivals) == 1 and self._on_first is not None:
                    self._on_first()
            if self._is_native and frame.get("done"):
                self._record = frame
                self._is_whole = True

    def _frame(self, line: bytes) -> dict[str, Any] | None:
        """The JSON of a line; ``None`` where it has none: blank, an event's name, a comment, the end of ``/v1``."""
        if not self._is_native:
            name, _, line = line.partition(b":")
            line = line.strip()
            if name != b"data":
                return None
            if line == b"[DONE]":
                self._is_whole = True
                return None
        if not line:
            return None
        frame = json.loads(line)
        if not isinstance(frame, dict):
            raise MeasureError(f"{self._url} sent what is no object: {line[:80]!r}", 200)
        return frame

    def measured(self, now: float, timing: Mapping[str, float]) -> Measured:
        if not self._arrivals or not self._is_whole:
            raise MeasureError(f"{self._url} ended without a token or a final record", 200)
        # What Ollama knows of the conversation can be long, and is nobody's business here.
        record = {name: value for name, value in self._record.items() if name not in ("context", "message", "response")}
        return Measured(self._arrivals[0], now - self._started, tuple(self._arrivals), record, timing)


def why_unconnected(error: aiohttp.ClientConnectorError) -> str:
    """In the words of the system: asyncio's own name the address once more, and not always the reason."""
    number = error.os_error.errno
    return os.strerror(number) if number and number > 0 else str(error)


def reason_of(error: Exception) -> str:
    """Why a call was not answered, for people."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {why_unconnected(error)}"
    return str(error) or type(error).__name__


def read_timing(fields: list[str]) -> dict[str, float]:
    """The durations of ``Server-Timing`` fields, in seconds by name.

    Source: W3C Server Timing, section 2: ``name;dur=milliseconds``, separated by commas. What is not understood is
    passed over, a description with a comma in it included.
    """
    found = {}
    for metric in ",".join(fields).split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if name and key.lower() == "dur":
                try:
                    found[name] = float(value) / 1000
                except ValueError:
                    continue
    return found


def _has_token(frame: Mapping[str, Any]) -> bool:
    choices = frame.get("choices")
    if isinstance(choices, list):
        return any(_says_something(choice.get("delta") or choice) for choice in choices if isinstance(choice, dict))
    return _says_something(frame.get("message") or frame)


def _says_something(said: Mapping[str, Any]) -> bool:
    names = ("content", "response", "thinking", "tool_calls", "reasoning", "text")
    return any(said.get(name) for name in names)


def _error_text(error: object) -> str:
    """Ollama's errors are texts, those of ``/v1`` objects."""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
