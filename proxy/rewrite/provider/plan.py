"""What a provider is asked for a client's call, and how its reply becomes the client's answer; or that it cannot be.

What must live here: which calls there are words for. What it must not know: where the provider is, and its key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.rewrite.generate import messages_of
from proxy.rewrite.provider.reply import ChatReply, EmbedReply, GenerateReply, Renamed
from proxy.rewrite.provider.request import Unsayable, chat_request, embed_request
from proxy.rewrite.reply import GenerateMapper
from proxy.wire.gojson import go_quote, read_object, splice
from proxy.wire.routes import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.rewrite.provider.reply import Translation
    from proxy.wire.gojson import JsonObject
    from proxy.wire.routes import Route

#: The routes whose calls can be asked there, with the path below the provider's base.
PATHS: Final = {
    "/api/chat": "/chat/completions",
    "/api/generate": "/chat/completions",
    "/api/embed": "/embeddings",
    "/v1/chat/completions": "/chat/completions",
    "/v1/completions": "/completions",
    "/v1/embeddings": "/embeddings",
}


class Plan(NamedTuple):
    """One call to a provider.

    Attributes:
        path: Below its base.
        body: What is sent.
        streams: A stream is asked for, and nothing else is an answer.
        translation: Of the reply.
    """

    path: str
    body: bytes
    streams: bool
    translation: Translation


def plan(route: Route, obj: JsonObject, model: str, *, own_context: bool, stamp: Callable[[], str]) -> Plan | None:
    """Translate a call.

    Args:
        route: That was called.
        obj: The client's body; it names a model.
        model: What the provider calls that.
        own_context: Whether a generate's reply may carry a ``context`` of the proxy's own.
        stamp: The time of now, as native replies write it.

    Returns:
        ``None`` where there are no words for it.
    """
    if route.template not in PATHS or obj.odd:
        return None
    if route.kind is Kind.V1:
        return _renamed(route, obj, model)
    try:
        return _embed(obj, model) if route.kind is Kind.EMBED else _chat(route, obj, model, own_context, stamp)
    except Unsayable:
        return None


def _renamed(route: Route, obj: JsonObject, model: str) -> Plan:
    streams = obj.given("stream") is True and route.template != "/v1/embeddings"
    body = splice(obj, {"model": go_quote(model)})
    return Plan(PATHS[route.template], body, streams, Renamed(obj.given("model")))


def _embed(obj: JsonObject, model: str) -> Plan | None:
    body = embed_request(obj, model)
    if body is None:
        return None
    texts = obj.given("input")
    count = len(texts) if isinstance(texts, list) else 1
    return Plan(PATHS["/api/embed"], body, False, EmbedReply(obj.given("model"), count))


def _chat(route: Route, obj: JsonObject, model: str, own_context: bool, stamp: Callable[[], str]) -> Plan | None:
    mapper = None
    if route.kind is Kind.GENERATE:
        text = messages_of(obj, own_context)
        if text is None:
            return None
        said = read_object(f'{{"messages":{text}}}'.encode("utf-8", "surrogateescape"))
        mapper, messages = GenerateMapper(text), None if said is None else said.given("messages")
    else:
        messages = obj.given("messages")
    if not isinstance(messages, list) or not messages:
        return None
    streams = obj.given("stream") is not False
    body = chat_request(obj, model, messages, path=route.template, streams=streams)
    if body is None:
        return None
    reply = ChatReply(obj.given("model"), stamp, tells_thinking=obj.given("think") is not False)
    translation = reply if mapper is None else GenerateReply(reply, mapper)
    return Plan(PATHS[route.template], body, streams, translation)
