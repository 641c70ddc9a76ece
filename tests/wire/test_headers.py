from __future__ import annotations

import pytest

from proxy.wire.headers import end_to_end, has_token, stream_fields, valid_request_id


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
