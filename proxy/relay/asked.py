"""What a body asks for, as far as it decides the way through the proxy. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.rewrite.fields import KNOWN_NAMES, fits
from proxy.wire.durations import parse_keep_alive
from proxy.wire.gojson import JsonObject, read_nested
from proxy.wire.names import is_cloud
from proxy.wire.routes import Kind

if TYPE_CHECKING:
    from proxy.wire.routes import Route


class Asked(NamedTuple):
    """A request for a model that is understood.

    Attributes:
        obj: Its body.
        model: As the client spells it.
        options: The client's ``options``, ``None`` where it sent none.
        keep_alive: The client's value as JSON has it; ``None`` where absent.
        is_load: Nothing to generate from: Ollama only loads the model, or with ``keep_alive`` 0 unloads it.
        is_unload: As said.
        streams: The client wants a stream.
    """

    obj: JsonObject
    model: str
    options: JsonObject | None
    keep_alive: object
    is_load: bool
    is_unload: bool
    streams: bool


def understand(route: Route, obj: JsonObject | None, *, is_certain: bool = False) -> Asked | None:
    """Read what matters from a native body.

    Args:
        route: A native inference route.
        obj: Its body, ``None`` where it is not a JSON object.
        is_certain: Ollama is known to take the body's names and values; they are not looked at again.

    Returns:
        ``None`` for everything that Ollama would refuse or that it could read in another way than we do: such a
        request is relayed as it came, so that Ollama's own answer is the answer.
    """
    if obj is None:
        return None
    if not is_certain and (obj.odd_for(KNOWN_NAMES[route.template]) or not fits(route.template, obj)):
        return None
    model = obj.given("model")
    if not isinstance(model, str) or not model or is_cloud(model):
        return None
    is_load = _is_load(route.kind, obj)
    keep_alive = obj.given("keep_alive")
    return Asked(
        obj=obj,
        model=model,
        options=read_nested(obj, "options") if obj.given("options") is not None else None,
        keep_alive=keep_alive,
        is_load=is_load,
        is_unload=is_load and keep_alive is not None and parse_keep_alive(keep_alive) == 0,
        streams=route.kind is not Kind.EMBED and obj.given("stream") is not False,
    )


def _is_load(kind: Kind, obj: JsonObject) -> bool:
    if kind is Kind.GENERATE:
        return not obj.given("prompt")
    if kind is Kind.CHAT:
        return not obj.given("messages")
    return not obj.given("input") and not obj.given("prompt")
