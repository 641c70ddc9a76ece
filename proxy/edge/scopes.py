"""What a request asks to be allowed: the guard's view of Ollama's routes.

Source: Ollama v0.24.0, server/routes.go, ``GenerateRoutes``; the later releases up to v0.33.0-rc2 have the same routes
but for ``/v1/images``, which v0.32.10 no longer has.

How Ollama finds a route: Go's mux cleans ``//`` and dots away with a 301, still encoded; then gin v1.10.0 (gin.go,
``handleHTTPRequest``; ``UseRawPath`` is off) matches the path decoded once, with its case, so ``/api%2fdelete`` is
``/api/delete``. Here the path is decoded as often and must then be a row of the table to the letter, so that a spelling
which nobody needs is no route at all.
"""

from __future__ import annotations

import enum
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.wire.routes import Kind, classify, table


class Scope(enum.Enum):
    """What a request needs, from the least to the most."""

    LIVE = "live"
    READ = "read"
    INFER = "infer"
    MANAGE = "manage"


# Stands for a last segment that is the caller's: a digest, a key in base64, a model's name.
_OWN: Final = "*"

# Beside the routes that ``wire.routes`` has. Nearly every serious hole of Ollama's needed create, blobs, push or pull.
# What makes Ollama call somebody else for the caller (account, web) is managing too.
_REST: Final = {
    ("GET", "/"): Scope.LIVE,
    ("HEAD", "/"): Scope.LIVE,
    ("GET", "/api/version"): Scope.LIVE,
    ("HEAD", "/api/version"): Scope.LIVE,
    ("GET", "/api/status"): Scope.READ,
    ("GET", "/api/tags"): Scope.READ,
    ("HEAD", "/api/tags"): Scope.READ,
    ("GET", "/api/ps"): Scope.READ,
    ("POST", "/api/show"): Scope.READ,
    ("GET", "/api/experimental/model-recommendations"): Scope.READ,
    ("GET", "/v1/models"): Scope.READ,
    ("GET", "/v1/models/*"): Scope.READ,
    ("POST", "/v1/audio/transcriptions"): Scope.INFER,
    ("POST", "/v1/images/generations"): Scope.INFER,
    ("POST", "/v1/images/edits"): Scope.INFER,
    ("POST", "/api/blobs/*"): Scope.MANAGE,
    ("HEAD", "/api/blobs/*"): Scope.MANAGE,
    ("POST", "/api/me"): Scope.MANAGE,
    ("POST", "/api/signout"): Scope.MANAGE,
    ("DELETE", "/api/user/keys/*"): Scope.MANAGE,
    ("POST", "/api/experimental/web_search"): Scope.MANAGE,
    ("POST", "/api/experimental/web_fetch"): Scope.MANAGE,
}


def _from_wire(method: str, path: str) -> Scope:
    return Scope.MANAGE if classify(method, path).kind is Kind.MANAGE else Scope.INFER


_TABLE: Final = {row: _from_wire(*row) for row in table()} | _REST

_SEGMENT = re.compile(r"[A-Za-z0-9._~:@+=-]+")


def routes() -> dict[tuple[str, str], Scope]:
    """Every route that is known, as method and path; a last segment ``*`` is the caller's own."""
    return dict(_TABLE)


def scope_of(method: str, target: str) -> Scope | None:
    """What a request asks for.

    Args:
        method: As sent.
        target: In origin form, with its query, as received.

    Returns:
        ``None`` for what is no route of Ollama's or is not spelt like one. Ollama may still route it, so whoever may
        not manage must not send it on.
    """
    plain = _TABLE.get((method, target))
    if plain is not None and not target.endswith(_OWN):
        return plain
    encoded, _, _ = target.partition("?")
    # An encoded slash is one to gin, and none to whoever compares before decoding.
    if not encoded.isascii() or "%2f" in encoded.lower():
        return None
    path = unquote_to_bytes(encoded).decode("latin-1")
    if path.endswith(_OWN):
        return None
    found = _TABLE.get((method, path))
    if found is not None:
        # What a call to a model may do is read from its body, by a way through the relay that its plain spelling finds:
        # spelt otherwise it would go on unread, past what its caller may use and unload.
        return None if found is Scope.INFER and encoded != path else found
    parent, _, own = path.rpartition("/")
    if not _SEGMENT.fullmatch(own) or own in (".", ".."):
        return None
    return _TABLE.get((method, f"{parent}/{_OWN}"))
