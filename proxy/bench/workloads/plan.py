"""What a run of ``pilotlight bench`` was asked to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.wire.durations import parse_keep_alive

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILT_IN: Final = "built-in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much, of what, and with which texts.

    Attributes:
        model: Of all calls.
        workloads: Names, in the order in which they are to run.
        second_model: For ``swap``; empty: there is none.
        runs: Of each workload, on each side.
        seconds: After so many a workload begins no further call; ``None``: no such limit.
        calls: Of one run of ``warm``.
        concurrency: Clients at the same time, where the workload has several.
        num_predict: Tokens that a measured call asks for at most.
        keep_alive: What the clients of ``idle`` send: text of Ollama's, positive and finite.
        settle_s: The longest time that a side gets for what it does by itself: put a model back, read a prompt.
        background_factor: How many times longer the replies are that ``flood`` and ``swap`` ask for beside the
            measured call.
        background_calls: Of each client of the steady load in ``swap``.
        prompts: Texts of the user's; empty: built-in ones.
        prompts_name: What the results say about them.
        system: The long system prompt; empty: a built-in one.
        seed: Of the texts.
        header_names: That are sent along, for the results.
    """

    model: str
    workloads: Sequence[str]
    second_model: str = ""
    runs: int = 5
    seconds: float | None = None
    calls: int = 100
    concurrency: int = 4
    num_predict: int = 16
    keep_alive: str = "1s"
    settle_s: float = 12.0
    background_factor: int = 4
    background_calls: int = 6
    prompts: Sequence[str] = ()
    prompts_name: str = BUILT_IN
    system: str = ""
    seed: int = 0
    header_names: Sequence[str] = ()

    @property
    def keep_alive_s(self) -> float:
        return keep_alive_s(self.keep_alive)


def keep_alive_s(text: str) -> float:
    """Seconds of a ``keep_alive``; 0 for what Ollama refuses, infinity for ever."""
    try:
        return parse_keep_alive(text) or 0.0
    except ValueError:
        return 0.0
