"""What goes wrong on purpose, and the gate that lets tokens out one by one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

KINDS: Final = {
    "close": "close the connection before the head",
    "reset": "reset the connection before the head",
    "status": "answer with `status` and `text` as error",
    "cut": "close the connection after `after` tokens, between frames",
    "cut_line": "close the connection after `after` tokens, in the middle of the next frame",
    "reset_stream": "reset the connection after `after` tokens",
    "stall": "send nothing more after `after` tokens, for `seconds` (0: for ever)",
    "error_line": "the runner dies after `after` tokens: Ollama's own error, `text` at its end",
    "clean_end": "end the answer after `after` tokens as if it were complete, without a final record",
    "load_error": "the load fails with `text`",
    "load_stall": "the load does not end",
    "crash": "the server dies after `after` tokens: every connection is cut, nothing listens",
}
UNEXPECTED_EOF: Final = "unexpected EOF"
OUT_OF_MEMORY: Final = "llama runner process has terminated: cudaMalloc failed: out of memory"


@dataclass(slots=True)
class Fault:
    """One thing that will go wrong.

    Attributes:
        kind: one of ``KINDS``.
        after: tokens that are sent before it happens.
        path: only on this route; "" for all.
        model: only for this model's short name; "" for all.
        times: how often; below 0 for ever.
    """

    kind: str
    after: int = 0
    path: str = ""
    model: str = ""
    times: int = 1
    text: str = ""
    status: int = 500
    seconds: float = 0.0


class CutConnection(Exception):
    """The connection is to end now."""

    def __init__(self, *, in_line: bool = False, reset: bool = False) -> None:
        super().__init__("the connection is cut on purpose")
        self.in_line = in_line
        self.reset = reset


class CleanEnd(Exception):
    """The answer ends as if complete."""


class ServerCrash(Exception):
    """The whole server dies."""


@dataclass(slots=True)
class Faults:
    """The faults of one server, in the order in which they were added."""

    waiting: list[Fault] = field(default_factory=list)

    def add(self, kind: str, **details: object) -> Fault:
        """Plan a fault; ``details`` are the attributes of ``Fault``.

        Raises:
            ValueError: there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"no such fault: {kind}; there are {', '.join(KINDS)}")
        fault = Fault(kind, **details)  # type: ignore[arg-type]
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        self.waiting.clear()

    def take(self, kinds: frozenset[str], path: str, model: str) -> Fault | None:
        """The first planned fault that fits, counted as having happened."""
        for fault in self.waiting:
            if fault.kind in kinds and fault.path in ("", path) and fault.model in ("", model) and fault.times:
                fault.times -= fault.times > 0
                if not fault.times:
                    self.waiting.remove(fault)
                return fault
        return None


BEFORE_HEAD: Final = frozenset({"close", "reset", "status"})
IN_STREAM: Final = frozenset({"cut", "cut_line", "reset_stream", "stall", "error_line", "clean_end", "crash"})
IN_LOAD: Final = frozenset({"load_error", "load_stall"})


class Gate:
    """Lets tokens out only when told to; open until ``close`` is called. Waiting ends with cancellation."""

    def __init__(self) -> None:
        self._permits: int | None = None
        self._change = asyncio.Event()
        self.waiting = 0

    def close(self) -> None:
        """From now on every token needs a permit."""
        self._permits = self._permits or 0

    def let(self, tokens: int = 1) -> None:
        """Let so many tokens out."""
        self._permits = (self._permits or 0) + tokens
        self._change.set()

    def open(self) -> None:
        """Let all tokens out."""
        self._permits = None
        self._change.set()

    async def pass_one(self) -> None:
        """Wait for a permit and use it up."""
        self.waiting += 1
        try:
            while self._permits == 0:
                self._change.clear()
                await self._change.wait()
            if self._permits is not None:
                self._permits -= 1
        finally:
            self.waiting -= 1
