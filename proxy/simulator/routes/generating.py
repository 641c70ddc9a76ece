"""What /api/generate and /api/chat have in common: thinking, tool calls, the frames of an answer.

Source: Ollama v0.24.0 ``server/routes.go`` (``GenerateHandler``, ``ChatHandler``), ``thinking/parser.go``,
``tools/tools.go``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.simulator.engine.faults import IN_STREAM
from proxy.simulator.engine.render import Thinking
from proxy.simulator.engine.runner import Completion, Piece, StatusError
from proxy.simulator.golang.clock import go_quote, rfc3339
from proxy.simulator.routes.call import Call, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from proxy.simulator.engine.texts import Ask
    from proxy.simulator.golang.jsonin import GoError
    from proxy.simulator.routes.lookup import Scheduled


def created_at() -> str:
    """The time of an answer."""
    return rfc3339(time.time_ns())


def thinking_of(call: Call, wanted: list[str], capabilities: list[str], given: object) -> Thinking:
    """How the model is to think; adds the capability where the model has it.

    Raises:
        Refusal: asked to think, and the model cannot.
    """
    think = Thinking(given if isinstance(given, bool | str) else None)
    if "thinking" in capabilities:
        wanted.append("thinking")
        return think if think.is_set else Thinking(True)
    if think.on:
        if call.relaxed_thinking:
            return Thinking()
        raise Refusal(400, f"{go_quote(call.model_name)} does not support thinking")
    return think


@dataclass(slots=True)
class Clocks:
    """When the request came and when its model was there (``time.monotonic_ns``)."""

    start_ns: int
    loaded_ns: int = 0

    def final(self, piece: Piece) -> dict[str, object]:
        """The metrics of the last frame; zeros are left out."""
        values = {
            "total_duration": time.monotonic_ns() - self.start_ns,
            "load_duration": self.loaded_ns - self.start_ns,
            **metrics(piece),
        }
        return {name: value for name, value in values.items() if value}


def metrics(piece: Piece) -> dict[str, int]:
    """The runner's own figures, in the order in which they are written."""
    return {
        "prompt_eval_count": piece.prompt_eval_count,
        "prompt_eval_duration": piece.prompt_eval_ns,
        "eval_count": piece.eval_count,
        "eval_duration": piece.eval_ns,
    }


@dataclass(slots=True)
class Wish:
    """What of a request concerns the runner."""

    request: Mapping[str, object]
    prompt: str
    truncate: bool
    ask: Ask


def completion(call: Call, held: Scheduled, wish: Wish) -> AsyncGenerator[Piece, None]:
    """Ask the runner; the slot is free again when the generator is closed."""
    request = wish.request
    form = request.get("format")
    top = request.get("top_logprobs")
    call.seen.prompt = wish.prompt
    return held.runner.complete(
        Completion(
            ask=wish.ask,
            options=held.options,
            form=form if isinstance(form, bytes) else None,
            shift=request.get("shift") is not False,
            truncate=wish.truncate,
            logprobs=bool(request.get("logprobs")),
            top_logprobs=top if isinstance(top, int) else 0,
            fault=call.state.faults.take(IN_STREAM, call.seen.path, held.model.short_name),
        )
    )


def failure(error: GoError) -> Refusal:
    """The answer for an error of the runner."""
    return Refusal(error.status if isinstance(error, StatusError) else 500, str(error))


def check_top_logprobs(request: Mapping[str, object]) -> None:
    """Raise ``Refusal`` unless top_logprobs is 0 to 20."""
    value = request["top_logprobs"]
    if not isinstance(value, int) or not 0 <= value <= 20:
        raise Refusal(400, "top_logprobs must be between 0 and 20")


def text_field(request: Mapping[str, object], name: str) -> str:
    """A text field of a bound request."""
    value = request[name]
    return value if isinstance(value, str) else ""


def list_field(request: Mapping[str, object], name: str) -> list[object]:
    """A list field of a bound request; empty where absent."""
    value = request.get(name)
    return value if isinstance(value, list) else []


def options_field(request: Mapping[str, object]) -> dict[str, object] | None:
    """The request's options."""
    value = request.get("options")
    return value if isinstance(value, dict) else None
