"""API keys: how one is made and kept, and which entry of the settings a caller's key belongs to. Pure.

What must live here: the only comparison of keys. What it must not know: which call needs which scope, and what a caller
without a key may do. A key itself is never kept, shown or handed on: from here on a caller is its entry's name.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import math
import re
from dataclasses import dataclass, field
from fnmatch import translate
from typing import TYPE_CHECKING, Final

from proxy.admission.priority import Priority, parse_priority
from proxy.errors import BadRequest, Forbidden, Unauthorized
from proxy.settings.values import burst_of
from proxy.wire.headers import names_of
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.settings import ApiKey
    from proxy.wire.headers import Field, Names

KEY_BYTES: Final = 32
_PREFIX: Final = "pl_"
_HASH_PREFIX: Final = "sha256:"
# RFC 6750 section 2.1; RFC 9110 section 11.1: a scheme's case does not matter.
_BEARER: Final = re.compile(r"bearer +(.*)", re.IGNORECASE)
_WILD: Final = frozenset("*?[")


def new_key(random_bytes: bytes) -> str:
    """Write a key: ``pl_`` and the bytes in base64url.

    Args:
        random_bytes: From the system's own source, ``KEY_BYTES`` of them.
    """
    return _PREFIX + base64.urlsafe_b64encode(random_bytes).rstrip(b"=").decode("ascii")


def hash_key(key: str) -> str:
    """What the settings keep of a key.

    A plain SHA-256 without salt or stretching, which a password would need: nobody can go through the values of 32
    random bytes, however fast each is tried, and no two keys are the same. Stretching would only cost each request its
    time, and hand everyone who sends wrong keys a way to occupy the processor.
    """
    return _HASH_PREFIX + _digest(key).hex()


def presented_in(fields: Sequence[Field], names: Names | None = None) -> str | None:
    """The key that a request shows, in ``X-API-Key`` or as a bearer token.

    Another scheme of ``Authorization`` shows none, and neither does an empty field. What is not ASCII comes back as it
    is: no entry has it.

    Raises:
        BadRequest: It shows two that differ. Which of them counts would depend on who reads it.
    """
    names = names or names_of(fields)
    presented: str | None = None
    for place in _places(names):
        key = fields[place][1].decode("latin-1").strip()
        if names.lower[place] == b"authorization":
            match = _BEARER.match(key)
            key = "" if match is None else match[1].strip()
        if key and presented is not None and key != presented:
            raise BadRequest("the request shows two API keys that differ; send one of X-API-Key and Authorization")
        presented = key or presented
    return presented


@functools.lru_cache(maxsize=256)
def _places(names: Names) -> tuple[int, ...]:
    """Where the fields stand that may show a key."""
    return tuple(place for place, name in enumerate(names.lower) if name in (b"authorization", b"x-api-key"))


@dataclass(frozen=True, slots=True)
class Key:
    """What the operator says about the holder of a key.

    Attributes:
        name: As in the settings; for tables and logs.
        ceiling: The most urgent class that its requests can have.
        scopes: Of ``infer``, ``read``, ``manage``.
        rate_per_s: Its own rate, 0 for no limit; ``None`` for the common one.
        burst: Its own burst; ``None`` for the common one.
        expires_unix: When it ceases to be one, in seconds since 1970.
    """

    name: str
    ceiling: Priority
    scopes: frozenset[str]
    rate_per_s: float | None = None
    burst: int | None = None
    expires_unix: float = math.inf
    _models: re.Pattern[str] | None = field(default=None, repr=False)

    def allows_model(self, canonical_name: str) -> bool:
        """Whether it may use a model.

        Args:
            canonical_name: As ``proxy.wire.names.canonical`` spells it; another spelling would slip past a pattern.
        """
        return self._models is None or self._models.fullmatch(canonical_name) is not None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the settings; ``key`` is ``None`` for the line that nobody has."""

    digest: bytes = field(repr=False)
    key: Key | None


class Keys:
    """All keys, and the one way to look one up.

    Args:
        entries: From the settings, which see to it that no hash stands twice.
        secret: Of this process, random, at least 16 bytes.
    """

    def __init__(self, entries: Iterable[ApiKey], secret: bytes) -> None:
        self._secret = secret
        # Compared with where nothing is found. No key has this digest, and if one had, there is no entry to it.
        self._nobody = _Entry(hmac.digest(secret, b"nobody", "sha256"), None)
        self._entries: dict[bytes, _Entry] = {}
        self.replace(entries)

    def __repr__(self) -> str:
        return f"<Keys {len(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def replace(self, entries: Iterable[ApiKey]) -> None:
        """From now on these, and no others, are the keys. Who was let in before is not asked again."""
        fresh: dict[bytes, _Entry] = {}
        for entry in entries:
            digest = bytes.fromhex(entry.hash.removeprefix(_HASH_PREFIX))
            fresh[self._place(digest)] = _Entry(digest, _key(entry))
        self._entries = fresh

    def find(self, presented: str, now_unix: float) -> Key | None:
        """The entry that a key belongs to; ``None`` for one that is unknown, has expired, or is no key at all.

        The work is the same for all of them, and for any number of entries: one hash, one look at a table, one
        comparison of all bytes. Where an entry stands in the table depends on ``secret``, so that how long the look at
        it takes tells a stranger nothing about the digests in it.

        Args:
            now_unix: Seconds since 1970.
        """
        digest = _digest(presented)
        entry = self._entries.get(self._place(digest), self._nobody)
        is_same = hmac.compare_digest(entry.digest, digest)
        is_valid = entry.key is not None and now_unix < entry.key.expires_unix
        return entry.key if is_same & is_valid & presented.isascii() else None

    def _place(self, digest: bytes) -> bytes:
        # A keyed hash in one step, at a third of what HMAC costs (RFC 7693 section 2.5).
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()


def refusal() -> Unauthorized:
    """What everyone is told whose key does not count, whatever the reason."""
    return Unauthorized()


def denial(what: str) -> Forbidden:
    """What the holder of a key is told who asks for more than it is for.

    Args:
        what: For instance "manage models"; never a name that the caller sent.
    """
    return Forbidden(f"this API key may not {what}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _key(entry: ApiKey) -> Key:
    return Key(
        entry.name,
        parse_priority(entry.class_),
        frozenset(entry.scopes),
        entry.rate_per_s,
        _burst(entry.rate_per_s, entry.burst),
        math.inf if entry.expires_unix is None else entry.expires_unix,
        _compiled(entry.models),
    )


def _burst(rate_per_s: float | None, burst: int | None) -> int | None:
    """A key's burst by the rule of ``rate_limit.burst``; the common one beside a rate of its own would be too small."""
    return burst or None if rate_per_s is None else burst_of(rate_per_s, burst or 0)


def _compiled(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """One expression for all patterns; ``None`` where one of them is for every model."""
    full = {pattern.lower() if _WILD & set(pattern) else canonical(pattern) for pattern in patterns}
    return None if "*" in full else re.compile("|".join(map(translate, sorted(full))) or r"(?!)")
