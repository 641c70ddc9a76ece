"""How a native reply becomes one of OpenAI's API: as server-sent events, or whole; errors in OpenAI's shape.

What must live here: what chat and completion have in common. What it must not know: requests, the network, time: a
chunk's ``created`` is the second in which Ollama made the frame.

Source: Ollama 0.24.0, ``middleware/openai.go`` (``ChatWriter``, ``CompleteWriter``, ``writeError``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from proxy.rewrite.v1.frames import unix
from proxy.wire.gojson import go_quote, read_object
from proxy.wire.gowrite import rewritten
from proxy.wire.openai import DONE, error_message, error_object

if TYPE_CHECKING:
    from proxy.rewrite.v1.frames import Frame
    from proxy.rewrite.v1.request import Translated
    from proxy.wire.gojson import JsonObject

_STREAM_TYPE: Final = b"text/event-stream"
_WHOLE_TYPE: Final = b"application/json"
# A frame up to the second of its time; groups: model, time.
_SECOND: Final = re.compile(rb'\{"model":("(?:[^"\\]++|\\.)*+"),"created_at":"([0-9T:-]{19})')
# No frame begins like this.
_NEVER: Final = b"\x00"
_UNREADABLE: Final = "the upstream's reply has a line that is no frame"


class Mapper:
    """Maps one reply; see ``relay.mapping``. Belongs to one reply, whose lines come in order.

    Args:
        asked: The request.
        identity: The completion's ``id``.

    Attributes:
        error: What an error line among the frames said. No chunk can tell it; Ollama itself sends an empty one.
        finish_reason: The answer's, once it is known.
    """

    def __init__(self, asked: Translated, identity: str) -> None:
        self._streams = asked.streams
        self.includes_usage = asked.includes_usage
        self.identity = go_quote(identity)
        self.error = ""
        self.finish_reason = ""
        # How the frames of this second begin, and what stands around the text in the chunks for them.
        self._second = _NEVER
        self.before = self.after = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity}{', failed' if self.error else ''}>"

    def content_type(self, status: int) -> bytes:
        """What the reply is, for the client."""
        return _STREAM_TYPE if self._streams and status == 200 else _WHOLE_TYPE

    def map_frame(self, line: bytes) -> bytes:
        """The events for one whole line of a stream; where the client wants none, the line itself, to be gathered."""
        if not self._streams:
            return line
        return b"" if self.error else self.map_line(line)

    def map_body(self, status: int, body: bytes) -> bytes:
        """The body for one whole native body.

        Args:
            status: Of both.
            body: An error; an answer that was asked for without a stream; or, also where a stream was asked for, what
                Ollama says when it only loaded the model or rendered the prompt.
        """
        if status != 200:
            is_json = read_object(body) is not None
            return error_object(status, error_message(body) if is_json else body.decode("utf-8", "replace"))
        if self._streams:
            return self.map_line(body)
        frame = self._read_line(body)
        return body if frame is None else f"{self.whole(frame)}\n".encode("utf-8", "surrogateescape")

    def map_line(self, line: bytes) -> bytes:
        """The events for one whole line."""
        if not line.strip():
            return b""
        frame = self._read_line(line)
        if frame is None:
            self.error = error_message(line) or _UNREADABLE
            return b""
        events = [f"data: {chunk}\n\n" for chunk in self.chunks(frame)]
        if frame.done:
            events.append(f"data: {DONE.decode()}\n\n")
        return "".join(events).encode("utf-8", "surrogateescape")

    def follows(self, head: bytes) -> bool:
        """Whether ``before`` and ``after`` are those for a frame with this beginning; worked out once a second.

        Args:
            head: All that stands before the text.
        """
        if head.startswith(self._second):
            return True
        found = _SECOND.match(head)
        if found is None:
            return False
        model = rewritten(found[1].decode("utf-8", "surrogateescape"))
        around = self.around(unix(f"{found[2].decode()}Z"), model)
        self._second = found[0]
        self.before, self.after = (text.encode("utf-8", "surrogateescape") for text in around)
        return True

    def around(self, created: int, model: str) -> tuple[str, str]:
        """The event of a frame with nothing but text, up to the text and after it."""
        raise NotImplementedError

    def _read_line(self, line: bytes) -> Frame | None:
        obj = read_object(line)
        return None if obj is None or "error" in obj or "model" not in obj else self.read(obj)

    def read(self, obj: JsonObject) -> Frame | None:
        """One native frame; ``None`` for anything else."""
        raise NotImplementedError

    def chunks(self, frame: Frame) -> list[str]:
        """The chunks of a frame, each as a text of JSON."""
        raise NotImplementedError

    def whole(self, frame: Frame) -> str:
        """The whole answer, as a text of JSON."""
        raise NotImplementedError

    def finish(self, reason: str) -> str:
        """The ``finish_reason`` as a text of JSON; ``reason`` is "" for none."""
        self.finish_reason = reason.strip('"') or self.finish_reason
        return reason or "null"
