"""Bodies that differ from an earlier one in nothing but what is said.

An application writes its requests by one piece of code: the same model, the same options, the same names in the same
order, and in one place the prompt, or the messages. Where a body is the same as one before, byte for byte, around that
place, and holds exactly one JSON value of the right kind in it, then everything that was worked out before holds for it
too: what is asked, by which rule a generate becomes a chat, and what is sent, around the new prompt.

Nothing is decided here. A shape is made by sending a body with a *sample* in the place of the prompt through the same
functions as every other body, and by looking where the sample comes out.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.relay.asked import understand
from proxy.relay.outgoing import Outgoing, compose, readers
from proxy.rewrite.fields import FIELDS
from proxy.wire.gojson import read_object, read_text, read_value
from proxy.wire.routes import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.relay.asked import Asked
    from proxy.residency.prepared import Prepared
    from proxy.rewrite.facts import ModelFacts
    from proxy.rewrite.generate import Decision
    from proxy.settings import Settings
    from proxy.wire.gojson import JsonObject
    from proxy.wire.routes import Route

# Of what an application may make us remember, times the number for each of its heads.
_LONGEST_AROUND: Final = 2048
_MOST: Final = 4
# Beyond it reading is not what takes time, and rule 4 (a context of our own has a limit) comes near.
_LONGEST_CONTENT_BYTES: Final = 128 * 1024
# Random, so that no body holds it but ours.
_SAMPLE: Final = f"sample-{secrets.token_hex(16)}"
_CONTENT: Final = {Kind.GENERATE: "prompt", Kind.CHAT: "messages"}
_SAMPLES: Final = {
    Kind.GENERATE: f'"{_SAMPLE}"',
    Kind.CHAT: f'[{{"role":"user","content":"{_SAMPLE}"}}]',
}


class Around(NamedTuple):
    """A body without what is said in it."""

    before: bytes
    after: bytes


class _Made(NamedTuple):
    """What is sent for a shape: as it was composed for the sample, and what stands around that."""

    prepared: Prepared
    outgoing: Outgoing
    before: bytes
    after: bytes
    messages: tuple[str, str] | None


class Shape:
    """Bodies that are the same around their content.

    Attributes:
        asked: What they ask for, the sample in the place of the content.
        decision: About generate to chat; ``None`` for a chat.
        facts: About their model; the shape holds while these are what is known of it.
    """

    __slots__ = ("_around", "_made", "_takes", "asked", "decision", "facts")

    def __init__(self, around: Around, asked: Asked, decision: Decision | None, facts: ModelFacts) -> None:
        self._around = around
        self._takes = FIELDS[asked.route.template][_CONTENT[asked.route.kind]]
        self._made: _Made | None = None
        self.asked = asked
        self.decision = decision
        self.facts = facts

    def __repr__(self) -> str:
        return f"<Shape {self.asked.route.template} {self.asked.model}>"

    def content_of(self, body: bytes) -> bytes | None:
        """What is said in a body of this shape; ``None``: it is of another."""
        before, after = self._around
        if not (body.startswith(before) and body.endswith(after)):
            return None
        size = len(body) - len(before) - len(after)
        if not 0 < size <= _LONGEST_CONTENT_BYTES:
            return None
        content = body[len(before) : len(before) + size]
        value = read_value(content)
        # An empty one asks for a load.
        return content if value and self._takes(value) else None

    def outgoing(self, content: bytes, prepared: Prepared, settings: Settings) -> Outgoing | None:
        """What is sent; ``None``: that has to be composed from the whole body.

        Args:
            content: As :meth:`content_of` says.
            prepared: What residency wants in and out.
            settings: As for ``compose``.
        """
        made = self._made
        if made is None or made.prepared != prepared:
            made = self._made = self._make(prepared, settings)
        if made is None:
            return None
        outgoing, messages = made.outgoing, made.messages
        said = None if messages is None else content.decode().join(messages)
        mapper, gather = readers(self.asked, said, gathers=outgoing.gather is not None)
        return Outgoing(
            outgoing.path,
            content.join((made.before, made.after)),
            mapper,
            gather,
            outgoing.rule,
            outgoing.injected,
            outgoing.asks_for_whole_prompts,
        )

    def _make(self, prepared: Prepared, settings: Settings) -> _Made | None:
        if prepared.long_prompts != "cut":
            return None
        decision, sample = self.decision, _SAMPLES[self.asked.route.kind]
        outgoing = compose(self.asked, self.facts, prepared, settings, decision=decision, refuse_long_prompts=False)
        body = outgoing.body.split(sample.encode())
        messages = decision.messages.split(sample) if decision is not None and decision.to_chat else None
        if len(body) != 2 or (messages is not None and len(messages) != 2):
            return None
        around = None if messages is None else (messages[0], messages[1])
        return _Made(prepared, outgoing, body[0], body[1], around)


class Said(NamedTuple):
    """What is said in one body.

    Attributes:
        shape: Of the body.
        content: The prompt, or the messages.
        body: All of it.
    """

    shape: Shape
    content: bytes
    body: bytes

    def whole(self) -> JsonObject:
        """The body, read."""
        obj = read_object(self.body)
        if obj is None:
            raise ValueError("a body of a known shape is none")
        return obj


class Shapes:
    """The shapes of the bodies that come with one head; and the last body of none, which may be the first of one."""

    __slots__ = ("_last", "_shapes")

    def __init__(self) -> None:
        self._shapes: list[Shape] = []
        self._last: Around | None = None

    def __repr__(self) -> str:
        return f"<Shapes {self._shapes}>"

    def find(self, body: bytes) -> Said | None:
        """What is said in a body of a known shape."""
        for shape in self._shapes:
            content = shape.content_of(body)
            if content is not None:
                return Said(shape, content, body)
        return None

    def forget(self, shape: Shape) -> None:
        """It does not hold any more."""
        self._shapes.remove(shape)

    def learn(
        self,
        route: Route,
        obj: JsonObject,
        facts: ModelFacts,
        decide: Callable[[JsonObject, ModelFacts], Decision],
    ) -> None:
        """Take in a body of no known shape, which was understood; the second of its kind makes one.

        Args:
            route: Native.
            obj: The body.
            facts: About its model.
            decide: About generate to chat.
        """
        around = around_content(route, obj)
        if around is None:
            return
        is_second, self._last = around == self._last, around
        if is_second and (shape := new_shape(route, around, facts, decide)) is not None:
            if len(self._shapes) >= _MOST:
                del self._shapes[0]
            self._shapes.append(shape)


def around_content(route: Route, obj: JsonObject) -> Around | None:
    """What stands around the prompt or the messages; ``None`` where no shape is made of such a body."""
    name = _CONTENT.get(route.kind)
    # A context is another one each time.
    if name is None or name not in obj or "context" in obj:
        return None
    start, end = obj.place(name)
    if len(obj.text) - (end - start) > _LONGEST_AROUND:
        return None
    try:
        return Around(obj.text[:start].encode(), obj.text[end:].encode())
    except UnicodeEncodeError:
        # Bytes that are no UTF-8 stand for others.
        return None


def new_shape(
    route: Route, around: Around, facts: ModelFacts, decide: Callable[[JsonObject, ModelFacts], Decision]
) -> Shape | None:
    """The shape of bodies with this around their content; ``None`` where they are not understood."""
    obj = read_text(_SAMPLES[route.kind].join((around.before.decode(), around.after.decode())))
    if obj is None:
        return None
    decision = decide(obj, facts) if route.kind is Kind.GENERATE else None
    if decision is not None and (decision.error is not None or decision.rule == 1):
        return None
    asked = understand(route, obj, is_certain=decision is not None)
    return None if asked is None or asked.is_load else Shape(around, asked, decision, facts)
