"""Bodies that are like an earlier one: whatever is remembered of them is what the ordinary way says, or nothing is."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.relay.asked import understand
from proxy.relay.outgoing import compose
from proxy.relay.shapes import Shapes, around_content, new_shape
from proxy.residency.prepared import UNTOUCHED, Prepared
from proxy.rewrite.facts import facts_from_show
from proxy.rewrite.generate import Decision, decide
from proxy.settings import Settings
from proxy.wire.gojson import JsonObject, read_object
from proxy.wire.routes import classify
from tests.stage import MODEL, SHOW, chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from tests.peers import Answering, Seen

SETTINGS = Settings()
FACTS = dataclasses.replace(facts_from_show(f"{MODEL}:latest", "d" * 64, SHOW), same_render=True)
ROUTES = {path: classify("POST", path) for path in ("/api/chat", "/api/generate")}
CONTENT = {"/api/chat": "messages", "/api/generate": "prompt"}
PREPARED = [
    UNTOUCHED,
    Prepared({"num_ctx": 4096}, frozenset({"num_batch"}), -1, "num_ctx=4096; asked=8192", kept=True),
    Prepared({}, frozenset(), "5m"),
]

TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(['"', "\\", "sample-", '","model":"x', "\u2028", "é"]))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-3, 9000), st.floats(allow_nan=False), TEXTS)
OTHERS = st.fixed_dictionaries(
    {"model": st.sampled_from([MODEL, "Tiny", "", "x:cloud", 7])},
    optional={
        "stream": st.sampled_from([True, False, None, "yes"]),
        "options": st.dictionaries(
            st.sampled_from(["num_ctx", "num_batch", "temperature", "stop", "x"]), VALUES, max_size=3
        ),
        "keep_alive": st.sampled_from(["5m", 0, -1, None, "abc", True]),
        "format": st.sampled_from([None, "json", {}]),
        "system": TEXTS,
        "think": st.sampled_from([True, False, None, "high", "odd"]),
        "tools": st.sampled_from([[], [{}], 1]),
        "raw": st.booleans(),
        "suffix": TEXTS,
        "truncate": st.sampled_from([True, False, None]),
        "context": st.just([1, 2]),
        "_debug_render_only": st.booleans(),
        "Prompt": TEXTS,
        "unknown": VALUES,
    },
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS}), max_size=2)
CONTENTS = {
    "/api/chat": st.one_of(MESSAGES, VALUES, st.just([1]), st.just([{"role": 1}])),
    "/api/generate": st.one_of(TEXTS, VALUES),
}
SPACES = st.sampled_from(["", " ", "\n\t"])


def written(others: dict[str, Any], name: str, content: str, place: int, space: str, tail: str) -> bytes:
    members = [(key, json.dumps(value)) for key, value in others.items()]
    members.insert(place % (len(members) + 1), (name, content))
    text = f",{space}".join(f'"{key}":{space}{value}' for key, value in members)
    return f"{space}{{{text}}}{tail}".encode()


def decided(obj: JsonObject, facts: Any) -> Decision:
    return decide(obj, facts)


def ordinary(path: str, body: bytes, prepared: Prepared) -> Any:
    """What the ordinary way sends; ``None`` where it relays, refuses or loads."""
    obj = read_object(body)
    decision = decide(obj, FACTS) if path == "/api/generate" else None
    if obj is None or (decision is not None and decision.error is not None):
        return None
    asked = understand(ROUTES[path], obj, is_certain=decision is not None and decision.rule > 1)
    if asked is None or asked.is_load:
        return None
    outgoing = compose(asked, FACTS, prepared, SETTINGS, decision=decision, refuse_long_prompts=False)
    return told(outgoing), (asked.model, asked.options, asked.keep_alive, asked.streams, asked.is_unload)


def told(outgoing: Any) -> Any:
    said = b'"message":{"role":"assistant","content":"hi"}'
    frame = b'{"model":"m","created_at":"x",%b,"done":true,"done_reason":"stop"}\n' % said
    mapped = None if outgoing.mapper is None else outgoing.mapper.map_frame(frame)
    kinds = (type(outgoing.mapper), type(outgoing.gather))
    return outgoing._replace(mapper=None, gather=None), kinds, mapped


@pytest.mark.parametrize("path", list(ROUTES))
@given(st.data())
def test_what_is_remembered_is_what_the_ordinary_way_says(path: str, data: st.DataObject) -> None:
    others, place, space = data.draw(OTHERS), data.draw(st.integers(0, 20)), data.draw(SPACES)
    tail = data.draw(st.sampled_from(["", "\n", " x"]))
    prepared, name = data.draw(st.sampled_from(PREPARED)), CONTENT[path]

    def body() -> bytes:
        content = data.draw(CONTENTS[path])
        raw = json.dumps(content, ensure_ascii=data.draw(st.booleans()))
        raw += data.draw(st.sampled_from(["", "", "", " ", ',"model":"other"', "}", "]"]))
        return written(others, name, raw, place, space, tail)

    shapes = Shapes()
    for _ in range(2):
        first = read_object(body())
        if first is not None and ordinary(path, first.text.encode(), prepared) is not None:
            shapes.learn(ROUTES[path], first, FACTS, decided)
    for _ in range(3):
        asked_now = body()
        said = shapes.find(asked_now)
        if said is None:
            continue
        outgoing = said.shape.outgoing(said.content, prepared, SETTINGS)
        if outgoing is None:
            continue
        asked = said.shape.asked
        seen = told(outgoing), (asked.model, asked.options, asked.keep_alive, asked.streams, asked.is_unload)
        assert seen == ordinary(path, asked_now, prepared)
        assert said.whole().text.encode() == asked_now


def learnt(path: str, *bodies: dict[str, Any]) -> Shapes:
    shapes = Shapes()
    for body in bodies:
        obj = read_object(json.dumps(body).encode())
        assert obj is not None
        shapes.learn(ROUTES[path], obj, FACTS, decided)
    return shapes


def test_the_second_body_of_a_kind_makes_a_shape() -> None:
    asks = [{"model": MODEL, "prompt": text, "stream": False} for text in ("one", "two", "three")]
    assert learnt("/api/generate", asks[0]).find(json.dumps(asks[2]).encode()) is None

    said = learnt("/api/generate", *asks[:2]).find(json.dumps(asks[2]).encode())

    assert said is not None
    assert said.content == b'"three"'


@pytest.mark.parametrize(
    "content", [b'""', b"[]", b"7", b"null", b'"a" ', b'"a","b":"c"', b'"a\xff"', b'"' + b"x" * 200_000 + b'"']
)
def test_a_content_of_another_kind_is_read_in_the_ordinary_way(content: bytes) -> None:
    shapes = learnt("/api/generate", *({"model": MODEL, "prompt": text} for text in "ab"))

    assert shapes.find(b'{"model": "tiny", "prompt": ' + content + b"}") is None


def test_few_shapes_are_remembered_for_one_head() -> None:
    shapes = learnt("/api/chat", *(chat(options={"seed": number // 2}) for number in range(20)))

    found = [shapes.find(json.dumps(chat(options={"seed": number})).encode()) is not None for number in range(10)]

    assert found == [False] * 6 + [True] * 4


def test_a_conversation_of_its_own_and_a_long_surrounding_make_none() -> None:
    for more in ({"context": [1]}, {"system": "x" * 3000}):
        obj = read_object(json.dumps({"model": MODEL, "prompt": "a", **more}).encode())
        assert obj is not None
        assert around_content(ROUTES["/api/generate"], obj) is None


def test_what_is_not_understood_makes_none() -> None:
    obj = read_object(json.dumps(chat(keep_alive="abc")).encode())
    assert obj is not None
    around = around_content(ROUTES["/api/chat"], obj)
    assert around is not None
    assert new_shape(ROUTES["/api/chat"], around, FACTS, decided) is None


async def answer(seen: Seen, reply: Answering) -> None:
    reply.head()
    reply.frames(chat_token("x"), chat_end())
    reply.end()


@pytest.mark.parametrize("path", list(ROUTES))
async def test_requests_like_earlier_ones_reach_ollama_as_the_first_did(path: str) -> None:
    """And nothing of the sample ever does."""
    prompts = ["one", 'two "quoted"', "three é", "four", "five"]
    async with (
        staged(answer, models=[{"name": MODEL, "options": {"num_ctx": 2048}}]) as stage,
        stage.client() as asking,
    ):
        for prompt in prompts:
            said = (
                {"prompt": prompt} if path == "/api/generate" else {"messages": [{"role": "user", "content": prompt}]}
            )
            asking.post(path, {"model": MODEL, **said, "options": {"num_ctx": 1024, "seed": 1}, "keep_alive": "1s"})
            got = await asking.answer()
            assert (got.status, got.header("x-pilotlight-options")) == (200, "num_ctx=2048; asked=1024")
        bodies = [seen.json for seen in stage.calls]
        assert [body["messages"][0]["content"] for body in bodies] == prompts
        assert len({json.dumps({**body, "messages": 0}) for body in bodies}) == 1
        assert all(b"sample-" not in seen.head + seen.body for seen in stage.upstream.seen)
        rows = await stage.rows(len(prompts))
        assert len({(row.get("rule"), row["injected"], row["model"]) for row in rows}) == 1
        metrics = stage.proxy.metrics.encode()[0].decode()
    counted = [line for line in metrics.splitlines() if line.startswith("pilotlight_reloads_avoided_total{")]
    (own,) = [line for line in counted if 'option="num_ctx"' in line and f'model="{MODEL}:latest"' in line]
    assert own.endswith(f" {len(prompts)}.0")


async def test_a_model_that_was_made_anew_is_looked_at_again() -> None:
    async with staged(answer) as stage, stage.client() as asking:
        for _ in range(4):
            asking.post("/api/chat", chat())
            assert (await asking.answer()).status == 200
        asked_before = len([seen for seen in stage.upstream.seen if seen.path == "/api/show"])
        stage.proxy._catalogue.forget(None)
        asking.post("/api/chat", chat())
        assert (await asking.answer()).status == 200
        assert len([seen for seen in stage.upstream.seen if seen.path == "/api/show"]) > asked_before
