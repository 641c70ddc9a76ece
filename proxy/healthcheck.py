"""Ask a health page, for an image that has no curl: ``python -m proxy.healthcheck [URL]``; exit code 0 where it is 200.

A container's health check starts it every few seconds beside the proxy, so it imports as little as it can: a socket and
no HTTP client (0.04 s and 17 MB less, measured).
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Final

_TIMEOUT_S: Final = 3.0
_DEFAULT: Final = "127.0.0.1:11436"
_HELP: Final = "usage: python -m proxy.healthcheck [http://HOST:PORT/PATH]"


def check(url: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Ask once.

    Args:
        url: ``http://HOST:PORT/PATH``. An address that means all of a machine's is asked for on loopback.
        timeout_s: Longest wait for it to connect, and then for each piece of its answer.

    Returns:
        What is wrong; empty where the answer is 200.

    Raises:
        ValueError: It is no such URL.
    """
    address, path = _parse(url)
    try:
        with socket.create_connection(address, timeout_s) as connection:
            # HTTP/1.0: the answer ends with the connection, and it needs no Host that would have to be one of ours.
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode("ascii"))
            status = _status(connection)
    except OSError as error:
        return f"{url}: {error.strerror or error}"
    return "" if status == b"200" else f"{url}: answered {status.decode('latin-1') or 'nothing'}"


def _parse(url: str) -> tuple[tuple[str, int], str]:
    authority, _, path = url.removeprefix("http://").partition("/")
    host, _, port = authority.rpartition(":")
    if not url.startswith("http://") or not port.isdigit() or not path.isascii() or not path.isprintable():
        raise ValueError(_HELP)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}.get(host, host)  # noqa: S104 - none listens here
    return (host.strip("[]"), int(port)), f"/{path}"


def _status(connection: socket.socket) -> bytes:
    """The status of the answer; empty where it is none."""
    line = b""
    while b"\r\n" not in line and len(line) < 64 and (received := connection.recv(64)):
        line += received
    version, _, rest = line.partition(b" ")
    return rest[:3] if version.startswith(b"HTTP/") else b""


def main(arguments: list[str], admin: str) -> int:
    """Run it.

    Args:
        arguments: The URL, or nothing for ``/livez`` of the admin port.
        admin: Where that is, ``HOST:PORT``; empty for the default.

    Returns:
        0 where all is well, 1 where not, 2 for wrong arguments.
    """
    if len(arguments) > 1:
        return _say(_HELP, 2)
    try:
        problem = check(arguments[0] if arguments else f"http://{admin or _DEFAULT}/livez")
    except ValueError as error:
        return _say(str(error), 2)
    return _say(problem, 1) if problem else 0


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ.get("PILOTLIGHT_ADMIN", "")))
