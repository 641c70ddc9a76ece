"""What is asked for all lines of a batch together. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from proxy.batch.attempts import Patience
from proxy.batch.line import Defaults
from proxy.wire.urls import without_user

if TYPE_CHECKING:
    from collections.abc import Mapping

URL: Final = "http://127.0.0.1:11435"
PRIORITIES: Final = ("batch", "normal", "interactive")
_MOST_AT_ONCE: Final = 1024
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_NOT_YOURS: Final = frozenset(("host", "content-length", "content-type", "transfer-encoding", "connection", "expect"))


@dataclass(frozen=True, slots=True)
class Job:
    """Server, defaults of the lines, and how much is tried.

    Attributes:
        url: Of a Pilotlight or of Ollama itself: ``http://`` or ``https://``.
        model: For lines that name none.
        system: For prompts and chats without one.
        options: Ollama's; a line's own win name by name.
        concurrency: Lines under way at the same time, 1 to 1,024.
        priority: Of every request, as ``X-Priority``: ``batch``, ``normal`` or ``interactive``.
        key: Shown as ``X-API-Key``; empty for none.
        headers: Further ones, name and value.
        retries: Repetitions of one line after a cut connection or a server's error.
        timeout_s: For one line, waiting and repetitions included; 0 for no limit.
        away_s: How long a server that has answered may be unreachable before the run ends.
        ordered: Results in the order of the lines, else as they come.

    Raises:
        ValueError: A value that cannot be used; the message begins with its name.
    """

    url: str = URL
    model: str = ""
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 4
    priority: str = "batch"
    key: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    retries: int = 3
    timeout_s: float = 3600.0
    away_s: float = 120.0
    ordered: bool = True

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not 1 <= self.concurrency <= _MOST_AT_ONCE:
            raise ValueError(f"concurrency: must be 1 to {_MOST_AT_ONCE}, not {self.concurrency}")
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority: must be {', '.join(PRIORITIES)}, not {self.priority}")
        for name in ("retries", "timeout_s", "away_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: must be 0 or more, not {getattr(self, name)}")
        if _VALUE.fullmatch(self.key) is None:
            raise ValueError("key: must be visible ASCII characters")
        for name, value in self.headers:
            if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
                raise ValueError(f"headers: {name!r:.40} is no header field with a plain value")
            if name.lower() in _NOT_YOURS:
                raise ValueError(f"headers: {name} is set by each request itself")

    @property
    def defaults(self) -> Defaults:
        return Defaults(self.model, self.system, self.options)

    @property
    def patience(self) -> Patience:
        return Patience(self.retries, self.timeout_s, self.away_s)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What each request carries."""
        key = [("X-API-Key", self.key)] if self.key else []
        return [("X-Priority", self.priority), *key, *self.headers]


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or not url.isascii() or any(character <= " " for character in url):
        raise ValueError(f"url: must be http://HOST[:PORT] or https://HOST[:PORT], not {without_user(url)!r:.80}")
    if parts.username is not None:
        raise ValueError("url: must have no user and password; give a key or a header")
