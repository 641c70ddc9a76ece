"""Who may do what: the one decision about a request before anything else is done with it.

In order, and the first refusal counts:

1. a target or framing that has two readings is not passed on (``relay.target``, before this);
2. the name in ``Host`` has to be one of ours, so that a rebound name of an attacker's is none (421);
3. a web page has to be one that may call (403); a browser that only asks whether it may is answered here;
4. a key that is shown has to be a key, where there are any (401);
5. what is asked for has to be allowed: by the key's scopes; without a key by where the caller is (401, 403).

Where a caller is: *local* is this machine, speaking for itself. A forwarding field makes everyone a stranger. Without a
key a stranger is served where ``allow_anonymous`` says so, and manages only from ``manage_from``, for itself.

What goes on to Ollama names Ollama in ``Host``, no page in ``Origin`` or ``Referer``, and no key of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.edge import hosts, keys, origins
from proxy.edge.callers import Caller, Callers
from proxy.edge.hosts import Hosts
from proxy.edge.keys import Key, Keys, presented_in
from proxy.edge.origins import Origins, preflight
from proxy.edge.scopes import Scope, scope_of
from proxy.errors import Forbidden, PilotlightError
from proxy.wire.headers import names_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.edge.origins import Verdict
    from proxy.settings import Settings
    from proxy.wire.headers import Field, Names

_REPLACED: Final = frozenset(
    (b"host", b"origin", b"referer", b"access-control-request-method", b"access-control-request-headers")
)
_REPLACED_WITH_KEY: Final = _REPLACED | {b"x-api-key", b"authorization"}
_WHAT: Final = {
    Scope.READ: ("read", "see which models there are"),
    Scope.INFER: ("infer", "call models"),
    Scope.MANAGE: ("manage", "manage models"),
}


class Admitted(NamedTuple):
    """A request that may go on.

    Attributes:
        fields: As they go on to Ollama, hop-by-hop ones still among them.
        caller: Where it comes from.
        key: What its key is for; ``None`` without one.
        scope: What it asks for; ``None`` for a route that nobody knows.
        names: Of these fields.
        echo: For ``reply_fields``: the page that is told that it may read the answer.
        answer: The fields of a 204 that is the whole answer; ``None``: it goes on.
    """

    fields: Sequence[Field]
    names: Names
    caller: Caller
    key: Key | None
    scope: Scope | None
    echo: bytes | None = None
    answer: list[Field] | None = None

    @property
    def may_manage(self) -> bool:
        """Whether it could unload a kept model too."""
        return self.caller.may_manage if self.key is None else "manage" in self.key.scopes

    @property
    def who(self) -> str:
        """For turns, limits and the log: the key's name, or the address."""
        return f"key:{self.key.name}" if self.key is not None else self.caller.address

    def refuse_model(self, canonical_name: str) -> None:
        """Refuse a model that the key is not for.

        Raises:
            Forbidden: It is not.
        """
        if self.key is not None and not self.key.allows_model(canonical_name):
            raise keys.denial("use this model")


class Grant(NamedTuple):
    """A decision that holds for the next request with the same head from the same place, until the keys change.

    Attributes:
        admitted: What was decided.
        peer, local: Of the connection.
        keys: Which keys there were.
    """

    admitted: Admitted
    peer: str
    local: str
    keys: int


class Guard:
    """Decides about requests.

    Args:
        settings: ``edge`` and ``keys`` of them are read.
        own_names: Of this machine.
        authority: Ollama's, for ``Host``.
        secret: Of this process.
    """

    def __init__(self, settings: Settings, *, own_names: Iterable[str], authority: bytes, secret: bytes) -> None:
        edge = settings.edge
        self._hosts = Hosts(edge.hosts, own_names)
        self._callers = Callers(edge.trusted_proxies, edge.manage_from)
        self._allows_anonymous = edge.allow_anonymous
        self._keys = Keys(settings.keys, secret)
        self._origins = Origins(edge.origins, any_origin=bool(settings.keys) and not edge.allow_anonymous)
        self._host = (b"Host", authority)
        self._keys_version = 0

    def __repr__(self) -> str:
        return f"<Guard {self._keys!r} {self._origins!r}>"

    def replace_keys(self, settings: Settings) -> None:
        """From now on these are the keys."""
        self._keys.replace(settings.keys)
        self._keys_version += 1

    def grant(self, admitted: Admitted, *, peer: str, local: str) -> Grant | None:
        """What may be kept of a decision; ``None`` for a browser's question, which is no request."""
        return Grant(admitted, peer, local, self._keys_version) if admitted.answer is None else None

    def recall(self, grant: Grant | None, *, peer: str, local: str, now_unix: float) -> Admitted | None:
        """The decision about the same head, where it holds again: for this peer, with these keys, at this time."""
        if grant is None or grant.keys != self._keys_version or grant.peer != peer or grant.local != local:
            return None
        admitted = grant.admitted
        return admitted if admitted.key is None or now_unix < admitted.key.expires_unix else None

    def admit(
        self,
        method: str,
        path: str,
        fields: Sequence[Field],
        *,
        peer: str,
        local: str,
        now_unix: float,
        names: Names | None = None,
    ) -> Admitted:
        """Decide about a request on the listening port.

        Args:
            method: As sent.
            path: Origin form, with its query; ``*`` for ``OPTIONS *``.
            fields: As received; ``Host`` already stands for an absolute-form target's authority.
            peer: The other end's address.
            local: Our own address on this connection.
            now_unix: Seconds since 1970.
            names: Of the fields, where they are known already.

        Raises:
            MisdirectedHost, OriginRefused, Unauthorized, Forbidden, BadRequest: It may not go on.
        """
        names = names or names_of(fields)
        page = self._admit_page(method, fields, names, local)
        caller = self._callers.of(peer, fields, names)
        answer = preflight(method, fields, page.echo)
        if answer is not None:
            return Admitted((), names_of(()), caller, None, Scope.LIVE, page.echo, answer)
        key = self._find(fields, names, now_unix)
        if page.needs_key and key is None:
            # Let in by "*" alone: in the operator's own browser any page would be at home.
            raise keys.refusal()
        scope = Scope.LIVE if path == "*" else scope_of(method, path)
        self._admit_scope(caller, key, scope)
        without = _REPLACED_WITH_KEY if key is not None else _REPLACED
        sent_on = (self._host, *names.without(fields, without))
        return Admitted(sent_on, names_of(sent_on), caller, key, scope, page.echo)

    def admit_reader(self, method: str, fields: Sequence[Field], *, peer: str, local: str, now_unix: float) -> None:
        """Decide about a request on the admin port, which only reads.

        Raises:
            MisdirectedHost, OriginRefused, Unauthorized, Forbidden, BadRequest: It may not be answered.
        """
        names = names_of(fields)
        page = self._admit_page(method, fields, names, local)
        key = self._find(fields, names, now_unix)
        if page.needs_key and key is None:
            raise keys.refusal()
        self._admit_scope(self._callers.of(peer, fields, names), key, Scope.READ)

    def admit_visitor(self, method: str, fields: Sequence[Field], *, local: str) -> None:
        """Decide about a request for a page of the admin port that has nothing to hide, but not under any name.

        Raises:
            MisdirectedHost, OriginRefused: It may not be answered.
        """
        self._admit_page(method, fields, names_of(fields), local)

    def who_of(self, fields: Sequence[Field], *, peer: str, now_unix: float) -> str:
        """Who was refused, for the log: the key's name where a good one was shown, or the address."""
        names = names_of(fields)
        try:
            key = self._find(fields, names, now_unix)
        except PilotlightError:
            key = None
        return f"key:{key.name}" if key is not None else self._callers.of(peer, fields, names).address

    def echo_of(self, method: str, fields: Sequence[Field], local: str) -> bytes | None:
        """The page that is told that it may read what its request is refused with; for ``reply_fields``."""
        try:
            return self._admit_page(method, fields, names_of(fields), local).echo
        except PilotlightError:
            return None

    def _admit_page(self, method: str, fields: Sequence[Field], names: Names, local: str) -> Verdict:
        host = names.first(fields, b"host")
        if not self._hosts.allows(host, local):
            raise hosts.refusal()
        origin, site = names.first(fields, b"origin"), names.first(fields, b"sec-fetch-site")
        verdict = self._origins.verdict(origin, host, site, method)
        if not verdict.allowed:
            raise origins.refusal()
        return verdict

    def _find(self, fields: Sequence[Field], names: Names, now_unix: float) -> Key | None:
        """The key that is shown. Where there are no keys, what clients send because they must counts for nothing."""
        if not len(self._keys) or (b"authorization" not in names.at and b"x-api-key" not in names.at):
            return None
        presented = presented_in(fields, names)
        if presented is None:
            return None
        key = self._keys.find(presented, now_unix)
        if key is None:
            raise keys.refusal()
        return key

    def _admit_scope(self, caller: Caller, key: Key | None, scope: Scope | None) -> None:
        if scope is Scope.LIVE:
            return
        if scope is None:
            # Ollama may know it, perhaps under another spelling: gin matches "/api%2fdelete" as delete. So it takes
            # what the most that is known takes.
            scope = Scope.MANAGE
        name, what = _WHAT[scope]
        if key is not None:
            if name not in key.scopes:
                raise keys.denial(what)
            return
        if scope is Scope.MANAGE:
            if not caller.may_manage:
                raise Forbidden(f"who may {what} without a key is set in edge.manage_from")
        elif not (caller.is_local or caller.may_manage or self._allows_anonymous):
            raise keys.refusal()
