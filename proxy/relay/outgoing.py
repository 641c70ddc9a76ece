"""What is sent to Ollama for what was asked. Pure: everything that is known is handed in."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from proxy.rewrite.assemble import WholeReply
from proxy.rewrite.generate import chat_body
from proxy.rewrite.reply import GenerateMapper
from proxy.rewrite.v1.reply import WholeCompletion
from proxy.wire.gojson import read_text, splice, splice_text
from proxy.wire.routes import Family, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.relay.asked import Asked
    from proxy.relay.mapping import Assembler, FrameMapper
    from proxy.residency.prepared import Prepared
    from proxy.rewrite.facts import ModelFacts
    from proxy.rewrite.generate import Decision
    from proxy.settings import Settings


# Of a client's options that are remembered, times the size of the memory.
_SHORT: Final = 512


class Outgoing(NamedTuple):
    """One request to Ollama, and how its reply becomes the answer.

    Attributes:
        path: Without query.
        body: The body.
        mapper: Turns Ollama's frames into those of the API that was called, where that is another one.
        gather: Puts the stream together, where the client asked for none.
        rule: Which rule of generate to chat decided; 0 where there was nothing to decide.
        injected: Names of what was put in or taken out, for the log.
        asks_for_whole_prompts: ``truncate: false`` was put in, so that a prompt that is too long is an error.
        family: Whose shapes the reply has when it comes.
    """

    path: str
    body: bytes
    mapper: FrameMapper | None = None
    gather: Assembler | None = None
    rule: int = 0
    injected: str = ""
    asks_for_whole_prompts: bool = False
    family: Family = Family.API


def compose(
    asked: Asked,
    facts: ModelFacts,
    prepared: Prepared,
    settings: Settings,
    *,
    decision: Decision | None,
    refuse_long_prompts: bool,
) -> Outgoing:
    """Build the request.

    Args:
        asked: What the client asks for.
        facts: About its model.
        prepared: What residency wants in and out.
        settings: ``relay`` of them is read.
        decision: About generate to chat; ``None`` on every other route.
        refuse_long_prompts: Ask Ollama not to cut a prompt that is longer than the context.
    """
    route, obj = asked.route, asked.obj
    put: dict[str, str] = {}
    injected: list[str] = []
    if prepared.keep_alive is not None:
        put["keep_alive"] = orjson.dumps(prepared.keep_alive).decode()
        injected.append("keep_alive")
    if prepared.set_options or prepared.remove_options:
        text, names = _options(obj.raw("options"), prepared.set_options, prepared.remove_options)
        put["options"] = text
        injected.append(names)
    refuses = refuse_long_prompts and obj.given("truncate") is None and route.kind is not Kind.EMBED
    if refuses:
        put["truncate"] = "false"
    gathers = _gathers(asked, facts, settings)
    if gathers:
        put["stream"] = "true"

    path, messages = route.template, None
    if decision is not None and decision.to_chat:
        path, messages = "/api/chat", decision.messages
        body = chat_body(obj, decision, put)
    else:
        body = splice(obj, put)
    mapper, gather = readers(asked, messages, gathers=gathers)
    return Outgoing(
        path,
        body,
        mapper=mapper,
        gather=gather,
        rule=0 if decision is None else decision.rule,
        injected=",".join(injected),
        asks_for_whole_prompts=refuses,
    )


def readers(asked: Asked, messages: str | None, *, gathers: bool) -> tuple[FrameMapper | None, Assembler | None]:
    """What the reply to one request goes through on its way back.

    Args:
        asked: What the client asks for.
        messages: Of a generate that is asked as a chat, the JSON text; ``None`` for everything else.
        gathers: The client asked for no stream, and Ollama is asked for one.
    """
    if messages is not None:
        return GenerateMapper(messages), WholeReply("generate") if gathers else None
    mapper = None if asked.new_mapper is None else asked.new_mapper()
    whole = _whole_reply(asked) if gathers else None
    return mapper, whole if whole is None or mapper is None else WholeCompletion(whole, mapper)


def _whole_reply(asked: Asked) -> WholeReply:
    if asked.route.kind is Kind.GENERATE:
        return WholeReply("generate")
    return WholeReply("chat", tools=bool(asked.obj.given("tools")))


def _options(raw: str, put: Mapping[str, object], remove: frozenset[str]) -> tuple[str, str]:
    """The options that are sent, and the names of those that were put in or taken out.

    Args:
        raw: The client's; empty where it sent none.
    """
    # A client sends the same ones each time, and they are changed in the same way.
    splice_options = _spliced if len(raw) <= _SHORT else _spliced.__wrapped__
    return splice_options(raw, tuple(put.items()), remove)


@functools.lru_cache(maxsize=256)
def _spliced(raw: str, put: tuple[tuple[str, object], ...], remove: frozenset[str]) -> tuple[str, str]:
    texts = {name: orjson.dumps(value).decode() for name, value in put}
    obj = read_text(raw) if raw else None
    text = splice_text(obj, texts, remove) if obj is not None else orjson.dumps(dict(put)).decode()
    return text, ",".join(sorted({*texts, *remove}))


def _gathers(asked: Asked, facts: ModelFacts, settings: Settings) -> bool:
    """Whether a whole reply is asked for as a stream and put together here."""
    return (
        settings.relay.stream_upstream
        and asked.route.kind in (Kind.GENERATE, Kind.CHAT)
        and not asked.streams
        and not asked.is_load
        and not asked.obj.given("_debug_render_only")
        and not facts.remote
        and "image" not in facts.capabilities
    )
