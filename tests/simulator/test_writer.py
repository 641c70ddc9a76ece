"""The framing of Go's ``net/http``."""

from __future__ import annotations

from proxy.simulator.net.request import Head
from proxy.simulator.net.writer import BUFFER_BYTES, ResponseWriter


def written(*pieces: bytes, flush: bool = False, method: str = "GET", version: tuple[int, int] = (1, 1)) -> bytes:
    out: list[bytes] = []
    writer = ResponseWriter(Head(method, "/", version), out.append)
    writer.set_header("Content-Type", "text/plain")
    for piece in pieces:
        writer.write(piece)
        if flush:
            writer.flush()
    writer.finish()
    return b"".join(out)


def test_what_fits_the_buffer_has_a_content_length() -> None:
    assert b"Content-Length: 2048\r\n" in written(b"x" * BUFFER_BYTES)
    assert b"Content-Length: 3\r\n" in written(b"a", b"bc")


def test_what_does_not_fit_is_chunked_and_a_large_write_is_one_chunk() -> None:
    assert written(b"x" * 5000).endswith(b"\r\n\r\n1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n")


def test_a_full_buffer_is_a_chunk_of_its_own() -> None:
    assert b"\r\n\r\n800\r\n" in written(b"a" * 100, b"b" * 2000)


def test_each_flush_ends_a_chunk() -> None:
    assert written(b"a", b"b", flush=True).endswith(b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


def test_own_headers_come_first_then_date_then_framing() -> None:
    names = [line.split(b":")[0] for line in written(b"x").split(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert names == [b"Content-Type", b"Date", b"Content-Length"]


def test_head_has_the_length_and_no_body() -> None:
    reply = written(b"four", method="HEAD")
    assert b"Content-Length: 4\r\n" in reply
    assert reply.endswith(b"\r\n\r\n")


def test_http10_is_never_chunked() -> None:
    reply = written(b"a", b"b", flush=True, version=(1, 0))
    assert reply.startswith(b"HTTP/1.0 200 OK")
    assert reply.endswith(b"\r\n\r\nab")
