"""What the head of a request says by itself, read once.

A client sends the same head with each of its requests, but for the length of the body: so whoever holds connections
may keep what was read of it and hand in the same object again. What must live here: everything that follows from the
bytes of the head and from nothing else. What must not: who may do what (``edge.guard`` decides and may note it here),
and anything of one request alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.edge.scopes import Scope, scope_of
from proxy.errors import PilotlightError
from proxy.relay.shapes import Shapes
from proxy.relay.target import Target, parse_target, refuse_unfit
from proxy.wire.headers import has_token, names_of, valid_request_id
from proxy.wire.routes import classify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.edge.guard import Grant
    from proxy.wire.headers import Field, Names
    from proxy.wire.routes import Route


_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))  # RFC 9110 section 9.2.1


class SentOn(NamedTuple):
    """What goes on of a head as it came.

    Attributes:
        fields: As the guard left them.
        without: Names of those that stay here beside the hop-by-hop ones.
        lines: The others, written.
    """

    fields: Sequence[Field]
    without: frozenset[bytes]
    lines: bytes


@dataclass(slots=True, eq=False)
class RequestHead:
    """One head.

    Attributes:
        method: As sent.
        path: Origin form, with query, as received.
        fields: As sent, ``Host`` standing for an absolute-form target's authority.
        names: Of the fields.
        route: Its row in the table.
        authority: Of an absolute-form target; ``None`` otherwise.
        is_http11: Its sender reads chunks.
        closes: Its sender wants the connection closed afterwards.
        upgrades: It asks for another protocol.
        manages: It changes models, or may: what nobody knows may be that under another spelling.
        request_id: What its sender calls it, where that can be kept; else empty.
        trace_id: Of a W3C ``traceparent``; empty without one.
        unfit: Why it is not passed on; ``None`` for one that may be.
        grant: What the guard decided about it the last time, where that may hold again.
        sent_on: What went on of it the last time.
        shapes: Of the bodies that came with it.
    """

    method: str
    path: str
    fields: Sequence[Field] = field(repr=False)
    names: Names
    route: Route
    authority: str | None
    is_http11: bool
    closes: bool
    upgrades: bool
    manages: bool
    request_id: str
    trace_id: str
    unfit: PilotlightError | None
    grant: Grant | None = field(default=None, repr=False)
    sent_on: SentOn | None = field(default=None, repr=False)
    shapes: Shapes = field(default_factory=Shapes)

    @property
    def is_repeatable(self) -> bool:
        """Whether the next request with the same bytes may be served by this object.

        Only calls to models are: what else comes is rare, and its body's length goes on with it.
        """
        return (
            self.route.is_inference
            and self.unfit is None
            and self.authority is None
            and not self.upgrades
            and b"expect" not in self.names.at
        )


def read_head(
    method: str, target: str, version: tuple[int, int], fields: Sequence[Field], *, closes: bool
) -> RequestHead:
    """Read a head.

    Args:
        method: As sent.
        target: The request target as sent.
        version: Of HTTP.
        fields: As sent.
        closes: The connection is to be closed afterwards.
    """
    unfit: PilotlightError | None = None
    found, names = Target("/"), names_of(fields)
    try:
        refuse_unfit(method, version, fields, names)
        found = parse_target(target)
    except PilotlightError as error:
        unfit = error
    if found.authority is not None:
        # RFC 9112 section 3.2.2: Host is replaced by what the target says.
        others = (field for field in fields if field[0].lower() != b"host")
        fields = ((b"Host", found.authority.encode()), *others)
        names = names_of(fields)
    given_id = names.first(fields, b"x-request-id")
    return RequestHead(
        method=method,
        path=found.path,
        fields=fields,
        names=names,
        route=classify(method, found.path),
        authority=found.authority,
        is_http11=version >= (1, 1),
        closes=closes,
        manages=_manages(method, found.path),
        upgrades=b"connection" in names.at and has_token(fields, b"connection", b"upgrade"),
        request_id=given_id.decode() if given_id is not None and valid_request_id(given_id) else "",
        trace_id=_trace_id(names.first(fields, b"traceparent")),
        unfit=unfit,
    )


def _manages(method: str, path: str) -> bool:
    scope = scope_of(method, path)
    return scope is Scope.MANAGE or (scope is None and method not in _SAFE_METHODS)


def _trace_id(traceparent: bytes | None) -> str:
    """The trace id of a W3C ``traceparent``, or ""."""
    parts = traceparent.split(b"-") if traceparent is not None else []
    if len(parts) < 4 or len(parts[1]) != 32 or not parts[1].isalnum():
        return ""
    return parts[1].decode()
