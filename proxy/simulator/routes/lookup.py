"""From a name in a request to a model, and from failures to answers.

Source: Ollama v0.24.0 ``server/routes.go`` (``writeModelRefParseError``, ``handleScheduleError``, ``scheduleRunner``).
"""

from __future__ import annotations

import time
import urllib.parse
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.simulator.engine.model import MissingCapability, Model, load_model
from proxy.simulator.engine.names import (
    ConflictingSource,
    ModelRequired,
    Name,
    Reference,
    UnqualifiedName,
    parse_reference,
)
from proxy.simulator.engine.options import Options
from proxy.simulator.engine.scheduler import ServerBusy
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes.call import Call, Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from proxy.simulator.engine.runner import Runner
    from proxy.simulator.state import ServerState

INVALID_NAME = "invalid model name"
_NO_CLOUD = "ollama cloud is disabled: "
_CLOUD = "https://ollama.com:443"
NO_REMOTE = "remote model is unavailable"


def reference_or_refuse(raw: str, status: int, text: str) -> Reference:
    """Parse a model name; ``status`` and ``text`` are for a name that is empty.

    Raises:
        Refusal
    """
    try:
        return parse_reference(raw)
    except ConflictingSource as error:
        raise Refusal(400, str(error)) from None
    except UnqualifiedName:
        raise Refusal(400, INVALID_NAME) from None
    except ModelRequired:
        raise Refusal(status, text) from None


def refuse_cloud(call: Call, operation: str = NO_REMOTE) -> Refusal:
    """What a request for a cloud model gets here: the cloud is off, or cannot be reached."""
    if call.state.environment.no_cloud:
        return Refusal(403, _NO_CLOUD + operation)
    return Refusal(502, unreachable(call.seen.method, f"{_CLOUD}{call.seen.path}?ts={int(time.time())}"))


def unreachable(method: str, url: str) -> str:
    """The text of Go's HTTP client on a machine without a name server."""
    host = urllib.parse.urlsplit(url).hostname
    return f'{method.capitalize()} "{url}": dial tcp: lookup {host}: no such host'


def find_model(call: Call, reference: Reference, raw: str) -> Model:
    """The model that is asked for.

    Raises:
        Refusal: 404, or what a cloud model gets.
    """
    if reference.source == "cloud":
        raise refuse_cloud(call)
    model = load(call.state, reference.name)
    if model is None or (reference.source == "local" and model.is_remote):
        raise Refusal(404, f"model '{raw}' not found")
    return model


def load(state: ServerState, name: Name) -> Model | None:
    """The model of a name in any spelling."""
    try:
        return load_model(state.store, state.store.existing(name))
    except GoError as error:
        raise Refusal(500, str(error)) from None


@dataclass(slots=True)
class Scheduled:
    """A runner that is held, the model, and the options of this request."""

    runner: Runner
    model: Model
    options: Options


@asynccontextmanager
async def scheduled(
    call: Call,
    model: Model,
    wanted: list[str],
    given: Mapping[str, object] | None,
    keep_alive_ns: object,
    *,
    verb: str = "",
) -> AsyncIterator[Scheduled]:
    """Hold a runner for the model for as long as the request lives.

    Args:
        wanted: capabilities that are needed.
        given: the request's options.
        verb: for a model that cannot complete: "chat" or "generate"; "" names the capability.

    Raises:
        Refusal: with the status and text of ``handleScheduleError``.
    """
    try:
        model.check(wanted)
    except MissingCapability as error:
        if verb and "completion" in error.missing:
            raise Refusal(400, f"{go_quote(call.model_name)} does not support {verb}") from None
        raise Refusal(400, f"{model.name} {error}{_hint(model, error)}") from None
    options = Options(num_ctx=call.state.machine.num_ctx)
    try:
        options.update(model.parameters)
        options.update(given)
    except GoError as error:
        raise Refusal(500, str(error)) from None
    duration = keep_alive_ns if isinstance(keep_alive_ns, int) else None
    context = call.state.scheduler.runner(model, options.runner(), duration)
    try:
        runner = await context.__aenter__()
    except ServerBusy as error:
        raise Refusal(503, str(error)) from None
    except GoError as error:
        raise Refusal(500, str(error)) from None
    try:
        yield Scheduled(runner, model, options)
    finally:
        await context.__aexit__(None, None, None)


def _hint(model: Model, error: MissingCapability) -> str:
    if "thinking" in error.missing and (model.family == "qwen3" or model.name.model == "deepseek-r1"):
        return ". Pull the model again to get the latest version with full thinking support"
    return ""
