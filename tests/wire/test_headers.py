from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.headers import end_to_end, has_token, names_of, stream_fields, valid_request_id

if TYPE_CHECKING:
    from proxy.wire.headers import Field


def test_hop_by_hop_fields_and_those_that_connection_names_stay_behind() -> None:
    fields = [
        (b"Host", b"a"),
        (b"Connection", b"close, X-Secret"),
        (b"x-secret", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"x"),
        (b"Authorization", b"Bearer x"),
    ]
    assert end_to_end(fields) == [(b"Host", b"a"), (b"Authorization", b"Bearer x")]


def test_being_named_in_connection_takes_neither_length_nor_host_away() -> None:
    fields = [(b"Connection", b"content-length, host"), (b"Host", b"a"), (b"Content-Length", b"3")]
    assert end_to_end(fields) == fields[1:]


def test_order_case_and_repetitions_survive() -> None:
    fields = [(b"x-B", b"1"), (b"X-a", b"2"), (b"x-b", b"3")]
    assert end_to_end(fields) == fields


@pytest.mark.parametrize("value", [b"abc", b"x" * 128, b"~!"])
def test_a_usable_request_id_is_kept(value: bytes) -> None:
    assert valid_request_id(value)


@pytest.mark.parametrize("value", [None, b"", b"x" * 129, b"a b", b"a\r\nb", "ü".encode(), b"\x7f"])
def test_an_unusable_request_id_is_not(value: bytes | None) -> None:
    assert not valid_request_id(value)


def test_tokens_are_found_without_regard_to_case_and_place() -> None:
    assert has_token([(b"Connection", b"keep-alive, Upgrade")], b"connection", b"upgrade")
    assert not has_token([(b"Connection", b"upgraded")], b"connection", b"upgrade")


def test_a_cache_control_of_ollamas_own_is_left_as_it_is() -> None:
    assert (b"Cache-Control", b"no-cache, no-transform") in stream_fields([])
    assert (b"Cache-Control", b"no-transform") in stream_fields([(b"Cache-Control", b"no-cache")])


_NAMES = st.sampled_from([b"Host", b"host", b"X-A", b"x-a", b"Connection", b"TE", b"Accept", b"X" * 3000])
_FIELDS = st.lists(st.tuples(_NAMES, st.sampled_from([b"", b"1", b"close", b"x-a, close", b"te"])), max_size=8)


@given(_FIELDS, st.frozensets(st.sampled_from([b"host", b"x-a", b"accept"])))
def test_names_say_of_the_fields_what_the_fields_say(fields: list[Field], dropped: frozenset[bytes]) -> None:
    names = names_of(fields)
    assert list(names.lower) == [name.lower() for name, _ in fields]
    for name in {name.lower() for name, _ in fields} | {b"missing"}:
        assert names.first(fields, name) == next((value for key, value in fields if key.lower() == name), None)
    assert names.without(fields, dropped) == [field for field in fields if field[0].lower() not in dropped]


@given(_FIELDS, st.frozensets(st.sampled_from([b"accept"])))
def test_what_connection_names_is_asked_anew_for_each_head(fields: list[Field], without: frozenset[bytes]) -> None:
    named = {token.strip() for name, value in fields if name.lower() == b"connection" for token in value.split(b",")}
    gone = (named - {b"host"}) | {b"connection", b"te"} | without
    assert end_to_end(fields, without) == [field for field in fields if field[0].lower() not in gone]


def test_the_same_names_are_read_once() -> None:
    assert names_of([(b"Host", b"a"), (b"X", b"1")]) is names_of([(b"Host", b"b"), (b"X", b"2")])
