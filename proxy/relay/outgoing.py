"""What is sent to Ollama for what was asked. Pure: everything that is known is handed in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from proxy.rewrite.assemble import WholeReply
from proxy.rewrite.generate import chat_body
from proxy.rewrite.reply import GenerateMapper
from proxy.rewrite.v1.reply import WholeCompletion
from proxy.wire.gojson import splice, splice_text
from proxy.wire.routes import Family, Kind, family_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.relay.asked import Asked
    from proxy.relay.mapping import Assembler, FrameMapper
    from proxy.residency.service import Prepared
    from proxy.rewrite.facts import ModelFacts
    from proxy.rewrite.generate import Decision
    from proxy.settings import Settings


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
    """

    path: str
    body: bytes
    mapper: FrameMapper | None = None
    gather: Assembler | None = None
    rule: int = 0
    injected: str = ""
    asks_for_whole_prompts: bool = False

    @property
    def family(self) -> Family:
        """Whose shapes the reply has when it comes."""
        return family_of(self.path)


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
        put["options"] = _options(asked, prepared.set_options, prepared.remove_options)
        injected += sorted({*prepared.set_options, *prepared.remove_options})
    refuses = refuse_long_prompts and obj.given("truncate") is None and route.kind is not Kind.EMBED
    if refuses:
        put["truncate"] = "false"
    gathers = _gathers(asked, facts, settings)
    if gathers:
        put["stream"] = "true"

    if decision is not None and decision.to_chat:
        return Outgoing(
            "/api/chat",
            chat_body(obj, decision, put),
            mapper=GenerateMapper(decision.messages),
            gather=WholeReply("generate") if gathers else None,
            rule=decision.rule,
            injected=",".join(injected),
            asks_for_whole_prompts=refuses,
        )
    mapper = None if asked.new_mapper is None else asked.new_mapper()
    whole = _whole_reply(asked) if gathers else None
    gather = whole if whole is None or mapper is None else WholeCompletion(whole, mapper)
    return Outgoing(
        route.template,
        splice(obj, put),
        mapper=mapper,
        gather=gather,
        rule=0 if decision is None else decision.rule,
        injected=",".join(injected),
        asks_for_whole_prompts=refuses,
    )


def _whole_reply(asked: Asked) -> WholeReply:
    if asked.route.kind is Kind.GENERATE:
        return WholeReply("generate")
    return WholeReply("chat", tools=bool(asked.obj.given("tools")))


def _options(asked: Asked, put: Mapping[str, object], remove: frozenset[str]) -> str:
    if asked.options is None:
        return orjson.dumps(dict(put)).decode()
    texts = {name: orjson.dumps(value).decode() for name, value in put.items()}
    return splice_text(asked.options, texts, remove)


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
