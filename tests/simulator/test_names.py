"""Model names as Ollama 0.24.0 parses them."""

from __future__ import annotations

import pytest

from proxy.simulator.engine.names import (
    ConflictingSource,
    ModelRequired,
    UnqualifiedName,
    parse_name,
    parse_pull_reference,
    parse_reference,
)


@pytest.mark.parametrize(
    ("text", "shortest"),
    [
        ("tiny", "tiny:latest"),
        ("tiny:1b", "tiny:1b"),
        ("library/tiny", "tiny:latest"),
        ("registry.ollama.ai/library/tiny:latest", "tiny:latest"),
        ("user/tiny", "user/tiny:latest"),
        ("host:5000/user/tiny:x", "host:5000/user/tiny:x"),
        ("http://host/user/tiny", "host/user/tiny:latest"),
    ],
)
def test_defaults_are_put_in_and_left_out(text: str, shortest: str) -> None:
    name = parse_name(text)
    assert name.is_valid()
    assert name.shortest == shortest


@pytest.mark.parametrize(
    "text", ["", " ", "a b", "tiny:", ":", "/tiny", "tiny/", "ü", ".x", "a" * 81, "tiny@sha256:aa"]
)
def test_bad_names_are_not_valid(text: str) -> None:
    assert not parse_name(text).is_valid()


@pytest.mark.parametrize(
    ("text", "base", "source"),
    [("x:cloud", "x", "cloud"), ("x:7b-cloud", "x:7b", "cloud"), ("x:local", "x", "local"), (" x ", "x", "")],
)
def test_a_suffix_says_where_a_model_lives(text: str, base: str, source: str) -> None:
    reference = parse_reference(text)
    assert (reference.base, reference.source) == (base, source)


def test_pulling_keeps_the_older_spelling_of_cloud_models() -> None:
    assert parse_pull_reference("x:cloud").base == "x:cloud"
    assert parse_pull_reference("x:7b:cloud").base == "x:7b-cloud"


def test_bad_references_say_why() -> None:
    with pytest.raises(ModelRequired, match="model is required"):
        parse_reference("  ")
    with pytest.raises(ConflictingSource, match='use either :local or :cloud, not both: "x:local:cloud"'):
        parse_reference("x:local:cloud")
    with pytest.raises(UnqualifiedName):
        parse_reference("a b")
