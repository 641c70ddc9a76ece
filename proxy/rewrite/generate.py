"""Whether a generate may be asked as a chat, and the chat that asks the same.

What must live here: the nine rules, in order. What must not: I/O, options and keep_alive (they are put in by others).
The rule is that the prompt which Ollama renders is *certain* to be the same; whatever is not certain stays as it is.

Sources: Ollama 0.24.0, ``server/routes.go``, ``GenerateHandler`` (G) and ``ChatHandler`` (C), which both end in
``chatPrompt`` (``server/prompt.go``) with the same list of messages:

* a missing system text is filled in from the Modelfile by both; by C only when the first message is no system message;
* G leaves out the Modelfile's MESSAGEs when a ``context`` is given, C never does, and they stand on the other side of
  the system text: rule 7;
* C asks the model twice when it can think and has a ``format``, and drops logprobs while it looks for think tags:
  rule 8. A ``format`` of null counts there, because Go's RawMessage keeps it;
* for a model that can think, a missing ``think`` becomes true in both, but G has started its built-in parser before
  that: what C tells as thinking, G may tell as the response. Rule 8 again;
* models on MLX are not cut by C (``truncate``), and C answers 500 where G answers 400 to several images for mllama:
  both stay, rule 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.errors import BadRequest
from proxy.rewrite import context
from proxy.rewrite.acceptance import GENERATE_FIELDS, refused_field
from proxy.rewrite.context import Origin
from proxy.wire.durations import parse_keep_alive
from proxy.wire.gojson import JsonObject, splice
from proxy.wire.names import is_cloud

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from proxy.rewrite.facts import ModelFacts

KNOWN_FIELDS: Final = frozenset(GENERATE_FIELDS)
# What both requests have, with the same meaning; everything else of generate's is turned into messages or left out.
_CARRIED: Final = frozenset(
    ("model", "stream", "format", "keep_alive", "options", "think", "truncate", "shift", "logprobs", "top_logprobs")
)
_OF_IMAGE_MODELS: Final = ("width", "height", "steps")

_BROKEN: Final = (
    "this context was issued by the proxy and is damaged: send back the whole array of the last answer unchanged, "
    "or leave context out to begin a new conversation"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one generate.

    Attributes:
        rule: Which of the nine rules decided.
        reason: Why, as a short constant text for the log.
        to_chat: Ask ``/api/chat``; the reply has to be mapped back.
        error: Answer this instead of asking at all.
        messages: For a chat, the JSON text of its messages; what the reply's ``context`` continues.
    """

    rule: int
    reason: str
    to_chat: bool = False
    error: BadRequest | None = None
    messages: str = ""


def decide(obj: JsonObject | None, facts: ModelFacts | None, own_context: bool = True) -> Decision:
    """Apply the nine rules to the body of a generate.

    Args:
        obj: The body; ``None`` when it is no JSON object.
        facts: Of the model it names; ``None`` when they could not be had.
        own_context: Whether replies may carry a ``context`` of the proxy's own. Off, nothing new is rewritten, and a
            conversation that holds such a context goes on.
    """
    # 1. What Ollama refuses, or what cannot be read for certain, is Ollama's to answer.
    if obj is None:
        return Decision(1, "not a JSON object")
    odd = obj.odd_for(KNOWN_FIELDS)
    refused = "" if odd else refused_field(obj)
    if odd or refused:
        # A value that we do not understand may pass with Ollama, and so would the context beside it.
        reason = f"{refused} is not certain to be taken" if refused else "ambiguous field names"
        return _harmful_context(obj, facts, odd) or Decision(1, reason)
    # 2. Without a prompt nothing is generated: the model is loaded or unloaded.
    if not obj.given("prompt"):
        keep_alive = parse_keep_alive(obj.given("keep_alive"))
        return Decision(2, "unload" if keep_alive == 0 else "load")
    if harmful := _harmful_context(obj, facts, odd):
        return harmful
    held = context.classify(obj.given("context") or ())
    # 3. Prompts that no chat can express.
    if obj.given("raw"):
        return Decision(3, "raw")
    for name in ("suffix", "template"):
        if obj.given(name):
            if held.origin is Origin.OWN:
                text = f"this context was issued by the proxy and cannot be used together with {name}"
                return Decision(4, f"own context with {name}", error=BadRequest(text))
            return Decision(3, name)
    # An own context can be expressed by nothing but a chat, so it goes past what only speaks for Ollama's generate.
    if held.origin is Origin.OWN:
        return Decision(9, "conversation goes on", to_chat=True, messages=_messages(obj, held.messages))
    if obj.given("_debug_render_only"):
        return Decision(3, "_debug_render_only")
    # 4. A context of Ollama's own; or one that we could not issue in turn.
    if obj.given("context"):
        return Decision(4, "foreign context")
    if not own_context:
        return Decision(4, "own_context is off")
    # 5.
    if not KNOWN_FIELDS.issuperset(obj):
        return Decision(5, "unknown field")
    # 6, 7, 8.
    if stays := _stays_for_model(obj, facts):
        return stays
    # 9.
    messages = _messages(obj, "")
    if len(messages) > context.MAX_NEW_CHARS:
        return Decision(4, "too long for an own context")
    if facts is None or not facts.same_render:
        return Decision(9, "render not proven equal")
    return Decision(9, "same prompt", to_chat=True, messages=messages)


def messages_of(obj: JsonObject, own_context: bool = True) -> str | None:
    """What a generate says, for a server that renders prompts in a way of its own: rules 1 to 5 without the model's.

    Args:
        obj: The body.
        own_context: As for :func:`decide`.

    Returns:
        The JSON text of the chat's messages; ``None`` where no chat says the same.
    """
    decision = decide(obj, None, own_context)
    if decision.to_chat:
        return decision.messages
    if decision.rule != 6 or any(name in obj for name in _OF_IMAGE_MODELS):
        return None
    messages = _messages(obj, "")
    return messages if len(messages) <= context.MAX_NEW_CHARS else None


def _stays_for_model(obj: JsonObject, facts: ModelFacts | None) -> Decision | None:
    """Rules 6 to 8: what kind of model it is."""
    if facts is None:
        return Decision(6, "model unknown")
    if facts.remote or is_cloud(obj.given("model") or ""):
        return Decision(6, "remote model")
    if "image" in facts.capabilities or any(name in obj for name in _OF_IMAGE_MODELS):
        return Decision(6, "image generation")
    if "completion" not in facts.capabilities:
        return Decision(6, "no completion")
    if facts.format == "safetensors":
        return Decision(6, "MLX")
    if "mllama" in facts.families and len(obj.given("images") or ()) > 1:
        return Decision(6, "several images for mllama")
    if facts.has_messages:
        return Decision(7, "Modelfile has MESSAGEs")
    if facts.can_think and obj.given("logprobs"):
        return Decision(8, "thinking with logprobs")
    if facts.can_think and facts.parser and obj.given("think") is None:
        return Decision(8, "built-in parser, think not given")
    # A built-in parser may find thinking where the capability does not tell of it; then chat asks twice as well.
    if (facts.can_think or facts.parser) and "format" in obj:
        return Decision(8, "thinking with format")
    return None


def _harmful_context(obj: JsonObject, facts: ModelFacts | None, odd: bool) -> Decision | None:
    """The refusal of a context that would end the server or lose its meaning, under whatever name Go reads it."""
    for member in obj.members:
        if member.name.casefold() != "context" or not isinstance(member.value, list):
            continue
        origin = context.classify(member.value).origin
        if origin is Origin.BROKEN:
            return Decision(4, "broken context", error=BadRequest(_BROKEN))
        if origin is Origin.OWN:
            if odd:
                text = "this context was issued by the proxy: write every field name once and in lower case"
                return Decision(4, "own context in an ambiguous body", error=BadRequest(text))
            continue
        number = context.beyond_vocabulary(member.value, facts.vocab_size if facts else None)
        if number is not None:
            text = f"context holds {number!r:.24}, which is not a token of this model"
            return Decision(4, "context beyond the vocabulary", error=BadRequest(text))
    return None


def _messages(obj: JsonObject, before: str) -> str:
    """The JSON text of the chat's messages; the texts of the members stay as the client wrote them."""
    parts = [before[1:-1]] if before else []
    if obj.given("system"):
        parts.append(f'{{"role":"system","content":{obj.raw("system")}}}')
    images = f',"images":{obj.raw("images")}' if obj.given("images") else ""
    parts.append(f'{{"role":"user","content":{obj.raw("prompt")}{images}}}')
    return f"[{','.join(parts)}]"


def chat_body(
    obj: JsonObject, decision: Decision, put: Mapping[str, str] | None = None, remove: Collection[str] = ()
) -> bytes:
    """The body of the chat that asks the same.

    Args:
        obj: The generate's body.
        decision: What :func:`decide` said about it; ``to_chat`` is set.
        put: More members to set, name to raw JSON text.
        remove: Members to leave out.
    """
    left_out = {name for name in obj if name not in _CARRIED}
    if obj.given("_debug_render_only"):
        left_out.discard("_debug_render_only")
    return splice(obj, {"messages": decision.messages, **(put or {})}, left_out.union(remove))
