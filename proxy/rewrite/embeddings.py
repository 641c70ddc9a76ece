"""``/v1/embeddings`` as ``/api/embed``, and its reply back; one text at a time.

What must live here: what Ollama itself makes of the one and of the other, character for character. What it must not
know: who else asks, and when anything is sent.

Source: Ollama 0.24.0, ``middleware/openai.go``, ``EmbeddingsMiddleware`` and ``EmbedWriter``; ``openai/openai.go``,
``EmbedRequest`` and ``ToEmbeddingList``.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.rewrite.acceptance import is_int64
from proxy.wire.gojson import go_quote, read_object
from proxy.wire.openai import error_message, error_object

if TYPE_CHECKING:
    from proxy.wire.gojson import JsonObject

_NAMES: Final = frozenset(("input", "model", "dimensions", "encoding_format"))
_FORMATS: Final = ("", "float", "base64")


class EmbeddingAsked(NamedTuple):
    """One text that is to be embedded.

    Attributes:
        body: For ``/api/embed``.
        model: As the client spells it; the reply repeats it.
        is_packed: Its numbers are wanted as base64 of 32-bit floats, least byte first.
    """

    body: bytes
    model: str
    is_packed: bool


def as_embed(obj: JsonObject | None) -> EmbeddingAsked | None:
    """Read the body of a ``/v1/embeddings``.

    Returns:
        ``None`` where it asks for anything but one text that is not empty, and for everything that Ollama refuses or
        could read in another way: such a request is relayed.
    """
    if obj is None or obj.odd_for(_NAMES):
        return None
    model, texts, raw = obj.given("model"), obj.given("input"), obj.raw("input")
    if isinstance(texts, list) and len(texts) == 1:
        texts, raw = texts[0], raw[1:-1].strip(" \t\n\r")
    form, dimensions = obj.given("encoding_format"), obj.given("dimensions")
    form = "" if form is None else form
    if not (isinstance(texts, str) and texts and isinstance(model, str) and model):
        return None
    if not (isinstance(form, str) and form.lower() in _FORMATS and (dimensions is None or is_int64(dimensions))):
        return None
    wanted = f',"dimensions":{dimensions}' if dimensions else ""
    body = f'{{"model":{obj.raw("model")},"input":{raw}{wanted}}}'
    return EmbeddingAsked(body.encode("utf-8", "surrogateescape"), model, form.lower() == "base64")


def embedding_list(asked: EmbeddingAsked, reply: bytes) -> bytes | None:
    """The answer to a ``/v1/embeddings``.

    Args:
        asked: What was asked for.
        reply: The body of the native answer with status 200. Its ``prompt_eval_count`` counts as 0 where it has none,
            as with Ollama, whose shape has no word for "unknown".

    Returns:
        ``None`` where it is no answer with one vector of numbers.
    """
    obj = read_object(reply)
    vectors = None if obj is None or obj.odd else obj.given("embeddings")
    if obj is None or not isinstance(vectors, list) or len(vectors) != 1 or not _are_numbers(vectors[0]):
        return None
    vector = _packed(vectors[0]) if asked.is_packed else obj.raw("embeddings")[1:-1].strip(" \t\n\r")
    if vector is None:
        return None
    count = obj.given("prompt_eval_count")
    count = count if is_int64(count) else 0
    return (
        f'{{"object":"list","data":[{{"object":"embedding","embedding":{vector},"index":0}}],'
        f'"model":{go_quote(asked.model)},"usage":{{"prompt_tokens":{count},"total_tokens":{count}}}}}\n'
    ).encode("utf-8", "surrogateescape")


def embedding_error(status: int, reply: bytes) -> bytes:
    """The native error of an ``/api/embed`` in the shape of ``/v1``. What is no JSON is its text as it is."""
    text = error_message(reply) if read_object(reply) is not None else reply.decode("utf-8", "replace")
    return error_object(status, text)


def _are_numbers(vector: object) -> bool:
    return isinstance(vector, list) and {int, float}.issuperset(map(type, vector))


def _packed(vector: list[float]) -> str | None:
    """Ollama's numbers are the shortest texts of 32-bit floats, so that reading them gives the same floats back."""
    try:
        return f'"{base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()}"'
    except OverflowError:
        return None
