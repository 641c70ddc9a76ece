"""What the simulated models say: the same for the same prompt, and as long as it has to be.

Nothing here is a language model. A recorded prompt gets the recorded tokens; any other prompt gets words drawn from a
list by a generator that the prompt seeds.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang import jsonout

if TYPE_CHECKING:
    from proxy.simulator.engine.weights import Weights

_SYLLABLES: Final = ("ta", "eli", "fon", "ka", "mi", "lo", "zen", "dor", "vu", "pra", "sol", "rin")
_TEXT: Final = (
    "the model keeps its place in memory and answers as soon as a request comes in while other work waits its turn "
    "so that the first word appears quickly and every next one follows at an even pace until the reply is complete "
    "small systems often feel faster than large ones because nothing has to be loaded again before they can speak "
    "a warm start costs little but a cold one takes seconds which people notice and remember for a long time"
)
_WORDS: Final = _TEXT.split(" ")
_OBJECT_KEYS: Final = {"properties", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "items"}
_NATURAL_MIN: Final = 40
_NATURAL_SPREAD: Final = 80


@dataclass(slots=True)
class Ask:
    """What a reply depends on.

    Attributes:
        prompt: the rendered prompt.
        form: "" for free text, '"json"', or a JSON schema.
        limit: tokens wanted at most; below 1 the reply ends by itself.
        thinks: opening and closing tag where the model is to think first.
        tools: tools offered, where the reply is to call one.
        tool_tag: what a tool call starts with.
    """

    prompt: str
    form: str = ""
    limit: int = -1
    thinks: tuple[str, str] | None = None
    tools: Sequence[Mapping[str, object]] = field(default_factory=list)
    tool_tag: str = "{"


def reply_tokens(weights: Weights, ask: Ask) -> Iterator[str]:
    """The tokens of the reply: ends by itself only where no limit was given (or a form is complete)."""
    recorded = weights.replies.get(f"{ask.form}\0{ask.prompt}") or weights.replies.get(
        "" if ask.form else ask.prompt, ()
    )
    for token in recorded:
        if token is None:
            return
        yield token
    seed = int.from_bytes(hashlib.sha256(ask.prompt.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    dice = random.Random(seed)  # noqa: S311 - repeatable text is the point
    natural = _NATURAL_MIN + dice.randrange(_NATURAL_SPREAD)
    length = ask.limit if ask.limit > 0 else natural
    if ask.form:
        yield from _form(ask.form, dice, length, 1 if weights.bytewise else 4)
        return
    if not weights.bytewise and ask.thinks is not None:
        opening, closing = ask.thinks
        yield from (opening, "\n", *_prose(dice, min(12, max(2, length // 3))), "\n", closing, "\n\n")
    if not weights.bytewise and ask.tools:
        yield from _tool_call(ask, dice)
        return
    yield from _invented(dice) if weights.bytewise else _prose(dice, length if ask.limit > 0 else natural)


def _invented(dice: random.Random) -> Iterator[str]:
    """Words such as the recorded models of random weights produce; without end."""
    while True:
        yield " " + dice.choice(_SYLLABLES) + dice.choice(_SYLLABLES) + dice.choice(("", "n", "s"))


def _prose(dice: random.Random, count: int) -> Iterator[str]:
    """``count`` tokens of plausible text."""
    start = dice.randrange(len(_WORDS))
    for index in range(count):
        word = _WORDS[(start + index) % len(_WORDS)]
        if index == 0:
            yield word.capitalize()
        elif index == count - 1 or index % 13 == 12:
            yield "." if index == count - 1 else f" {word},"
        else:
            yield f" {word}"


def _tool_call(ask: Ask, dice: random.Random) -> Iterator[str]:
    function = ask.tools[dice.randrange(len(ask.tools))]["function"]
    assert isinstance(function, Mapping)  # noqa: S101 - the request's schema says so
    parameters = function.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    arguments = {
        name: _sample(kind if isinstance(kind, Mapping) else {}, dice)
        for name, kind in (properties.items() if isinstance(properties, Mapping) else ())
    }
    if ask.tool_tag != "{":
        yield ask.tool_tag
        yield "\n"
    yield '{"name": '
    yield json.dumps(str(function.get("name", "")))
    yield ', "arguments": '
    yield json.dumps(arguments)
    yield "}"
    if ask.tool_tag.startswith("<"):
        yield "\n"
        yield ask.tool_tag.replace("<", "</", 1)


def _sample(schema: Mapping[str, object], dice: random.Random) -> object:
    """A value that fits a JSON schema."""
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kinds = schema.get("type")
    kind = kinds[0] if isinstance(kinds, list) and kinds else kinds
    if kind == "object":
        properties = schema.get("properties")
        members = properties.items() if isinstance(properties, Mapping) else ()
        return {name: _sample(inner if isinstance(inner, Mapping) else {}, dice) for name, inner in members}
    if kind == "array":
        items = schema.get("items")
        return [_sample(items if isinstance(items, Mapping) else {}, dice)]
    plain = {"integer": 7, "number": 1.5, "boolean": True, "null": None}
    return plain[kind] if isinstance(kind, str) and kind in plain else dice.choice(_WORDS)


def _form(form: str, dice: random.Random, length: int, size: int) -> Iterator[str]:
    """JSON, piece by piece: what a schema asks for, or an object whose one text is as long as needed."""
    if form.startswith("{"):
        try:
            schema = json.loads(form)
        except ValueError:
            schema = {}
        if schema.get("type", "object") == "object" and not _OBJECT_KEYS & set(schema):
            schema = {"properties": {"text": {"type": "string"}}, "type": "object"}
        text = json.dumps(_sample(schema, dice))
        yield from (text[at : at + size] for at in range(0, len(text), size))
        return
    yield '{"'
    yield "text"
    yield '": "'
    yield from _prose(dice, max(1, length - 4))
    yield '"}'


def embedding(weights: Weights, text: str) -> list[float]:
    """The raw vector of a text: recorded, or drawn from a generator that the text seeds."""
    recorded = weights.embeddings.get(text)
    if recorded is not None:
        return [jsonout.Float32(value) for value in recorded]
    seed = hashlib.sha256(f"{weights.digest}\0{text}".encode("utf-8", "surrogateescape")).digest()
    dice = random.Random(seed)  # noqa: S311 - repeatable vectors are the point
    return [jsonout.Float32(round(dice.gauss(0.0, 1.0), 6)) for _ in range(weights.embedding_length)]
