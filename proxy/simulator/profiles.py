"""Which models a simulated server has, and what machine it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from typing import Final

from proxy.simulator.engine.names import parse_name
from proxy.simulator.engine.scheduler import Machine
from proxy.simulator.engine.store import MEDIA, Layer, Store
from proxy.simulator.engine.weights import Weights
from proxy.simulator.golang import jsonout

PROFILES: Final = ("demo", "recorded")
_JSON_LAYERS: Final = ("params", "messages")


class ProfileError(Exception):
    """A models file says something impossible; the message names the place."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Models and machine; ``library`` is what can be pulled, None for a machine without a network."""

    store: Store
    machine: Machine
    library: Store | None = None


def read_profile(name: str) -> Profile:
    """A built-in profile: "demo" or "recorded".

    Raises:
        ProfileError: there is no such profile.
    """
    if name not in PROFILES:
        raise ProfileError(f"no such profile: {name}; there are {', '.join(PROFILES)}")
    text = resources.files("proxy.simulator").joinpath("data", f"{name}.json").read_text(encoding="utf-8")
    return build_profile(json.loads(text))


def build_profile(data: Mapping[str, object]) -> Profile:
    """A profile out of a description: {"machine": {...}, "weights": {...}, "models": [...]}.

    With "library" (more models) and "library_weights" there is something to pull: those, and the models themselves.

    Raises:
        ProfileError
    """
    store = Store()
    weights = {key: _weights(key, value) for key, value in _mapping(data.get("weights") or {}, "weights").items()}
    for item in weights.values():
        store.add_weights(item)
    models = data.get("models")
    for index, model in enumerate(models if isinstance(models, list) else []):
        _add_model(store, weights, _mapping(model, f"models[{index}]"), f"models[{index}]")
    machine = _known(Machine, _mapping(data.get("machine") or {}, "machine"), "machine")
    return Profile(store, Machine(**machine), _library(data, store))  # type: ignore[arg-type]


def _library(data: Mapping[str, object], store: Store) -> Store | None:
    models = data.get("library")
    if not isinstance(models, list):
        return None
    library = Store(blobs=dict(store.blobs), manifests=dict(store.manifests))
    given = _mapping(data.get("library_weights") or {}, "library_weights")
    weights = {key: _weights(key, value) for key, value in given.items()}
    for item in weights.values():
        library.add_weights(item)
    for index, model in enumerate(models):
        _add_model(library, weights, _mapping(model, f"library[{index}]"), f"library[{index}]")
    return library


def _mapping(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ProfileError(f"{place}: an object is needed")
    return value


def _known(kind: type[Machine] | type[Weights], given: Mapping[str, object], place: str) -> dict[str, object]:
    names = {field.name for field in fields(kind)}
    for name in given:
        if name not in names:
            raise ProfileError(f"{place}.{name}: no such field; there are {', '.join(sorted(names))}")
    return dict(given)


def _weights(key: str, value: object) -> Weights:
    place = f"weights.{key}"
    given = _known(Weights, _mapping(value, place), place)
    digest = given.get("digest")
    if not isinstance(digest, str):
        digest = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    replies = given.get("replies") or {}
    embeddings = given.get("embeddings") or {}
    values: dict[str, object] = {
        **given,
        "digest": digest,
        "lost_pairs": tuple(_list(given.get("lost_pairs"))),
        "special_tokens": tuple(_list(given.get("special_tokens"))),
        "tensors": tuple(_list(given.get("tensors"))),
        "replies": {name: tuple(_list(tokens)) for name, tokens in _mapping(replies, place).items()},
        "embeddings": {text: tuple(_list(vector)) for text, vector in _mapping(embeddings, place).items()},
    }
    weights = Weights(**values)  # type: ignore[arg-type]
    return replace(weights, info=_info(weights)) if not weights.info else weights


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _info(weights: Weights) -> dict[str, object]:
    """What /api/show would report at the least."""
    arch = weights.architecture
    return {
        "general.architecture": arch,
        "general.parameter_count": 1,
        f"{arch}.context_length": weights.context_length,
        f"{arch}.embedding_length": weights.embedding_length,
        f"{arch}.vocab_size": weights.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": None,
    }


_MODEL_FIELDS: Final = frozenset(
    ["name", "weights", "template", "system", "license", "parameters", "messages", "settings", "modified_ns", "digest"]
)


def _add_model(store: Store, weights: Mapping[str, Weights], data: Mapping[str, object], place: str) -> None:
    for field in data:
        if field not in _MODEL_FIELDS:
            raise ProfileError(f"{place}.{field}: no such field; there are {', '.join(sorted(_MODEL_FIELDS))}")
    name = parse_name(str(data.get("name", "")))
    if not name.is_valid():
        raise ProfileError(f"{place}.name: not a model name")
    settings: dict[str, object] = {"model_format": "", "model_family": "", "model_families": None}
    settings |= {"model_type": "", "file_type": ""}
    layers: list[Layer] = []
    key = data.get("weights")
    if key is not None:
        if key not in weights:
            raise ProfileError(f"{place}.weights: no such weights: {key}")
        held = weights[str(key)]
        origin = held.own_origin or store.path_of(held.digest)
        layers.append(Layer(f"{MEDIA}model", held.digest, held.size_bytes, origin))
        settings |= {"model_format": "gguf", "model_family": held.architecture}
        settings |= {"model_families": [held.architecture], "model_type": held.parameter_size}
        settings |= {"file_type": held.quantization}
    settings |= _mapping(data.get("settings") or {}, f"{place}.settings")
    layers += _text_layers(store, data)
    extra = {}
    if isinstance(data.get("modified_ns"), int):
        extra["modified_ns"] = data["modified_ns"]
    if isinstance(data.get("digest"), str):
        extra["pinned_digest"] = data["digest"]
    store.write(name, layers, settings, **extra)


def _text_layers(store: Store, data: Mapping[str, object]) -> list[Layer]:
    layers = []
    for field, kind in (
        ("template", "template"),
        ("system", "system"),
        ("license", "license"),
        ("parameters", "params"),
        ("messages", "messages"),
    ):
        value = data.get(field)
        if not value:
            continue
        content = f"{jsonout.marshal(jsonout.as_go_map(value) if kind == 'params' else value)}\n"
        layers.append(store.layer((content if kind in _JSON_LAYERS else str(value)).encode(), kind))
    return layers
