from __future__ import annotations

import pytest

from proxy.settings.address import Address, is_loopback, is_same_place, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:11435", Address("127.0.0.1", 11435)),
        ("[::1]:80", Address("::1", 80)),
        ("ollama.internal:0", Address("ollama.internal", 0)),
    ],
)
def test_an_address_reads_and_prints_as_itself(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "11435", ":11435", "::1:80", "host:", "host:65536", "host:-1", "a b:1", "host:\uff11", "http://h:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT|above 65535"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("ollama", False),
    ],
)
def test_loopback_is_judged_by_spelling(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::1]:1", True),
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "0.0.0.0:1", True),
        ("[::]:1", "localhost:1", True),
        ("Ollama:1", "ollama:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:1", "[::1]:1", False),
        ("127.0.0.1:1", "10.0.0.1:1", False),
        ("0.0.0.0:1", "ollama:1", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_spellings_of_one_place_are_recognised(one: str, other: str, same: bool) -> None:
    assert is_same_place(parse_address(one), parse_address(other)) is same
    assert is_same_place(parse_address(other), parse_address(one)) is same
