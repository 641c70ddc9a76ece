"""What a body asks for, as far as it decides the way through the proxy. Pure."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from proxy.rewrite.fields import KNOWN_NAMES, fits
from proxy.rewrite.v1.reply import mapper
from proxy.rewrite.v1.request import translate
from proxy.wire.durations import parse_keep_alive
from proxy.wire.gojson import JsonObject, read_object
from proxy.wire.names import is_cloud
from proxy.wire.routes import Kind, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.rewrite.v1.dialect import Dialect
    from proxy.rewrite.v1.mapper import Mapper
    from proxy.wire.routes import Route


class Asked(NamedTuple):
    """A request for a model that is understood.

    Attributes:
        route: The native route that it is for.
        obj: Its body, for that route.
        model: As the client spells it.
        options: The client's ``options``, ``None`` where it sent none.
        keep_alive: The client's value as JSON has it; ``None`` where absent.
        is_load: Nothing to generate from: Ollama only loads the model, or with ``keep_alive`` 0 unloads it.
        is_unload: As said.
        streams: The client wants a stream.
        new_mapper: Makes what turns a reply to it into one of OpenAI's; ``None`` where a native one was called.
    """

    route: Route
    obj: JsonObject
    model: str
    options: Mapping[str, object] | None
    keep_alive: object
    is_load: bool
    is_unload: bool
    streams: bool
    new_mapper: Callable[[], Mapper] | None = None


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
    keep_alive, options = obj.given("keep_alive"), obj.given("options")
    return Asked(
        route=route,
        obj=obj,
        model=model,
        options=options if isinstance(options, dict) else None,
        keep_alive=keep_alive,
        is_load=is_load,
        is_unload=is_load and keep_alive is not None and parse_keep_alive(keep_alive) == 0,
        streams=route.kind is not Kind.EMBED and obj.given("stream") is not False,
    )


def understand_v1(route: Route, obj: JsonObject, dialect: Dialect, number: int) -> Asked | None:
    """Read a request in OpenAI's words as the native one that Ollama makes of it.

    Args:
        route: That was called.
        obj: Its body.
        dialect: The server's.
        number: 0 to 998, drawn for the reply's ``id``.

    Returns:
        ``None`` for what is relayed as it came: other routes, what Ollama refuses, what is not certain to be the same.
    """
    translated = translate(route.template, obj, dialect)
    if translated is None:
        return None
    asked = understand(classify("POST", translated.path), read_object(translated.body), is_certain=True)
    return None if asked is None else asked._replace(new_mapper=functools.partial(mapper, translated, number, dialect))


def _is_load(kind: Kind, obj: JsonObject) -> bool:
    if kind is Kind.GENERATE:
        return not obj.given("prompt")
    if kind is Kind.CHAT:
        return not obj.given("messages")
    return not obj.given("input") and not obj.given("prompt")
