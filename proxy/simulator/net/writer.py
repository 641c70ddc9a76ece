"""Writing a response with the framing of Go's ``net/http``.

What a handler writes goes through a buffer of 2,048 bytes. An answer that fits into it when the handler is done has
a Content-Length; any other one is chunked, one chunk per emptying of the buffer, and a write larger than the empty
buffer is a chunk of its own. Headers of the handler come first, sorted; then Date, Content-Length, Content-Type (where
guessed), Connection and Transfer-Encoding.

Source: Go 1.26 ``net/http/server.go`` (``bufferBeforeChunkingSize``, ``chunkWriter.writeHeader``, ``extraHeader``).
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.simulator.net.request import Head

BUFFER_BYTES: Final = 2048
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Request Entity Too Large",
    418: "I'm a teapot",
    422: "Unprocessable Entity",
}


def http_date(unix_s: float) -> str:
    """A time for the Date header."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(unix_s))


def status_line(status: int, *, http11: bool = True) -> bytes:
    """A status line; a status that Go does not know is named "status code N"."""
    reason = _REASONS.get(status, f"status code {status}")
    return f"HTTP/1.{'1' if http11 else '0'} {status:03d} {reason}\r\n".encode("ascii")


class ResponseWriter:
    """One response: headers, a status, and bytes.

    Args:
        head: the request that is answered.
        send: takes bytes for the wire; never blocks.
    """

    def __init__(self, head: Head, send: Callable[[bytes], None]) -> None:
        self.headers: dict[str, list[str]] = {}
        self.status = 200
        self._head = head
        self._send = send
        self._buffer = b""
        self._head_sent = False
        self._chunked = False
        self._touched = False
        self._has_body = True
        self.close_after = False

    @property
    def written(self) -> bool:
        """Whether the handler has written anything: status and headers hold from then on."""
        return self._touched

    @property
    def head_sent(self) -> bool:
        """Whether the head has left."""
        return self._head_sent

    def set_header(self, name: str, value: str) -> None:
        """Set a header; without effect once something was written."""
        if not self._touched:
            self.headers[name] = [value]

    def write_header(self, status: int) -> None:
        """Set the status; like the headers it is fixed only by the first write (gin's writer)."""
        if not self._touched:
            self.status = status

    def write(self, data: bytes) -> None:
        """Write as a handler does, through the buffer."""
        self._touched = True
        while len(data) > BUFFER_BYTES - len(self._buffer):
            if self._buffer:
                room = BUFFER_BYTES - len(self._buffer)
                full, self._buffer = self._buffer + data[:room], b""
                data = data[room:]
                self._emit(full)
            else:
                self._emit(data)
                return
        self._buffer += data

    def flush(self) -> None:
        """Send what is buffered, and the head."""
        self._touched = True
        pending, self._buffer = self._buffer, b""
        if not self._head_sent:
            self._write_head(pending, done=False)
        if pending:
            self._emit(pending)

    def finish(self) -> None:
        """The handler is done."""
        pending, self._buffer = self._buffer, b""
        if not self._head_sent:
            self._write_head(pending, done=True)
        if pending:
            self._emit(pending)
        if self._chunked:
            self._send(b"0\r\n\r\n")

    def _emit(self, data: bytes) -> None:
        if not self._head_sent:
            self._write_head(data, done=False)
        if not self._has_body:
            return
        self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _write_head(self, first: bytes, *, done: bool) -> None:
        self._head_sent = True
        head, http11 = self._head, self._head.version >= (1, 1)
        is_head = head.method == "HEAD"
        body_allowed = self.status >= 200 and self.status not in (204, 304)
        keep_alive10 = not http11 and head.has_token("Connection", "keep-alive")
        extra: list[tuple[str, str]] = []
        length = len(first) if done and body_allowed and (not is_head or first) else None
        connection = ""
        if keep_alive10 and (is_head or length is not None or not body_allowed):
            connection = "" if "Connection" in self.headers else "keep-alive"
        elif not http11 or head.has_token("Connection", "close"):
            self.close_after = True
        guessed = body_allowed and "Content-Type" not in self.headers and bool(first)
        extra.append(("Date", http_date(time.time())))
        if length is not None:
            extra.append(("Content-Length", str(length)))
        if guessed:
            extra.append(("Content-Type", "text/plain; charset=utf-8"))
        self._has_body = not is_head and body_allowed
        if self._has_body and length is None:
            self._chunked = http11
            self.close_after = self.close_after or not http11
        if self.close_after:
            self.headers.pop("Connection", None)
            connection = "close" if http11 else ""
        if connection:
            extra.append(("Connection", connection))
        if self._chunked:
            extra.append(("Transfer-Encoding", "chunked"))
        lines = [(name, value) for name in sorted(self.headers) for value in self.headers[name]]
        text = "".join(f"{name}: {value}\r\n" for name, value in [*lines, *extra])
        self._send(status_line(self.status, http11=http11) + text.encode("utf-8", "surrogateescape") + b"\r\n")
