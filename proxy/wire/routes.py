"""Which of Ollama's routes a request is for.

What must live here: the table of routes that need more than relaying, and the family whose shapes their errors take.
What it must not know: models, bodies, settings.

Source of the table: Ollama 0.24.0, server/routes.go, ``GenerateRoutes``. A path that is not in it is relayed as it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Family(enum.Enum):
    """Whose shapes a route's replies and errors have."""

    API = "api"
    OPENAI = "openai"
    RESPONSES = "responses"
    ANTHROPIC = "anthropic"


class Kind(enum.Enum):
    """What a request costs and changes."""

    GENERATE = "generate"
    CHAT = "chat"
    EMBED = "embed"
    V1 = "v1"
    MANAGE = "manage"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table.

    Attributes:
        template: The path as metrics and logs show it; never the caller's own text.
        endpoint: Label of an inference call (``api_chat`` ...), empty for everything else.
        family: Decides the shape of an error of our own.
        kind: Decides the way through the proxy.
    """

    template: str
    endpoint: str
    family: Family
    kind: Kind

    @property
    def is_inference(self) -> bool:
        return self.endpoint != ""


def _inference(path: str, endpoint: str, family: Family, kind: Kind) -> tuple[tuple[str, str], Route]:
    return ("POST", path), Route(path, endpoint, family, kind)


_INFERENCE = dict(
    (
        _inference("/api/generate", "api_generate", Family.API, Kind.GENERATE),
        _inference("/api/chat", "api_chat", Family.API, Kind.CHAT),
        _inference("/api/embed", "api_embed", Family.API, Kind.EMBED),
        _inference("/api/embeddings", "api_embed", Family.API, Kind.EMBED),
        _inference("/v1/chat/completions", "v1_chat", Family.OPENAI, Kind.V1),
        _inference("/v1/completions", "v1_completions", Family.OPENAI, Kind.V1),
        _inference("/v1/embeddings", "v1_embeddings", Family.OPENAI, Kind.V1),
        _inference("/v1/responses", "v1_responses", Family.RESPONSES, Kind.V1),
        _inference("/v1/messages", "v1_messages", Family.ANTHROPIC, Kind.V1),
    )
)

# Those that change which models exist, or what is in them: afterwards what was known about models is asked again.
_MANAGE = {
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
}

_PLAIN = (
    "/",
    "/api/version",
    "/api/status",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/me",
    "/api/signout",
    "/v1/models",
)

_PREFIXES = ("/api/blobs/", "/api/user/keys/", "/api/experimental/", "/v1/models/", "/v1/images/", "/v1/audio/")


def family_of(path: str) -> Family:
    """Whose shapes the replies of a path have; ``path`` without its query."""
    if path.startswith("/v1/messages"):
        return Family.ANTHROPIC
    if path.startswith("/v1/responses"):
        return Family.RESPONSES
    return Family.OPENAI if path.startswith("/v1/") else Family.API


_OTHERS = {path: Route(path, "", family_of(path), Kind.OTHER) for path in _PLAIN}
_BY_PREFIX = tuple((prefix, Route(prefix + "*", "", family_of(prefix), Kind.OTHER)) for prefix in _PREFIXES)
_UNKNOWN = {family: Route("unknown", "", family, Kind.OTHER) for family in Family}


def table() -> list[tuple[str, str]]:
    """Method and path of every route that is more than relayed; what is not here is relayed as it is."""
    return sorted([*_INFERENCE, *_MANAGE], key=lambda row: (row[1], row[0]))


def classify(method: str, target: str) -> Route:
    """Find the row for a request.

    Args:
        method: As sent, upper case.
        target: The request target in origin form, with its query, as received (still percent-encoded).

    Returns:
        The row. A path that Ollama does not route, or that is spelt in another way than its own, is ``unknown``
        and is relayed; Ollama answers it.
    """
    path, _, _ = target.partition("?")
    found = _INFERENCE.get((method, path))
    if found is not None:
        return found
    if (method, path) in _MANAGE:
        return Route(path, "", family_of(path), Kind.MANAGE)
    if path in _OTHERS:
        return _OTHERS[path]
    for prefix, route in _BY_PREFIX:
        if path.startswith(prefix):
            return route
    return _UNKNOWN[family_of(path)]
