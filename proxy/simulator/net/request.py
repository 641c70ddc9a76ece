"""One request as it came from the wire, and reading its head the way Go's ``net/http`` does."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class BadHead(Exception):
    """The head is malformed; as Go answers it, the detail stands in the status line as well as in the body.

    Source: Go 1.26 ``net/http/server.go``, ``conn.serve`` and ``conn.readRequest``.
    """

    def __init__(self, detail: str = "", status: int = 400, reason: str = "Bad Request") -> None:
        super().__init__(detail or reason)
        self.status_line = f"{status} {reason}: {detail}" if detail else f"{status} {reason}"
        self.body = self.status_line


@dataclass(slots=True)
class Head:
    """The head of a request. ``headers`` keeps order and spelling; ``get`` ignores case."""

    method: str
    target: str
    version: tuple[int, int]
    headers: list[tuple[str, str]] = field(default_factory=list)

    def get(self, name: str, default: str = "") -> str:
        """The first value of a header."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), default)

    def has_token(self, name: str, token: str) -> bool:
        """Whether a list header names ``token``."""
        wanted = name.lower()
        return any(
            token in (part.strip().lower() for part in value.split(","))
            for key, value in self.headers
            if key.lower() == wanted
        )

    @property
    def path(self) -> str:
        """The decoded path."""
        return urllib.parse.unquote(self._split()[0], errors="surrogateescape")

    @property
    def escaped_path(self) -> str:
        """The path as it was sent."""
        return self._split()[0]

    @property
    def query(self) -> str:
        """What follows the question mark, as it was sent."""
        return self._split()[1]

    @property
    def host(self) -> str:
        """Host, from an absolute target or the header."""
        if "://" in self.target:
            return urllib.parse.urlsplit(self.target).netloc
        return self.get("Host")

    def _split(self) -> tuple[str, str]:
        target = self.target
        if "://" in target:
            parts = urllib.parse.urlsplit(target)
            return parts.path or "/", parts.query
        path, _, query = target.partition("?")
        return path, query


def parse_head(raw: bytes) -> Head:
    """Read a request head without its final blank line.

    Raises:
        BadHead: with Go's answer.
    """
    lines = raw.split(b"\n")
    head = _parse_first_line(lines[0].rstrip(b"\r"))
    for line in lines[1:]:
        if line[:1] in (b" ", b"\t") and head.headers:
            name_before, value_before = head.headers[-1]
            head.headers[-1] = (name_before, f"{value_before} {_text(line)}")
            continue
        name, colon, value = line.rstrip(b"\r").partition(b":")
        if not colon:
            raise BadHead
        if not _TOKEN.fullmatch(name):
            raise BadHead("invalid header name")
        head.headers.append((name.decode("ascii"), _text(value)))
    _check(head)
    return head


def _text(value: bytes) -> str:
    return value.strip(b" \t\r").decode("utf-8", "surrogateescape")


def _parse_first_line(first: bytes) -> Head:
    parts = first.split(b" ")
    if len(parts) < 3:
        raise BadHead
    method, target, version = parts[0], b" ".join(parts[1:-1]), parts[-1]
    match = re.fullmatch(rb"HTTP/(\d)\.(\d)", version)
    if match is None or not _TOKEN.fullmatch(method) or b" " in target or re.search(rb"[\x00-\x1f\x7f]", target):
        raise BadHead
    number = (int(match.group(1)), int(match.group(2)))
    if number[0] != 1:
        raise BadHead("unsupported protocol version", 505, "HTTP Version Not Supported")
    known_start = target.startswith(b"/") or b"://" in target or target == b"*" or method == b"CONNECT"
    if not known_start or re.search(rb"%(?![0-9a-fA-F]{2})", target.partition(b"?")[0]):
        raise BadHead
    return Head(method.decode("ascii"), target.decode("latin-1"), number)


def _check(head: Head) -> None:
    hosts = [value for name, value in head.headers if name.lower() == "host"]
    if head.version >= (1, 1) and not hosts and head.method != "CONNECT":
        raise BadHead("missing required Host header")
    if len(hosts) > 1:
        raise BadHead
    if hosts and re.search(r"[^!-~]", hosts[0]):
        raise BadHead("malformed Host header")
    lengths = {value for name, value in head.headers if name.lower() == "content-length"}
    if len(lengths) > 1 or any(not value.isdigit() for value in lengths):
        raise BadHead
    encodings = [value.lower() for name, value in head.headers if name.lower() == "transfer-encoding"]
    if encodings and encodings != ["chunked"]:
        error = BadHead("", 501, "Not Implemented")
        error.body = "Unsupported transfer encoding"
        raise error
