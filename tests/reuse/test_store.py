"""What is kept, for how long, at what cost; and that nobody ever gets another one's answer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.errors import UpstreamBroken
from proxy.reuse.key import Keys, canonical
from proxy.reuse.recording import Recorder, replay
from proxy.reuse.store import ENTRY_BYTES, FIELD_BYTES, PIECE_BYTES, Answers, Recorded
from proxy.wire.http1 import chunk, parse_head
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from proxy.errors import PilotlightError
    from proxy.wire.http1 import ReplyHead


def head_of(status: int = 200) -> ReplyHead:
    head = parse_head(b"HTTP/1.1 %d X\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked" % status)
    assert head is not None
    return head


def answer(*pieces: bytes) -> Recorded:
    return Recorded(head_of(), pieces, 0.0)


class Kept:
    """Answers with a clock of their own."""

    def __init__(self, max_entries: int = 10, max_bytes: int = 1 << 20, ttl_s: float = 600.0) -> None:
        self.now = 100.0
        self.evicted: list[str] = []
        self.answers = Answers(max_entries, max_bytes, ttl_s, lambda: self.now, self.evicted.append)

    def put(self, name: str, digest: str = "d", size: int = 10) -> bool:
        return self.answers.put(name.encode(), digest, answer(name.encode() * size))

    def names(self, *names: str) -> str:
        return "".join(name for name in names if self.answers.get(name.encode()) is not None)


def test_an_answer_is_found_as_it_was_put() -> None:
    kept = Kept()
    recorded = answer(b"a\n", b"b\n")
    assert kept.answers.get(b"k") is None
    assert kept.answers.put(b"k", "d", recorded)
    assert kept.answers.get(b"k") is recorded
    assert len(kept.answers) == 1
    assert kept.evicted == []


def test_an_answer_goes_when_its_time_is_over_however_often_it_is_asked_for() -> None:
    kept = Kept(ttl_s=10)
    kept.put("a")
    kept.now += 9.9
    kept.put("b")
    assert kept.names("a", "b") == "ab"
    kept.now += 0.1
    assert kept.names("a", "b") == "b"
    assert kept.evicted == ["ttl"]
    assert len(kept.answers) == 1


def test_the_one_not_asked_for_longest_makes_room() -> None:
    kept = Kept(max_entries=3)
    for name in "abc":
        kept.put(name)
    kept.answers.get(b"a")
    kept.put("d")
    assert kept.names("a", "b", "c", "d") == "acd"
    assert kept.evicted == ["size"]


def test_what_is_out_of_date_makes_room_before_what_is_not() -> None:
    kept = Kept(max_entries=2, ttl_s=10)
    kept.put("a")
    kept.now += 5
    kept.put("b")
    kept.answers.get(b"a")
    kept.now += 5
    kept.put("c")
    assert kept.names("a", "b", "c") == "bc"
    assert kept.evicted == ["ttl"]


def test_bytes_are_bounded_whatever_their_number() -> None:
    kept = Kept(max_entries=1000, max_bytes=64 * 1024)
    for number in range(100):
        assert kept.put(f"{number:02}", size=1000)
        assert kept.answers.size_bytes <= 64 * 1024
    assert len(kept.answers) == 64 * 1024 // kept.answers.get(b"99").size_bytes  # type: ignore[union-attr]
    assert kept.evicted == ["size"] * (100 - len(kept.answers))


def test_every_byte_and_every_piece_counts() -> None:
    recorded = answer(b"abc", b"de")
    fields = sum(len(name) + len(value) + FIELD_BYTES for name, value in recorded.head.fields)
    assert recorded.size_bytes == ENTRY_BYTES + fields + 5 + 2 * PIECE_BYTES
    kept = Kept()
    kept.answers.put(b"k", "d", recorded)
    assert kept.answers.size_bytes == recorded.size_bytes


def test_one_answer_takes_an_eighth_at_most() -> None:
    kept = Kept(max_bytes=8 * 4000)
    overhead = answer(b"").size_bytes
    assert not kept.answers.put(b"k", "d", answer(b"x" * (4001 - overhead)))
    assert kept.answers.put(b"k", "d", answer(b"x" * (4000 - overhead)))
    assert kept.answers.largest_bytes == 4000


def test_a_newer_answer_takes_the_place_and_the_digest_of_the_older() -> None:
    kept = Kept(max_entries=1)
    kept.put("a", "old")
    kept.put("a", "new", size=20)
    assert kept.evicted == []
    assert kept.answers.flush("old") == 0
    assert kept.answers.size_bytes == answer(b"a" * 20).size_bytes
    assert kept.answers.flush("new") == 1


def test_a_flush_takes_the_answers_of_one_model() -> None:
    kept = Kept()
    for name, digest in (("a", "x"), ("b", "y"), ("c", "x")):
        kept.put(name, digest)
    assert kept.answers.flush("x") == 2
    assert kept.names("a", "b", "c") == "b"
    assert kept.evicted == ["flush", "flush"]
    assert kept.answers.flush("y") == 1
    assert (len(kept.answers), kept.answers.size_bytes) == (0, 0)


def test_what_made_room_is_not_flushed_again() -> None:
    kept = Kept(max_entries=1)
    kept.put("a", "x")
    kept.put("b", "y")
    assert kept.answers.flush("x") == 0
    assert kept.evicted == ["size"]


@pytest.mark.parametrize(("entries", "size_bytes"), [(0, 1 << 20), (10, 0)])
def test_no_room_at_all_keeps_nothing(entries: int, size_bytes: int) -> None:
    kept = Kept(entries, size_bytes)
    assert not kept.put("a")
    assert kept.names("a") == ""


# --- isolation, as a machine

MAX_BYTES = 24_000
MAX_ENTRIES = 6
TTL_S = 60.0
BODIES: list[dict[str, Any]] = [
    {"prompt": "a", "options": {"seed": 1}},
    {"prompt": "a", "options": {"seed": 2}},
    {"prompt": "a", "options": {"seed": 1, "num_ctx": 64}},
    {"prompt": "ab", "options": {"seed": 1}},
]
ENDS = ["complete", "unfinished", "error line", "cut", "failed", "status", "too long", "left"]


class Relayed:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.raw = b""
        self.ends: list[object] = []
        self.ended = asyncio.Event()

    def on_head(self, head: ReplyHead) -> None:
        self.head = head

    def on_body(self, raw: bytes, payload: bytes) -> None:
        self.pieces.append(payload)
        self.raw += raw

    def on_end(self) -> None:
        self.ends.append("end")
        self.ended.set()

    def on_failure(self, error: PilotlightError) -> None:
        self.ends.append(error)


class Isolation(RuleBasedStateMachine):
    """Two credentials, two models, one cache. Each answer says who asked, what, and of which state of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.answers = Answers(MAX_ENTRIES, MAX_BYTES, TTL_S, lambda: self.now)
        self.keys = Keys(b"secret")
        self.credentials = ["one-0", "two-0"]
        self.digests = ["m-0", "n-0"]
        self.serial = 0
        self.complete: dict[str, tuple[bytes, ...]] = {}
        self.loop = asyncio.Runner()

    def teardown(self) -> None:
        self.loop.close()

    @rule(
        who=st.integers(0, 1),
        model=st.integers(0, 1),
        path=st.sampled_from(["/api/chat", "/api/generate"]),
        body=st.sampled_from(BODIES),
        end=st.sampled_from(ENDS),
        frames=st.integers(0, 6),
    )
    def ask(self, who: int, model: int, path: str, body: dict[str, Any], end: str, frames: int) -> None:
        credential, digest = self.credentials[who], self.digests[model]
        form = canonical(json.dumps(body | {"model": f"model {model}"}).encode(), native=True)
        assert form is not None
        key = self.keys.of(credential, "http://ollama", digest, path, form)
        asked = [credential, digest, path, form.decode()]
        found = self.answers.get(key)
        if found is not None:
            told = json.loads(found.pieces[0])
            assert told["asked"] == asked, "a cross hit"
            assert found.pieces == self.complete[told["serial"]], "not a complete answer"
            self.loop.run(self.plays(found))
            return
        self.serial += 1
        self.exchange(key, digest, asked, end, frames)

    def exchange(self, key: bytes, digest: str, asked: list[str], end: str, frames: int) -> None:
        serial = str(self.serial)
        lines = [json.dumps({"serial": serial, "asked": asked, "done": False}).encode() + b"\n"]
        lines += [b'{"response":"%d","done":false}\n' % number for number in range(frames)]
        if end == "too long":
            lines.append(b'{"response":"%b","done":false}\n' % (b"x" * self.answers.largest_bytes))
        if end != "unfinished":
            lines.append(b'{"error":"it died"}\n' if end == "error line" else b'{"done":true,"done_reason":"stop"}\n')
        if end == "complete":
            self.complete[serial] = tuple(lines)
        sink = Relayed()
        recorder = Recorder(
            sink,
            Family.API,
            limit_bytes=self.answers.largest_bytes,
            on_recorded=lambda recorded: self.stored(key, digest, serial, recorded),
            wall=lambda: self.now,
        )
        recorder.on_head(head_of(500 if end == "status" else 200))
        for line in lines[:-1] if end in ("cut", "failed", "left") else lines:
            recorder.on_body(chunk(line), line)
        if end == "failed":
            recorder.on_failure(UpstreamBroken("cut"))
        elif end != "left":
            recorder.on_end()
        assert lines[: len(sink.pieces)] == sink.pieces
        assert len(sink.ends) == (end != "left")

    def stored(self, key: bytes, digest: str, serial: str, recorded: Recorded) -> None:
        assert serial in self.complete
        self.answers.put(key, digest, recorded)

    async def plays(self, recorded: Recorded) -> None:
        sink = Relayed()
        replay(recorded, sink, now=self.now)
        async with asyncio.timeout(5):
            await sink.ended.wait()
        assert tuple(sink.pieces) == recorded.pieces
        assert sink.raw == b"".join(map(chunk, recorded.pieces))
        assert sink.ends == ["end"]

    @rule(model=st.integers(0, 1), flush=st.booleans())
    def pull(self, model: int, flush: bool) -> None:
        self.serial += 1
        old, self.digests[model] = self.digests[model], f"digest {self.serial}"
        if flush:
            self.answers.flush(old)

    @rule(who=st.integers(0, 1))
    def rotate(self, who: int) -> None:
        self.serial += 1
        self.credentials[who] = f"credential {self.serial}"

    @rule()
    def swap_models(self) -> None:
        """``ollama cp`` over each other: both names are there, and each is the other model now."""
        self.digests.reverse()

    @rule(seconds=st.sampled_from([1.0, 30.0, TTL_S]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.answers) <= MAX_ENTRIES
        assert self.answers.size_bytes <= MAX_BYTES


# 2,000 cases, as the goal has it: some 15 seconds.
TestIsolation = Isolation.TestCase
TestIsolation.settings = settings(max_examples=2000, stateful_step_count=12, deadline=None)
