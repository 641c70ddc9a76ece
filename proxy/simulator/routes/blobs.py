"""POST and HEAD /api/blobs/:digest. Uploads are hashed as they come; only small ones are kept."""

from __future__ import annotations

import hashlib

from proxy.simulator.engine.store import Blob, InvalidDigest, normal_digest
from proxy.simulator.golang.clock import go_quote
from proxy.simulator.net.connection import BrokenBody
from proxy.simulator.routes.call import Call, Refusal

_KEPT_BYTES = 1 << 20


def _digest(call: Call) -> str:
    try:
        return normal_digest(call.params["digest"])
    except InvalidDigest as error:
        raise Refusal(400, str(error)) from None


async def head(call: Call) -> None:
    """Whether a blob is there."""
    if _digest(call) not in call.state.store.blobs:
        raise Refusal(404, f"blob {go_quote(call.params['digest'])} not found")
    call.sink.response.write_header(200)


async def upload(call: Call) -> None:
    """Take a blob in."""
    if _digest(call) in call.state.store.blobs:
        call.sink.response.write_header(200)
        return
    hashed, size, kept = hashlib.sha256(), 0, bytearray()
    try:
        async for piece in call.exchange.stream():
            hashed.update(piece)
            size += len(piece)
            if size <= _KEPT_BYTES:
                kept += piece
    except BrokenBody as error:
        raise Refusal(500, str(error)) from None
    call.seen.body_bytes = size
    digest = f"sha256:{hashed.hexdigest()}"
    call.state.store.blobs[digest] = Blob(size, bytes(kept) if size <= _KEPT_BYTES else None)
    if digest != call.params["digest"]:
        raise Refusal(400, f"digest mismatch, expected {go_quote(call.params['digest'])}, got {go_quote(digest)}")
    call.sink.response.write_header(201)
