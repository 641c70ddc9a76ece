"""A stand-in for Ollama's server, as cheap as possible: the load that relaying is measured with.

It is not the simulation (``pilotlight simulate``): it computes nothing, knows one model and answers what a proxy asks
before it relays, with the shapes and the framing of Ollama 0.24.0 (recorded): the head goes out with the first frame,
each frame is one line in one chunk, the last chunk follows on its own. Times that are measured with it say something
about what stands in front of it, and nothing about Ollama.

How a reply is paced is said by the request's field ``X-Stand-In``:

* ``burst``: the first token at once, the others together a moment later;
* ``paced``: a token every 20 ms;
* ``idle``: the first token, and then nothing for as long as the client stays.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import TYPE_CHECKING, Final, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL: Final = "standin"
NUM_CTX: Final = 4096
TOKENS: Final = 64
PACE_S: Final = 0.02
# Long enough for a proxy to have passed on the first token before the others come; a model needs longer for each.
_BURST_AFTER_S: Final = 0.003

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PACE: Final = re.compile(rb"\r\nx-stand-in: *(\w+)", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    b"Date: Sat, 21 Nov 2026 04:44:25 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_CREATED: Final = "2026-11-21T04:44:25.185667685Z"
_DIGEST: Final = "cf995257be75a592f3d8a459a55a13a74c685deb4504270ac21ee2997783f10a"
_DETAILS: Final = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "183K",
    "quantization_level": "F16",
}
_TEMPLATE: Final = "{{ .System }}{{ .Prompt }}"
_SHOW: Final = {
    "modelfile": f"FROM /models/blobs/sha256-{'ab' * 32}\nTEMPLATE {_TEMPLATE}\n",
    "parameters": "",
    "template": _TEMPLATE,
    "details": _DETAILS,
    "model_info": {
        "general.architecture": "llama",
        "llama.context_length": 2 * NUM_CTX,
        "llama.vocab_size": 694,
    },
    "capabilities": ["completion"],
    "modified_at": _CREATED,
}
_LISTED: Final = {"name": f"{MODEL}:latest", "model": f"{MODEL}:latest", "size": 382234, "digest": _DIGEST}
_RUNNING: Final = {"expires_at": "2319-03-03T04:31:42.295780698Z", "size_vram": 0, "context_length": NUM_CTX}
_MEASURED: Final = {
    "total_duration": 45135955,
    "load_duration": 2623993,
    "prompt_eval_count": 11,
    "prompt_eval_duration": 2777713,
    "eval_count": TOKENS,
    "eval_duration": 38435318,
}


def _frame(path: str, token: str, **more: object) -> dict[str, object]:
    said: dict[str, object] = {"response": token}
    if path == "/api/chat":
        said = {"message": {"role": "assistant", "content": token}}
    return {"model": MODEL, "created_at": _CREATED, **said, "done": bool(more), **more}


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(frame: dict[str, object]) -> bytes:
    line = _compact(frame) + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


def stream(path: str) -> tuple[bytes, ...]:
    """The chunks of one reply: one for each token, and one with the final record."""
    tokens = [_chunk(_frame(path, f" token{number}")) for number in range(TOKENS)]
    return (*tokens, _chunk(_frame(path, "", done_reason="stop", **_MEASURED)))


def _whole(value: object) -> bytes:
    body = _compact(value)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


class Answers:
    """Everything that is ever answered, made once; and what was asked for.

    Attributes:
        asked: How many streams, by path.
    """

    def __init__(self) -> None:
        self.asked = {"/api/chat": 0, "/api/generate": 0}
        self._streams = {path: stream(path) for path in self.asked}
        self._whole = {
            "/api/version": _whole({"version": "0.24.0"}),
            "/api/tags": _whole({"models": [{**_LISTED, "modified_at": _CREATED, "details": _DETAILS}]}),
            "/api/ps": _whole({"models": [{**_LISTED, "details": _DETAILS, **_RUNNING}]}),
            "/api/show": _whole(_SHOW),
        }
        self._loads = {path: _whole(_frame(path, "", done_reason="load")) for path in self.asked}
        # The same for both calls: whoever compares them may ask one as the other.
        self._rendered = {
            path: _whole({**_frame(path, ""), "_debug_info": {"rendered_template": "the same"}}) for path in self.asked
        }

    def whole(self, path: str, body: bytes) -> bytes | None:
        """The bytes of a reply that is no stream; ``None`` where a stream is asked for."""
        if path == "/asked":
            return _whole(self.asked)
        if path not in self.asked:
            return self._whole.get(path) or b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        if b'"_debug_render_only"' in body:
            return self._rendered[path]
        if b'"prompt"' not in body and b'"messages"' not in body:
            return self._loads[path]
        return None

    def stream(self, path: str) -> tuple[bytes, ...]:
        self.asked[path] += 1
        return self._streams[path]


class _Connection(asyncio.Protocol):
    def __init__(self, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self._answers = answers
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._chunks: Sequence[bytes] = ()
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(_HEAD_END)) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            size = end + len(_HEAD_END) + (int(length[1]) if length is not None else 0)
            if len(self._received) < size:
                return
            request, self._received = self._received[:size], self._received[size:]
            self._answer(request[:end], request[end + len(_HEAD_END) :])

    def _answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode("latin-1")
        whole = self._answers.whole(path, body)
        if whole is not None:
            self._write(whole)
            return
        self._chunks = self._answers.stream(path)
        self._next = 1
        self._write(_STREAM_HEAD + self._chunks[0])
        pace = _PACE.search(head)
        if pace is None or pace[1] == b"burst":
            self._timer = self._loop.call_later(_BURST_AFTER_S, self._rest)
        elif pace[1] == b"paced":
            self._timer = self._loop.call_later(PACE_S, self._token, self._loop.time() + PACE_S)

    def _rest(self) -> None:
        self._write(b"".join(self._chunks[1:]))
        self._loop.call_soon(self._write, _LAST_CHUNK)

    def _token(self, due: float) -> None:
        self._write(self._chunks[self._next])
        self._next += 1
        if self._next == len(self._chunks):
            # Apart from the final record, as Go's server does when the handler has returned.
            self._loop.call_soon(self._write, _LAST_CHUNK)
            return
        due += PACE_S
        self._timer = self._loop.call_at(due, self._token, due)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


async def serve(port: int) -> None:
    """Listen on loopback until cancelled."""
    loop = asyncio.get_running_loop()
    answers = Answers()
    server = await loop.create_server(lambda: _Connection(answers, loop), "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="the stand-in of scripts/bench relay")
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
