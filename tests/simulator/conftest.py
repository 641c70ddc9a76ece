"""Profiles made for one question each."""

from __future__ import annotations

import math
from typing import Any

import pytest

from proxy.simulator import SimulatedOllama, build_profile

CHAT_TEMPLATE = "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ end }}<|assistant|>"
GIB = 2**30


def weights(**more: Any) -> dict[str, Any]:
    """Weights of one GiB that load at once."""
    return {"size_bytes": GIB, "resident_bytes": GIB, "load_s": 0.0, "vocab_size": 1000, **more}


def simulated(
    models: dict[str, str] | None = None, *, of: dict[str, Any] | None = None, **more: Any
) -> SimulatedOllama:
    """A server with the given models (name: weights), at infinite speed."""
    named = models or {"one": "w1", "two": "w2", "three": "w3"}
    held = {key: weights(**(of or {}).get(key, {})) for key in set(named.values())}
    listed = [{"name": name, "weights": key, "template": CHAT_TEMPLATE} for name, key in named.items()]
    more.setdefault("speed", math.inf)
    return SimulatedOllama(build_profile({"weights": held, "models": listed}), **more)


@pytest.fixture
def chat() -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], "options": {"num_predict": 3}}
