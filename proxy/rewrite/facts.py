"""What the proxy has to know about a model before it may touch a request for it.

All of it is read from one answer to ``/api/show`` (Ollama 0.24.0, ``server/routes.go``, ``GetModelInfo``) and never
changes for one digest. What the answer does not tell is ``None`` or empty, and every decision treats that as the case
in which nothing is rewritten.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

# server/images.go, Model.String: the weights come first, adapters and projectors after them. A path on the server's
# own disk, with "\" on Windows.
_FROM_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})[ \t]*$")
_PARSER = re.compile(r"^PARSER (\S+)", re.MULTILINE)
# server/routes.go: fmt.Sprintf("%-*s %#v", 30, name, value), one line per value.
_PARAMETER = re.compile(r"(\S+) +(.*)")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model, as its ``/api/show`` describes it.

    Attributes:
        name: Canonical name.
        digest: Of the manifest, as ``/api/tags`` gives it; "" where unknown.
        weights: The blob that a runner is loaded with, ``sha256:...``; models made from one blob share a runner. Where
            there is no such blob, ``name:`` and the canonical name.
        capabilities: As Ollama lists them: completion, tools, insert, vision, embedding, thinking, image.
        remote: The model runs on another server.
        has_messages: Its Modelfile has MESSAGEs.
        vocab_size: Number of tokens, where it is told.
        trained_num_ctx: The context length it was trained with; Ollama clamps ``num_ctx`` to it.
        same_render: Whether the probe saw generate and chat render the same prompt; ``None`` before the probe.
        parameters: PARAMETERs of its Modelfile; a list for one that stands several times (``stop``).
        template: Its prompt template.
        system: Its SYSTEM text.
        families: For instance ``llama``, ``mllama``.
        format: ``gguf`` or ``safetensors``; the second runs on MLX.
        parser: Name of Ollama's built-in parser of its answers, or "".
    """

    name: str
    digest: str
    weights: str
    capabilities: frozenset[str] = frozenset()
    remote: bool = False
    has_messages: bool = False
    vocab_size: int | None = None
    trained_num_ctx: int | None = None
    same_render: bool | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    system: str = ""
    families: frozenset[str] = frozenset()
    format: str = ""
    parser: str = ""

    @property
    def can_think(self) -> bool:
        return "thinking" in self.capabilities

    @property
    def embedding_only(self) -> bool:
        """Answers only ``/api/embed``, and is loaded through it."""
        return "embedding" in self.capabilities and "completion" not in self.capabilities


def facts_from_show(name: str, digest: str, show: Mapping[str, Any]) -> ModelFacts:
    """Read an answer of ``/api/show``.

    Args:
        name: The model's name in any spelling.
        digest: From ``/api/tags``; "" where unknown.
        show: The decoded answer. Members of an unexpected type count as absent.
    """
    name = canonical(name)
    details = _object(show.get("details"))
    info = _object(show.get("model_info"))
    architecture = info.get("general.architecture")
    modelfile = _text(show.get("modelfile"))
    parser = _PARSER.search(modelfile)
    return ModelFacts(
        name=name,
        digest=digest,
        weights=_weights(modelfile) or f"name:{name}",
        capabilities=_texts(show.get("capabilities")),
        remote=bool(show.get("remote_host") or show.get("remote_model")),
        has_messages=bool(show.get("messages")),
        vocab_size=_vocab_size(info, architecture, show.get("tensors")),
        trained_num_ctx=_count(info.get(f"{architecture}.context_length")),
        parameters=_parameters(_text(show.get("parameters"))),
        template=_text(show.get("template")),
        system=_text(show.get("system")),
        families=_texts(details.get("families")) | _texts([details.get("family")]),
        format=_text(details.get("format")),
        parser=parser[1] if parser else "",
    )


def _weights(modelfile: str) -> str:
    for line in modelfile.split("\n"):
        if line.startswith("FROM "):
            blob = _FROM_BLOB.match(line)
            return f"sha256:{blob[1]}" if blob else ""
    return ""


def _vocab_size(info: Mapping[str, Any], architecture: object, tensors: object) -> int | None:
    """The number of tokens that exist for certain.

    The list of tokens decides, but Ollama sends it as null unless it was asked to be verbose; the two other places may
    count padding, so the smaller one is taken.
    """
    tokens = info.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and tokens:
        return len(tokens)
    sizes = [_count(info.get(f"{architecture}.vocab_size"))]
    for tensor in tensors if isinstance(tensors, list) else ():
        if _object(tensor).get("name") == "token_embd.weight":
            shape = _object(tensor).get("shape")
            sizes.append(_count(shape[-1]) if isinstance(shape, list) and shape else None)
    return min((size for size in sizes if size is not None), default=None)


def _parameters(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in text.split("\n"):
        parameter = _PARAMETER.fullmatch(line)
        if parameter is None:
            continue
        name, value = parameter[1], _go_value(parameter[2])
        if name not in found:
            found[name] = [value] if name == "stop" else value
        elif isinstance(found[name], list):
            found[name].append(value)
        else:
            found[name] = [found[name], value]
    return found


def _go_value(text: str) -> Any:
    """A value in Go's ``%#v``: numbers and booleans read as JSON, strings too but for rare escapes (``\\x00``)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip('"')
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> frozenset[str]:
    return (
        frozenset(item for item in value if isinstance(item, str) and item) if isinstance(value, list) else frozenset()
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
