"""Which requests to Ollama are the same, and which may be answered with an answer that is there already.

What must live here: the comparable form of a body, the key, the reasons against reuse. What it must not know: what is
stored or in flight, and what the time is. Everything is about the request as it is *sent*, not as the client asked.
"""

from __future__ import annotations

import hmac
import json
import math
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from proxy.wire.gojson import read_object
from proxy.wire.headers import has_token
from proxy.wire.routes import Family, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from proxy.wire.gojson import JsonObject
    from proxy.wire.headers import Field
    from proxy.wire.routes import Route

Mode = Literal["off", "deterministic", "all"]

MAX_BODY_BYTES: Final = 1024 * 1024
"""Of the canonical form. Larger ones are images and whole documents: seldom asked twice, and dear to compare."""

# What is generated from. A native body without any of it only loads the model, or unloads it.
_SOURCES: Final = ("prompt", "messages", "input")
# Ollama keeps these as the client wrote them, and the order of their members reaches the prompt or the grammar: a
# schema's properties are generated in it (llama.cpp, json-schema-to-grammar.cpp: ``ordered_json``), tools and their
# arguments are rendered in it (api/types.go).
_ORDERED: Final = frozenset(
    (
        "format",
        "response_format",
        "text",
        "json_schema",
        "schema",
        "input_schema",
        "parameters",
        "properties",
        "tools",
        "functions",
        "tool_calls",
        "function_call",
        "arguments",
        "input",
    )
)
# ml/sample and llama.cpp: -1 asks for a random seed, and so does 2**32 - 1, which is the same in 32 bits.
_SEEDS: Final = range(2**32 - 1)
# openai/openai.go: what a request without a temperature gets, whatever the Modelfile says.
_OPENAI_TEMPERATURE: Final = 1.0


class _Odd(ValueError):
    """Two readings are possible, or a number that cannot be compared."""


def canonical(body: bytes, *, native: bool = False) -> bytes | None:
    """The form of a body in which two that ask for the same are the same bytes.

    Members are sorted, spaces are gone, escapes are resolved, ``keep_alive`` is left out: it changes what becomes of
    the model and not the answer. It stays where there is nothing to generate from, because there it is the request.
    Members of schemas and tools keep their order, which Ollama and the model see. Integers and other numbers are never
    the same (``1`` and ``1.0``).

    Args:
        body: As it is sent.
        native: For a route below ``/api/``, where ``"stream": true`` is the same as no ``stream``.

    Returns:
        ``None`` where it is no JSON object of which there is but one reading: it is never reused.
    """
    return canonical_without(body, ("stream",) if native else ())


def canonical_without(body: bytes, names: Collection[str]) -> bytes | None:
    """Like :func:`canonical`, less some members of the outermost object; ``stream`` only where it is true."""
    obj = read_object(body)
    if obj is None or obj.odd:
        return None
    try:
        found = _decoder.decode(obj.text[obj.start : obj.end])
        if any(found.get(name) for name in _SOURCES):
            found.pop("keep_alive", None)
        for name in names:
            if name != "stream" or found.get(name) is True:
                found.pop(name, None)
        return orjson.dumps(_sorted(found))
    except (ValueError, RecursionError, orjson.JSONEncodeError):
        # Besides _Odd: digits without end, nesting without end, integers beyond 64 bits, lone surrogates.
        return None


def is_deterministic(options: Mapping[str, Any], model_parameters: Mapping[str, Any]) -> bool:
    """Whether the same request gets the same answer: temperature 0, or a seed.

    Args:
        options: As Ollama gets them; null is the same as absent.
        model_parameters: PARAMETERs of the Modelfile, which count where the request says nothing
            (:attr:`proxy.rewrite.facts.ModelFacts.parameters`).
    """
    temperature, seed = (
        model_parameters.get(name) if options.get(name) is None else options[name] for name in ("temperature", "seed")
    )
    greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return greedy or (isinstance(seed, int) and not isinstance(seed, bool) and seed in _SEEDS)


def sampling_options(route: Route, obj: JsonObject) -> dict[str, Any]:
    """``temperature`` and ``seed`` as Ollama makes them of a body (openai/openai.go, anthropic/anthropic.go)."""
    if route.kind is not Kind.V1:
        options = obj.given("options")
        return options if isinstance(options, dict) else {}
    found = {"temperature": obj.given("temperature")}
    if route.family is not Family.ANTHROPIC and found["temperature"] is None:
        found["temperature"] = _OPENAI_TEMPERATURE
    if route.family is Family.OPENAI:
        found["seed"] = obj.given("seed")
    return found


def bypass_reason(
    mode: Mode,
    route: Route,
    obj: JsonObject,
    fields: Sequence[Field],
    canonical_body: bytes,
    model_parameters: Mapping[str, Any],
) -> str:
    """Why a request is not answered from the cache.

    Args:
        mode: ``all`` asks of a request everything but that it is deterministic; so does sharing.
        route: That the request is sent to.
        obj: Its body.
        fields: Of the client's request.
        canonical_body: Its canonical form.
        model_parameters: PARAMETERs of the Modelfile.

    Returns:
        "" where it may be; else ``header``, ``tools``, ``size`` or ``sampling``, the labels of
        ``cache_bypass_total``; ``off`` where there is no cache, which nobody counts.
    """
    if mode == "off":
        return "off"
    # RFC 9111 5.2.1.4, 5.2.1.5, 5.4.
    if (
        has_token(fields, b"cache-control", b"no-store")
        or has_token(fields, b"cache-control", b"no-cache")
        or has_token(fields, b"pragma", b"no-cache")
    ):
        return "header"
    if obj.given("tools"):
        return "tools"
    if len(canonical_body) > MAX_BODY_BYTES:
        return "size"
    if (
        mode == "deterministic"
        and _samples(route)
        and not is_deterministic(sampling_options(route, obj), model_parameters)
    ):
        return "sampling"
    return ""


class Keys:
    """Makes the keys under which answers are stored and exchanges are shared.

    Args:
        secret: Of this process. With it nobody can tell from a key what was asked, or make one.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "<Keys>"

    def of(self, credential: str, upstream: str, digest: str, path: str, canonical_body: bytes) -> bytes:
        """The key of a request.

        Args:
            credential: Whose it is; what one is answered no other ever gets.
            upstream: Where it goes.
            digest: Of the model as it is now: a pull that changes the model changes every key.
            path: With its query.
            canonical_body: See :func:`canonical`.

        Raises:
            ValueError: The digest is not known, so that nobody could tell when the answer is out of date.
        """
        if not digest:
            raise ValueError("a model without a digest has no key")
        texts = [text.encode("utf-8", "surrogatepass") for text in (credential, upstream, digest, path)]
        # Each with its length before it: no two lists of parts make the same bytes.
        parts = b"".join(len(part).to_bytes(8, "big") + part for part in (*texts, canonical_body))
        return hmac.digest(self._secret, parts, "sha256")


def _samples(route: Route) -> bool:
    return not route.endpoint.endswith(("embed", "embeddings"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Go takes names without regard to case, and of several the last one.
    if len({name.casefold() for name, _ in pairs}) != len(pairs):
        raise _Odd("a name stands twice")
    return dict(pairs)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Odd("a number is too large")
    return value


def _constant(name: str) -> float:
    raise _Odd(f"{name} is no JSON")


_decoder: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: value[name] if name in _ORDERED else _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) if isinstance(item, dict | list) else item for item in value]
    return value
