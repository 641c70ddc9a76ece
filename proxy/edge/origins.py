"""Which web pages may call this proxy: the ``Origin`` of a request, and what a browser is told about it.

Ollama reads any Content-Type as JSON, so a page's ``text/plain`` POST needs no preflight and only ``Origin`` keeps it
from deleting models. Ollama decides same-origin against ``Host`` (gin-contrib/cors v1.7.2, config.go, ``applyCors``);
behind a proxy that rewrites it each page would be a stranger (ollama#6021). So it is decided here, against the client's
own ``Host``, and Ollama never sees an ``Origin``. Where the list comes from: Ollama v0.24.0, envconfig/config.go,
``AllowedOrigins``; the same up to v0.33.0-rc2.

An origin is read by the grammar of RFC 6454 section 6.2 before it is compared. Ollama compares beginnings of text, so
that ``http://localhost:3000.evil.example`` is one of its list; a browser never sends that.

To be asked after ``hosts``: under a rebound name the attacker's page is same-origin.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.edge.hosts import parse_authority
from proxy.errors import OriginRefused
from proxy.wire.headers import Field, Names, first, names_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Custom schemes have hosts of their own making, or none at all: "file://".
_ORIGIN = re.compile(rb"([a-z][a-z0-9+.-]*)://([A-Za-z0-9._~%:\[\]-]*)")
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}
_DEFAULT_HOSTS: Final = frozenset((b"localhost", b"127.0.0.1", b"0.0.0.0"))
_DEFAULT_SCHEMES: Final = frozenset((b"app", b"file", b"tauri", b"vscode-webview", b"vscode-file"))
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # RFC 9110 section 9.2.1

# As Ollama 0.24.0 answers (recorded), and what this proxy reads beside.
_ALLOW_HEADERS: Final = (
    b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    b"X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    b"X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    b"X-Stainless-Runtime-Version,X-Stainless-Timeout,"
    b"X-API-Key,X-Priority,X-Request-ID,traceparent,tracestate"
)
_PREFLIGHT: Final[tuple[Field, ...]] = (
    (b"Access-Control-Allow-Headers", _ALLOW_HEADERS),
    (b"Access-Control-Allow-Methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"Access-Control-Max-Age", b"43200"),
    (b"Vary", b"Origin"),
    (b"Vary", b"Access-Control-Request-Method"),
    (b"Vary", b"Access-Control-Request-Headers"),
)
# A page reads none but these and the few that every page may read; there is no pattern for names.
_EXPOSED: Final = (
    b"X-Request-Id,Request-Id,Server-Timing,Retry-After,Age,X-Cache,X-Pilotlight-Error,X-Pilotlight-Options,"
    b"X-Pilotlight-Prompt,X-Pilotlight-Shared,X-Pilotlight-Upstream"
)


class Verdict(NamedTuple):
    """What is decided about a request.

    Attributes:
        allowed: Whether it is served.
        echo: The value of ``Access-Control-Allow-Origin``: the origin as it was sent, never ``*``; ``None`` where a
            page needs none or there is no page.
        needs_key: Only ``*`` lets the page in. A page of anybody's in the browser of this machine's user comes from
            here, so what a caller from here may do without a key is not for it. A preflight shows no key.
    """

    allowed: bool
    echo: bytes | None
    needs_key: bool = False


# Of what a stranger may make us remember, times the size of the cache.
_REMEMBERED_BYTES: Final = 512
_REFUSED: Final = Verdict(False, None)
_NO_PAGE: Final = Verdict(True, None)


class Origins:
    """The pages that may call.

    Args:
        configured: ``edge.origins``, written like ``OLLAMA_ORIGINS``: origins, and texts with one ``*`` for any text
            (``http://10.0.0.*`` has ``http://10.0.0.evil.example`` too, as Ollama has it); ``null``; ``*`` for all.
        any_origin: Whether ``*`` counts: only where no request is served without a key.

    Raises:
        ValueError: A configured entry could never match an origin.
    """

    def __init__(self, configured: Iterable[str], any_origin: bool) -> None:
        entries = [entry.strip() for entry in configured]
        self._is_open = any_origin and "*" in entries
        exact: set[bytes] = set()
        patterns: list[tuple[bytes, bytes]] = []
        for entry in entries:
            text = entry.lower().encode("ascii", "replace")
            if b"*" in text:
                patterns += _pattern(entry, text)
            elif text == b"null" or _read(text) is not None:
                exact.add(text)
            else:
                raise ValueError(f"{entry!r} is not an origin: scheme://host or scheme://host:port, without a path")
        self._exact = frozenset(exact)
        self._patterns = tuple(patterns)
        # A page asks often, and reading its origin costs more than all that is decided with it.
        self._remembered = functools.lru_cache(maxsize=256)(self._about)

    def __repr__(self) -> str:
        return f"<Origins {'any' if self._is_open else f'{len(self._exact) + len(self._patterns)} configured'}>"

    def verdict(self, origin: bytes | None, host: bytes | None, sec_fetch_site: bytes | None, method: str) -> Verdict:
        """Decide about a request, a preflight among them.

        Args:
            origin: ``Origin`` as received. An empty one is none, as for Ollama.
            host: ``Host`` as the client sent it, or the authority of its absolute-form target.
            sec_fetch_site: ``Sec-Fetch-Site`` as received.
            method: As sent.
        """
        if not origin:
            # A browser leaves Origin out of what only reads; where it is missing from anything else, something between
            # took it away.
            is_foreign = sec_fetch_site is not None and sec_fetch_site.strip().lower() == b"cross-site"
            return _REFUSED if is_foreign and method not in _SAFE_METHODS else _NO_PAGE
        if len(origin) + len(host or b"") > _REMEMBERED_BYTES:
            return self._about(origin, host)
        return self._remembered(origin, host)

    def _about(self, origin: bytes, host: bytes | None) -> Verdict:
        if origin == b"null":
            return self._listed_or_open(origin, is_listed=origin in self._exact)
        parts = _read(origin)
        if parts is None:
            return _REFUSED
        scheme, rest = parts
        if _is_same(scheme, rest, host):
            # Not echoed, as by Ollama: a page of http:// under the name of our https:// would be told that it may read.
            return _NO_PAGE
        return self._listed_or_open(origin, is_listed=self._lists(origin, scheme, rest))

    def _listed_or_open(self, origin: bytes, *, is_listed: bool) -> Verdict:
        return Verdict(True, origin, needs_key=not is_listed) if is_listed or self._is_open else _REFUSED

    def _lists(self, origin: bytes, scheme: bytes, rest: bytes) -> bool:
        if scheme in _DEFAULT_SCHEMES or origin in self._exact:
            return True
        if scheme in _DEFAULT_PORTS and rest.partition(b":")[0] in _DEFAULT_HOSTS:
            return True
        return any(
            origin.startswith(head) and origin.endswith(tail) and len(origin) >= len(head) + len(tail)
            for head, tail in self._patterns
        )


def _read(origin: bytes) -> tuple[bytes, bytes] | None:
    """The scheme and what follows it; ``None`` for what is no serialised origin, several in one field among them."""
    found = _ORIGIN.fullmatch(origin)
    if found is None or (found[1] in _DEFAULT_PORTS and parse_authority(found[2]) is None):
        return None
    return found[1], found[2]


def _is_same(scheme: bytes, rest: bytes, host: bytes | None) -> bool:
    """Whether a page came from here. Either scheme will do: who decrypts in front of us is not ours to know."""
    default = _DEFAULT_PORTS.get(scheme)
    page = None if default is None else parse_authority(rest)
    here = None if host is None else parse_authority(host)
    if page is None or here is None:
        return False
    return page.host == here.host and (page.port or default) == (here.port or default)


def _pattern(entry: str, text: bytes) -> list[tuple[bytes, bytes]]:
    head, _, tail = text.partition(b"*")
    if b"*" in tail:
        raise ValueError(f"{entry!r} has more than one *")
    if b"?" in text or b"," in text or b" " in text or b"/" in text.replace(b"://", b"", 1):
        raise ValueError(f"{entry!r} matches no origin: an origin is ASCII and has no path, comma or space")
    # "*" by itself is no pattern but a permission, see ``any_origin``.
    return [(head, tail)] if head or tail else []


def preflight(method: str, fields: Sequence[Field], echo: bytes | None) -> list[Field] | None:
    """Answer a browser that asks before it sends (Fetch standard, "CORS-preflight fetch").

    It carries no credentials, so it is answered before anybody asks for a key, and it promises nothing: the request
    that follows is judged by itself.

    Args:
        method: As sent.
        fields: As received.
        echo: As :meth:`Origins.verdict` says, which has allowed the request.

    Returns:
        The fields of a 204, which has no body and no length; ``None`` where the request is no preflight.
    """
    if method != "OPTIONS" or not first(fields, b"origin"):
        return None
    if first(fields, b"access-control-request-method") is None:
        return None
    # Never with Allow-Credentials: a browser would send what the user is logged in with.
    return [*_PREFLIGHT] if echo is None else [(b"Access-Control-Allow-Origin", echo), *_PREFLIGHT]


def reply_fields(fields: Sequence[Field], echo: bytes | None) -> list[Field]:
    """A reply's fields with our word about CORS in place of the upstream's.

    Args:
        fields: Of a reply of the upstream's or of our own.
        echo: As :meth:`Origins.verdict` says.
    """
    kept = without_cors(fields, for_page=echo is not None)
    return kept if echo is None else [*kept, *page_fields(echo, varies=names_vary(fields))]


def without_cors(fields: Sequence[Field], *, for_page: bool) -> list[Field]:
    """A reply's fields without the upstream's word about CORS.

    Args:
        fields: Of a reply of the upstream's or of our own.
        for_page: ``page_fields`` will follow them: a ``Vary`` among them names the origin too.
    """
    names = names_of(fields)
    kept = names.without(fields, _cors(names))
    if for_page and b"vary" in names.at:
        _vary_by_origin(kept)
    return kept


def names_vary(fields: Sequence[Field]) -> bool:
    """Whether there is a ``Vary`` among them."""
    return b"vary" in names_of(fields).at


def page_fields(echo: bytes, *, varies: bool) -> tuple[Field, ...]:
    """What a page that may read the answer is told.

    Args:
        echo: As :meth:`Origins.verdict` says.
        varies: The fields in front have a ``Vary``, in which the origin is.
    """
    told = ((b"Access-Control-Allow-Origin", echo), (b"Access-Control-Expose-Headers", _EXPOSED))
    return told if varies else (*told, (b"Vary", b"Origin"))


@functools.lru_cache(maxsize=256)
def _cors(names: Names) -> frozenset[bytes]:
    """Those in which the upstream speaks of CORS."""
    return frozenset(name for name in names.lower if name.startswith(b"access-control-"))


def _vary_by_origin(fields: list[Field]) -> None:
    last = 0
    for place, (name, value) in enumerate(fields):
        if len(name) == 4 and name.lower() == b"vary":
            named = [part.strip().lower() for part in value.split(b",")]
            if b"origin" in named or b"*" in named:
                return
            last = place
    name, value = fields[last]
    fields[last] = (name, value + b", Origin" if value.strip() else b"Origin")


def refusal() -> OriginRefused:
    """What a page is told; the value that it sent is not repeated."""
    return OriginRefused("web pages of that origin may not use this server: see edge.origins")
