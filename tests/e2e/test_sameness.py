"""Every recorded exchange, direct and through the proxy: the same bytes, or, where it is mapped, the same JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.e2e.pair import paired
from tests.peers import Answer, RawClient, client

EXCHANGES = json.loads((Path(__file__).parent.parent / "data" / "exchanges.json").read_text(encoding="utf-8"))

# Documented additions (docs/how-it-works.md), and framing, which belongs to one hop.
ADDED = {
    "x-request-id",
    "request-id",
    "server-timing",
    "x-accel-buffering",
    "x-pilotlight-options",
    "content-length",
    "transfer-encoding",
    "connection",
}
# What no two answers have in common.
VARYING = re.compile(
    rb'"(created_at|modified_at|expires_at)":"[^"]*"|"(\w+_duration|created|created_at|completed_at)":\d+'
)
MADE_UP = re.compile(rb'"(chatcmpl|cmpl|msg|resp|req|call)[-_][0-9a-f]+"')
OWN_CONTEXT = re.compile(rb',?"context":\[[0-9,]*\]')

# The guard keeps the larger context of the loaded model, so the prompt fits and is answered.
OVERRIDDEN = {"chat truncate false too long"}
# The guard answers these itself (edge.guard): a preflight offers our own fields too, and a refusal says why.
ANSWERED_HERE = {
    "cors preflight allowed": 204,
    "cors preflight denied": 403,
    "origin denied": 403,
    "host denied": 421,
}


def send(peer: RawClient, exchange: dict[str, Any]) -> None:
    body = exchange.get("body")
    data = b""
    if isinstance(body, dict) and set(body) == {"raw"}:
        data = body["raw"].encode()
    elif body is not None:
        data = json.dumps(body).encode()
    fields = [tuple(field) for field in exchange.get("headers", [])]
    names = {name.lower() for name, _ in fields}
    if "host" not in names:
        fields.insert(0, ("Host", "127.0.0.1"))
    if body is not None and "content-type" not in names:
        fields.append(("Content-Type", "application/json"))
    if data or exchange["method"] in ("POST", "DELETE"):
        fields.append(("Content-Length", str(len(data))))
    head = "\r\n".join([f"{exchange['method']} {exchange['path']} HTTP/1.1", *(f"{n}: {v}" for n, v in fields)])
    peer.send(head.encode() + b"\r\n\r\n" + data)


async def replayed(address: str) -> dict[str, Answer]:
    """Each exchange on a connection of its own, in the order in which they were recorded."""
    answers = {}
    for exchange in EXCHANGES:
        async with client(address) as peer:
            send(peer, exchange)
            answers[exchange["name"]] = await peer.answer(is_head=exchange["method"] == "HEAD")
    return answers


def head_of(answer: Answer) -> tuple[int, list[tuple[str, str]]]:
    fields = [(name.lower(), value) for name, value in answer.fields if name.lower() not in ADDED | {"date"}]
    if not any(name == "cache-control" and value == "no-cache" for name, value in fields):
        fields = [field for field in fields if field != ("cache-control", "no-cache, no-transform")]
    return answer.status, sorted(field for field in fields if field != ("cache-control", "no-transform"))


def body_of(answer: Answer, *, with_context: bool = True) -> bytes:
    body = MADE_UP.sub(b'"ID"', VARYING.sub(b'"T"', answer.body))
    return body if with_context else OWN_CONTEXT.sub(b"", body)


async def test_every_exchange_is_the_same_through_the_proxy() -> None:
    async with paired() as pair:
        direct = await replayed(pair.direct)
    async with paired() as pair:
        proxied = await replayed(pair.proxied)
        mapped = {seen.target for seen in pair.simulated.requests if seen.path == "/api/chat"}
    assert mapped, "no generate went as chat, so this would say nothing about mapping"
    different = []
    for exchange in EXCHANGES:
        name = exchange["name"]
        one, other = direct[name], proxied[name]
        with_context = exchange["path"] != "/api/generate"
        same = (
            head_of(one) == head_of(other)
            and one.end is other.end
            and body_of(one, with_context=with_context) == body_of(other, with_context=with_context)
        )
        if not same and name not in OVERRIDDEN | ANSWERED_HERE.keys():
            different.append((name, head_of(one), head_of(other), one.body[:300], other.body[:300]))
    assert different == []
    assert {name: proxied[name].status for name in ANSWERED_HERE} == ANSWERED_HERE
    assert proxied["chat truncate false too long"].header("x-pilotlight-options") is not None
