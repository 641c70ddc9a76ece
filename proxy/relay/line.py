"""The straight line of one request: the only place that knows the order.

    received -> refuse what is unfit -> guard -> a call to a model? generation : passing -> finished -> observer

``generation`` reads, rewrites and prepares; ``passing`` relays as it is. The exchange is the only thing held, and
leaving the call in whatever way, cancellation included, closes it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import TYPE_CHECKING, Final

from proxy.admission.ratelimit import client_of
from proxy.edge.scopes import Scope
from proxy.errors import MisdirectedLoop, PilotlightError
from proxy.observe.timeline import Outcome, Phase, Timeline
from proxy.relay.call import DEADLINES, Call, Deadlines, Inbound
from proxy.relay.reply import ClientConnection, ClientReply
from proxy.relay.target import refuse_elsewhere, refuse_loop
from proxy.wire.routes import Family, Kind
from proxy.wire.shapes import JSON_TYPE, error_body, stream_error, stream_separator

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.edge.guard import Guard
    from proxy.observe.observer import Observer
    from proxy.relay.generation import Generation
    from proxy.relay.passing import Passing
    from proxy.residency.catalogue import Catalogue
    from proxy.wire.headers import Field

# nginx's number for it; no client ever sees it.
CLIENT_LEFT: Final = 499


class Relay:
    """Serves requests.

    Args:
        generation: Serves calls to models.
        passing: Serves everything else.
        catalogue: Forgets what it knew when models were changed through us.
        observer: Told of each request's start and end.
        guard: Decides who may do what.
        via_name: This proxy's name in ``Via``.
        on_loop: Called when a request of our own came back to us.
        on_managed: Told of each call that managed models, or was refused to, once it has ended.
        clock: Monotonic seconds.
        deadlines: For clients that send.

    Attributes:
        active: The calls that are inside.
        closing: Say ``Connection: close`` on every reply from now on.
    """

    def __init__(
        self,
        generation: Generation,
        passing: Passing,
        catalogue: Catalogue,
        observer: Observer,
        *,
        guard: Guard,
        via_name: str,
        on_loop: Callable[[], None],
        on_managed: Callable[[Call], None],
        clock: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self._generation = generation
        self._passing = passing
        self._catalogue = catalogue
        self._observer = observer
        self._guard = guard
        self._wall_clock = wall_clock
        self._deadlines = deadlines
        self._via_name = via_name.encode()
        self._on_loop = on_loop
        self._on_managed = on_managed
        self._clock = clock
        self._id_prefix = secrets.token_hex(4)
        self._ids = itertools.count(1)
        self.active: set[Call] = set()
        self._emptied = asyncio.Event()
        self.closing = False

    async def wait_idle(self) -> None:
        """Wait until no call is inside."""
        while self.active:
            self._emptied.clear()
            await self._emptied.wait()

    def __repr__(self) -> str:
        return f"<Relay {len(self.active)} active{', closing' if self.closing else ''}>"

    async def serve(self, inbound: Inbound) -> ClientReply:
        """Serve one request, whole.

        Returns:
            The reply, written; ``close`` of it tells what becomes of the connection.
        """
        call = self._call(inbound)
        timeline = call.timeline
        self._observer.start(timeline)
        self.active.add(call)
        try:
            if call.head.unfit is not None or call.head.authority is not None:
                self._refuse_unfit(call)
            await self._serve(call, inbound.connection)
        except asyncio.CancelledError:
            if call.interrupted is None:
                # One that leaves when the reply is out has left nothing.
                if not call.reply.ended:
                    self._note_client_left(call)
                raise
            # Ended by us while it waited: the cancellation did its work here and goes no further.
            if call.task is not None:
                call.task.uncancel()
            self._refuse(call, call.interrupted, inbound.connection)
        except PilotlightError as error:
            self._refuse(call, error, inbound.connection)
        except ConnectionError:
            # aiohttp raises it for a client whose body broke off.
            self._note_client_left(call)
        finally:
            self.active.discard(call)
            if not self.active:
                self._emptied.set()
            # A task that was cancelled keeps its frames, and they this call.
            call.task = None
            timeline.bytes_out = call.reply.body_bytes
            timeline.finished = self._clock()
            self._observer.finish(timeline)
            if call.is_managing:
                self._on_managed(call)
            if call.reply.failed:
                call.reply.hang_up()
        return call.reply

    def _new_id(self) -> str:
        """Unlike any other, also one of another process; no secret, so it need not cost a system call each time."""
        return f"{self._id_prefix}{next(self._ids):08x}"

    def _call(self, inbound: Inbound) -> Call:
        head, connection = inbound.head, inbound.connection
        route = head.route
        reply = ClientReply(
            connection,
            is_http11=head.is_http11,
            is_head=head.method == "HEAD",
            close=head.closes or self.closing,
        )
        request_id = head.request_id or self._new_id()
        timeline = Timeline(
            request_id=request_id,
            endpoint=route.endpoint,
            family=route.family,
            route=route.template,
            method=head.method,
            received=inbound.received,
            trace_id=head.trace_id,
        )
        added: list[Field] = [(b"X-Request-Id", request_id.encode())]
        if route.family is Family.ANTHROPIC:
            # The name under which Anthropic's client looks for it.
            added.append((b"Request-Id", request_id.encode()))
        return Call(
            head,
            head.method,
            head.path,
            route,
            head.fields,
            head.names,
            inbound.body,
            connection,
            reply,
            timeline,
            added,
            connection.task,
            head.manages,
            self._deadlines,
            told_bytes=inbound.told_bytes,
        )

    def _refuse_unfit(self, call: Call) -> None:
        head = call.head
        try:
            if head.unfit is not None:
                raise head.unfit
            if head.authority is not None:
                refuse_elsewhere(head.authority, call.connection.local_port)
        except PilotlightError:
            # What follows it on this connection may not be what it looks like.
            call.reply.close = True
            raise

    async def _serve(self, call: Call, connection: ClientConnection) -> None:
        if b"via" in call.names.at:
            self._refuse_loop(call)
        self._admit(call, connection)
        if call.reply.ended:
            return
        if call.head.upgrades:
            # Relayed as a plain request; what follows it on this connection is not read as another one.
            call.reply.close = True
        if call.path == "*":
            _answer_here(call, 200, [(b"Content-Length", b"0")])
            return
        if call.route.endpoint:
            await self._generation.serve(call, connection)
            return
        if call.admitted is not None and call.admitted.scope is Scope.INFER:
            # Which model it is for is not read on this way.
            call.admitted.refuse_model("")
        try:
            await self._passing.serve(call, connection)
        finally:
            # Also where the client left: the model may have been changed by then.
            if call.route.kind is Kind.MANAGE:
                self._catalogue.forget(None)

    def _refuse_loop(self, call: Call) -> None:
        try:
            refuse_loop(call.fields, self._via_name, call.names)
        except MisdirectedLoop:
            self._on_loop()
            raise

    def _admit(self, call: Call, connection: ClientConnection) -> None:
        """Let the request in, or not.

        Raises:
            PilotlightError: Why not.
        """
        now_unix, head = self._wall_clock(), call.head
        peer, local = connection.peer, connection.local
        admitted = self._guard.recall(head.grant, peer=peer, local=local, now_unix=now_unix)
        if admitted is None:
            try:
                admitted = self._guard.admit(
                    call.method, call.path, call.fields, peer=peer, local=local, now_unix=now_unix, names=call.names
                )
            except PilotlightError:
                call.client = self._guard.who_of(call.fields, peer=peer, now_unix=now_unix)
                raise
            head.grant = self._guard.grant(admitted, peer=peer, local=local)
        call.admitted, call.reply.echo = admitted, admitted.echo
        if admitted.answer is not None:
            _answer_here(call, 204, admitted.answer)
            return
        call.fields, call.names = admitted.fields, admitted.names
        if admitted.key is not None:
            call.client, call.timeline.key = admitted.who, admitted.key.name
        elif admitted.caller.is_forwarded:
            call.client = client_of(admitted.caller.address, "", b"")
        else:
            call.client = connection.client

    def _refuse(self, call: Call, error: PilotlightError, connection: ClientConnection) -> None:
        """Answer with an error of our own."""
        timeline, reply = call.timeline, call.reply
        if call.admitted is None:
            # A page that may call has to be able to read why it may not do this.
            reply.echo = self._guard.echo_of(call.method, call.fields, connection.local)
        timeline.error_code = error.code
        timeline.outcome = _outcome(error)
        if reply.started:
            frame = b""
            if timeline.stream:
                family = call.route.family
                frame = stream_separator(family, reply.tail) + stream_error(family, error.message, error.code)
            reply.fail(frame)
            return
        timeline.status = error.status
        body = error_body(call.route.family, error.status, error.message, timeline.request_id)
        fields: list[Field] = [
            (b"Content-Type", JSON_TYPE),
            (b"Content-Length", b"%d" % len(body)),
            (b"X-Pilotlight-Error", error.code.encode()),
            *call.added,
        ]
        if error.status == 401:
            fields.append((b"WWW-Authenticate", b'Bearer realm="pilotlight"'))
        if error.retry_after_s is not None:
            fields.append((b"Retry-After", b"%d" % max(1, round(error.retry_after_s))))
        if not call.body.at_eof() or call.body.exception() is not None:
            # The rest of the body would be read as the next request.
            reply.close = True
        reply.start(error.status, b"", fields, has_length=True, held=True)
        reply.write(body)
        reply.end()

    def _note_client_left(self, call: Call) -> None:
        timeline = call.timeline
        timeline.outcome = Outcome.CANCELLED
        call.reply.close = True
        if timeline.first_byte is not None:
            timeline.client_disconnect_phase = Phase.STREAMING
        else:
            timeline.client_disconnect_phase = Phase.QUEUED if timeline.sent is None else Phase.WAITING
            timeline.status = CLIENT_LEFT


def _answer_here(call: Call, status: int, fields: list[Field]) -> None:
    """Answer what is asked of the server and of no resource of Ollama's.

    ``OPTIONS *`` (RFC 9110 section 9.3.7), and a browser that asks whether it may ask.
    """
    call.timeline.status = status
    call.reply.close = call.reply.close or not call.body.at_eof()
    call.reply.start(status, b"", [*fields, *call.added], has_length=True, has_body=False, answers_page=True)
    call.reply.end()


def _outcome(error: PilotlightError) -> Outcome:
    if error.status in (429, 503):
        return Outcome.REJECTED
    if error.status == 504:
        return Outcome.TIMEOUT
    return Outcome.UPSTREAM_ERROR if error.status in (500, 502) else Outcome.CLIENT_ERROR
