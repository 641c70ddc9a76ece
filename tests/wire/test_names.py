from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.names import canonical, is_cloud


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.2", "llama3.2:latest"),
        (" Llama3.2:3B\n", "llama3.2:3b"),
        ("library/llama3.2", "llama3.2:latest"),
        ("registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("Registry.Ollama.AI/mine/m", "mine/m:latest"),
        ("https://hf.co/Bartowski/Some-GGUF:Q4_K_M", "hf.co/bartowski/some-gguf:q4_k_m"),
        ("host:5000/ns/model", "host:5000/ns/model:latest"),
        ("mine:local", "mine:latest"),
        ("mine:7b:local", "mine:7b"),
        ("gpt-oss:120b-cloud", "gpt-oss:120b-cloud"),
        ("kimi:Cloud", "kimi:cloud"),
    ],
)
def test_one_model_has_one_name(name: str, expected: str) -> None:
    assert canonical(name) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        *["", ":", "a:", "/a", "a//b", "a/b/c/d", "-a", ".a", "a b", "ä", "n.s/x", "m:x:y", "a:local:local"],
        *["a" * 81, "m:" + "t" * 81, "a:cloud:local"],
    ],
)
def test_a_name_that_ollama_refuses_stays_as_it_is(name: str) -> None:
    assert canonical(f" {name} ") == name


@pytest.mark.parametrize(
    ("name", "cloud"),
    [
        ("kimi:cloud", True),
        ("gpt-oss:120b-CLOUD ", True),
        ("kimi-cloud", False),
        ("cloud", False),
        ("a:x-cloud/b", False),
        ("m:latest", False),
    ],
)
def test_cloud_models_are_told_by_their_suffix(name: str, cloud: bool) -> None:
    assert is_cloud(name) is cloud


@given(st.text())
def test_any_text_has_a_name_that_stays(name: str) -> None:
    once = canonical(name)
    assert canonical(once) == once
    is_cloud(name)
