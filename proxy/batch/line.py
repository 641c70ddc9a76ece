"""One input line, and the request that it stands for. Pure.

A line is a JSON string, which is a prompt, or a JSON object with exactly one of ``prompt``, ``messages`` and ``input``.
Its other fields are those of Ollama's request of that kind (api/types.go, v0.24.0), and two of our own that are carried
into the result: ``id`` and ``meta``. A name that is none of them is refused: a misspelt option that does nothing would
be found out after ten thousand answers.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_EVERYWHERE: Final = ("model", "options", "keep_alive", "truncate", "id", "meta")
_ANSWERING: Final = ("system", "format", "think", "shift", "logprobs", "top_logprobs")

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "prompt": ("prompt", *_EVERYWHERE, *_ANSWERING, "images", "suffix", "template", "raw", "context"),
    "messages": ("messages", *_EVERYWHERE, *_ANSWERING, "tools"),
    "input": ("input", *_EVERYWHERE, "dimensions"),
}
"""What may stand in a line, by the field that says what it is."""

PATHS: Final[Mapping[str, str]] = {"prompt": "/api/generate", "messages": "/api/chat", "input": "/api/embed"}
_OURS: Final = ("id", "meta")
# What is often put beside ``options`` though it belongs into it; only to say so.
_OPTIONS: Final = ("temperature", "num_predict", "num_ctx", "top_p", "top_k", "min_p", "seed", "stop")
_FITTING: Final[Mapping[str, tuple[type, ...]]] = {"prompt": (str,), "messages": (list,), "input": (str, list)}


class BrokenLine(Exception):
    """A line that is no request; the message is what stands in its place in the output."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a line gets that does not say it itself.

    Attributes:
        model: Empty: every line names its own.
        system: Of prompts without ``system``, and of chats without a system message. Not for texts to embed.
        options: Ollama's; a line's own win name by name.
    """

    model: str = ""
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Bytes that differ when anything of it does."""
        return orjson.dumps([self.model, self.system, dict(self.options)], option=orjson.OPT_SORT_KEYS)


class Asked(NamedTuple):
    """What is sent for a line.

    Attributes:
        kind: ``prompt``, ``messages`` or ``input``.
        body: Of the request, as JSON.
        model: As it is sent.
        names_model: The line says it, not the defaults.
        carried: ``id`` and ``meta``, where the line has them.
        is_single: One text to embed, not a list.
    """

    kind: str
    body: bytes
    model: str
    names_model: bool
    carried: dict[str, Any]
    is_single: bool


def digest(raw: bytes, salt: bytes) -> str:
    """What a result is known by as that of this very line.

    Args:
        raw: The line; what surrounds its JSON does not count.
        salt: Of :meth:`Defaults.encode`, because with other defaults it is another request.

    Returns:
        16 hexadecimal digits.
    """
    return blake2b(salt + b"\n" + raw.strip(), digest_size=8).hexdigest()


def parse(raw: bytes, defaults: Defaults) -> Asked:
    """Read one line.

    Raises:
        BrokenLine: It is not JSON, or :func:`compose` does not take it.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BrokenLine(f"not JSON: {error}") from None
    return compose(value, defaults)


def compose(value: object, defaults: Defaults) -> Asked:
    """The request for a line's value.

    Args:
        value: As JSON has it: a string or an object.
        defaults: For what the line does not say.

    Raises:
        BrokenLine: Neither a string nor an object, not exactly one kind, an unknown name, no model.
    """
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        raise BrokenLine("must be a JSON object, or a string that is a prompt")
    kind = _kind(value)
    for name, given in value.items():
        if given is not None and name not in FIELDS[kind]:
            raise BrokenLine(_unknown(name, kind))
    body = {name: given for name, given in value.items() if name not in _OURS and given is not None}
    _fill(body, kind, defaults)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise BrokenLine("model: no name; give one in the line or with --model")
    try:
        encoded = orjson.dumps({**body, "stream": False})
    except TypeError as error:
        # From Python only; what came from JSON is JSON.
        raise BrokenLine(f"cannot be written as JSON: {error}") from None
    carried = {name: value[name] for name in _OURS if name in value}
    return Asked(kind, encoded, model, value.get("model") is not None, carried, isinstance(body.get("input"), str))


def _kind(value: dict[str, Any]) -> str:
    kinds = [name for name in PATHS if value.get(name) is not None]
    if len(kinds) != 1:
        found = " and ".join(kinds)
        raise BrokenLine(f"needs exactly one of prompt, messages and input{f', has {found}' if found else ''}")
    (kind,) = kinds
    given = value[kind]
    if not isinstance(given, _FITTING[kind]):
        raise BrokenLine(f"{kind}: must be {'a list of messages' if kind == 'messages' else 'text'}")
    if not given and kind != "input":
        # Ollama takes this for a wish to load the model, and answers nothing.
        raise BrokenLine(f"{kind}: is empty")
    return kind


def _fill(body: dict[str, Any], kind: str, defaults: Defaults) -> None:
    if defaults.model:
        body.setdefault("model", defaults.model)
    if defaults.options:
        own = body.get("options", {})
        if not isinstance(own, dict):
            raise BrokenLine("options: must be an object")
        body["options"] = {**defaults.options, **own}
    if kind == "prompt" and defaults.system and not body.get("raw"):
        body.setdefault("system", defaults.system)
    elif kind == "messages":
        # Ollama's chat has no such field: it is a message.
        system = body.pop("system", None)
        if system is None and not _has_system(body["messages"]):
            system = defaults.system
        if system:
            body["messages"] = [{"role": "system", "content": system}, *body["messages"]]


def _has_system(messages: list[Any]) -> bool:
    return any(isinstance(message, dict) and message.get("role") == "system" for message in messages)


def _unknown(name: str, kind: str) -> str:
    if name == "stream":
        return "stream: is not for a line to say; its result is one line"
    known = {field: field for field in FIELDS[kind]} | {option: f"options.{option}" for option in _OPTIONS}
    close = [known[near] for near in difflib.get_close_matches(name, known, n=1)]
    meant = f"; did you mean {close[0]}?" if close else "; what is only to be carried along belongs into meta"
    return f"{name}: unknown in a line with {kind}{meant}"
