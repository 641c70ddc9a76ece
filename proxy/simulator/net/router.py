"""Finding the handler of a request as gin v1.10.0 does (``gin.go``, ``handleHTTPRequest``)."""

from __future__ import annotations

import posixpath
import urllib.parse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from proxy.simulator.net.request import Head
    from proxy.simulator.net.writer import ResponseWriter

C = TypeVar("C")
_METHODS: Final = ("HEAD", "GET", "POST", "DELETE")  # in the order in which Ollama registers them


@dataclass(slots=True)
class Match(Generic[C]):
    """What was found: a handler, or the methods that the path has, or where the path should have pointed."""

    handler: Callable[[C], Awaitable[None]] | None = None
    params: dict[str, str] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)
    moved_to: str = ""


class Router(Generic[C]):
    """Routes by method; a last segment such as ":model" takes one segment."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Callable[[C], Awaitable[None]]]] = {method: {} for method in _METHODS}

    def add(self, method: str, path: str, handler: Callable[[C], Awaitable[None]]) -> None:
        """Register a handler."""
        self._routes[method][path] = handler

    def find(self, method: str, path: str) -> Match[C]:
        """The handler for a request."""
        found = self._lookup(method, path)
        if found is not None:
            return found
        if method in self._routes and path != "/":
            other = path[:-1] if path.endswith("/") else f"{path}/"
            if self._lookup(method, other) is not None:
                return Match(moved_to=other)
        allowed = [name for name in _METHODS if name != method and self._lookup(name, path) is not None]
        return Match(allowed=allowed)

    def _lookup(self, method: str, path: str) -> Match[C] | None:
        routes = self._routes.get(method, {})
        if path in routes:
            return Match(routes[path])
        before, _, last = path.rpartition("/")
        if not last:
            return None
        for pattern, handler in routes.items():
            base, _, name = pattern.rpartition("/")
            if name.startswith(":") and base == before:
                return Match(handler, {name[1:]: last})
        return None


def clean_path(path: str) -> str:
    """The path as Go's ``ServeMux`` wants it (``cleanPath``)."""
    if not path:
        return "/"
    cleaned = posixpath.normpath(path if path.startswith("/") else f"/{path}")
    if cleaned.startswith("//"):
        cleaned = cleaned[1:]
    return f"{cleaned}/" if path.endswith("/") and cleaned != "/" else cleaned


def redirect(head: Head, response: ResponseWriter, target: str, status: int) -> None:
    """``http.Redirect``."""
    where = urllib.parse.quote(target, safe="/:@!$&'()*+,;=~-._")
    if head.query:
        where += f"?{head.query}"
    response.set_header("Location", where)
    if head.method in ("GET", "HEAD"):
        response.set_header("Content-Type", "text/html; charset=utf-8")
    response.write_header(status)
    if head.method == "GET":
        text = {301: "Moved Permanently", 307: "Temporary Redirect"}[status]
        shown = where.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        response.write(f'<a href="{shown}">{text}</a>.\n\n'.encode())
