"""Embeddings of single texts leave together, and each client gets what it would have got alone."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ShuttingDown, UpstreamUnreachable
from proxy.reuse.gathering import Gatherer, GatherKey, gather_key, merged_body, split

if TYPE_CHECKING:
    from proxy.wire.headers import Field

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
NUMBERS = st.sampled_from(["1", "-0.25", "1e-7", "0.10000000149011612", "1E+2", "-0"])
VECTORS = st.lists(NUMBERS, min_size=1, max_size=4).map(lambda numbers: f"[{','.join(numbers)}]")


def body_of(text: object = "hi", **more: Any) -> bytes:
    return json.dumps({"model": "m", "input": text, **more}).encode()


def key_of(body: bytes) -> GatherKey:
    key = gather_key(body)
    assert key is not None
    return key


# --- what goes together


def test_one_text_has_a_key_and_the_text_is_no_part_of_it() -> None:
    assert gather_key(body_of("a")) == gather_key(body_of("b")) == gather_key(body_of(["c"])) is not None
    assert key_of(body_of()).model == "m"


@pytest.mark.parametrize("more", [{"model": "n"}, {"dimensions": 3}, {"truncate": False}, {"options": {"num_ctx": 9}}])
def test_what_decides_about_the_answer_keeps_calls_apart(more: dict[str, Any]) -> None:
    assert gather_key(body_of(**more)) != gather_key(body_of())


def test_keep_alive_and_the_order_of_members_do_not() -> None:
    assert gather_key(b'{"keep_alive":"1h","input":"a","truncate":true,"model":"m"}') == gather_key(
        b'{"model":"m","truncate":true,"input":"b"}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"model":"m"}',
        body_of(""),
        body_of([""]),
        body_of([]),
        body_of(["a", "b"]),
        body_of([1]),
        body_of(5),
        body_of(None),
        body_of(model=""),
        body_of(model=7),
        body_of(keep_alive="soon"),
        b'{"model":"m","input":"a","Input":"b"}',
        b'{"model":"m","input":"a","options":{"seed":1,"seed":2}}',
    ],
)
def test_everything_else_goes_alone(body: bytes) -> None:
    assert gather_key(body) is None


@given(st.lists(TEXTS, min_size=1, max_size=10), st.booleans())
def test_a_merged_body_has_all_texts_in_order_and_the_rest_once(texts: list[str], as_lists: bool) -> None:
    bodies = [body_of([text] if as_lists else text, truncate=True) for text in texts]
    assert json.loads(merged_body(bodies)) == {"model": "m", "input": texts, "truncate": True}


def test_texts_keep_their_spelling() -> None:
    merged = merged_body([b'{"model":"m","input":"\\u00e9\\ud800"}', b'{"input": [ "\xff" ],"model":"m"}'])
    assert merged == b'{"model":"m","input":["\\u00e9\\ud800","\xff"]}'


@pytest.mark.parametrize(
    ("given_values", "kept"),
    [
        ([None, None], None),
        (["1m", "1h"], "1h"),
        ([0, None], None),
        ([-1, "1h"], -1),
        (["1h", -1, None], -1),
        (["1m", None], None),
        ([600, None], 600),
    ],
)
def test_the_model_is_kept_as_long_as_any_of_them_asks(given_values: list[Any], kept: Any) -> None:
    bodies = [body_of("a") if value is None else body_of("a", keep_alive=value) for value in given_values]
    assert json.loads(merged_body(bodies)).get("keep_alive") == kept


def test_what_has_no_key_cannot_be_merged() -> None:
    for body in (b"nonsense", body_of(["a", "b"])):
        with pytest.raises(ValueError, match="single texts"):
            merged_body([body_of(), body])


# --- cutting up


@given(st.lists(VECTORS, min_size=1, max_size=10), st.sampled_from(["", " ", "\n\t"]))
def test_each_gets_its_vector_as_it_was_written(vectors: list[str], space: str) -> None:
    joined = f"{space},{space}".join(vectors)
    reply = f'{{"model":"m","embeddings":[{space}{joined}{space}],"total_duration":12}}'.encode()
    parts = split(reply, len(vectors))
    assert parts is not None
    assert [b'{"model":"m","embeddings":[%b],"total_duration":12}' % vector.encode() for vector in vectors] == parts


@given(st.lists(st.tuples(TEXTS, VECTORS), min_size=1, max_size=10))
def test_merging_and_cutting_gives_each_its_own(pairs: list[tuple[str, str]]) -> None:
    known = dict(pairs)
    merged = json.loads(merged_body([body_of(text) for text in known]))
    reply = f'{{"model":"m","embeddings":[{",".join(known[text] for text in merged["input"])}]}}'.encode()
    parts = split(reply, len(known))
    assert parts is not None
    assert dict(zip(known, parts, strict=True)) == {
        text: b'{"model":"m","embeddings":[%b]}' % vector.encode() for text, vector in known.items()
    }


def test_the_count_of_tokens_is_not_invented() -> None:
    reply = b'{"model":"m","embeddings":[[1],[2]],"total_duration":9,"load_duration":3,"prompt_eval_count":7,"new":1}'
    assert split(reply, 2) == [
        b'{"model":"m","embeddings":[[%d]],"total_duration":9,"load_duration":3}' % number for number in (1, 2)
    ]
    assert split(b'{"model":"m","embeddings":[[1]],"prompt_eval_count":7}', 1) == [
        b'{"model":"m","embeddings":[[1]],"prompt_eval_count":7}'
    ]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"{}",
        b'{"error":"no"}',
        b'{"embeddings":[]}',
        b'{"embeddings":[[1]]}',
        b'{"embeddings":[[1],[2],[3]]}',
        b'{"embeddings":[[1],"]"]}',
        b'{"embeddings":[[[1]],[2]]}',
        b'{"embeddings":[1,2]}',
        b'{"embeddings":"[1],[2]"}',
        b'{"embeddings":[[1],[2]],"Embeddings":[]}',
        b'{"embeddings":[[1],[2]',
    ],
)
def test_what_has_not_as_many_vectors_is_not_cut(reply: bytes) -> None:
    assert split(reply, 2) is None


# --- gathering


class Model:
    """The other side of ``send``: answers each call when the test says so."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gates: list[asyncio.Event] = []
        self.cancelled: list[list[str]] = []
        self.refused: set[str] = set()
        self.error: Exception | None = None
        self.vectors_missing = 0
        self.is_overrun = False

    async def send(self, key: GatherKey, body: bytes) -> tuple[int, list[Field], bytes]:
        value = json.loads(body)["input"]
        texts = [value] if isinstance(value, str) else value
        gate = asyncio.Event()
        self.calls.append(texts)
        self.gates.append(gate)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(texts)
            raise
        if self.error is not None:
            raise self.error
        if self.is_overrun:
            return self.reply(503, {"error": "server busy"})
        refused = [text for text in texts if text in self.refused]
        if refused:
            return self.reply(400, {"error": f"{refused[0]} is too long"})
        vectors = [[len(text), *text.encode()] for text in texts][self.vectors_missing * (len(texts) > 1) :]
        return self.reply(200, {"model": "m", "embeddings": vectors, "prompt_eval_count": len(texts)})

    def reply(self, status: int, value: dict[str, Any]) -> tuple[int, list[Field], bytes]:
        body = json.dumps(value).encode()
        return status, [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))], body

    async def answer(self, *numbers: int) -> None:
        for number in numbers or range(len(self.gates)):
            self.gates[number].set()
        await turns()


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


Asked = asyncio.Task[tuple[int, Any]]


async def ask(gatherer: Gatherer, *texts: str, **more: Any) -> list[Asked]:
    async def one(text: str) -> tuple[int, Any]:
        body = body_of(text, **more)
        status, fields, reply = await gatherer.ask(key_of(body), body)
        assert [value for name, value in fields if name == b"Content-Length"] == [b"%d" % len(reply)]
        return status, json.loads(reply)

    tasks = [asyncio.create_task(one(text)) for text in texts]
    await turns()
    return tasks


async def results(tasks: list[Asked]) -> list[Any]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*tasks, return_exceptions=True)


def vector_of(text: str) -> list[list[int]]:
    return [[len(text), *text.encode()]]


async def test_a_call_leaves_at_once_where_nothing_is_under_way() -> None:
    model = Model()
    gatherer = Gatherer(model.send, wait_s=1000)
    for text in ("a", "b"):
        tasks = await ask(gatherer, text)
        await model.answer()
        assert await results(tasks) == [(200, {"model": "m", "embeddings": vector_of(text), "prompt_eval_count": 1})]
    assert model.calls == [["a"], ["b"]]
    assert repr(gatherer) == "<Gatherer 0 under way, 0 waiting>"


async def test_what_comes_meanwhile_leaves_together_and_in_order() -> None:
    model = Model()
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "a", "bb", "ccc", "dddd")
    assert model.calls == [["a"]]
    await model.answer(0)
    assert model.calls == [["a"], ["bb", "ccc", "dddd"]]
    await model.answer(1)
    found = await results(tasks)
    assert [body["embeddings"] for _, body in found] == [vector_of(text) for text in ("a", "bb", "ccc", "dddd")]
    assert ["prompt_eval_count" in body for _, body in found] == [True, False, False, False]


async def test_no_batch_is_larger_than_it_may_be() -> None:
    model = Model()
    tasks = await ask(Gatherer(model.send, max_texts=2), *"abcdef")
    for number in range(4):
        await model.answer(number)
    assert model.calls == [["a"], ["b", "c"], ["d", "e"], ["f"]]
    assert [status for status, _ in await results(tasks)] == [200] * 6


async def test_other_keys_do_not_wait_for_each_other() -> None:
    model = Model()
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "a") + await ask(gatherer, "b", dimensions=2)
    assert model.calls == [["a"], ["b"]]
    await model.answer()
    assert len(await results(tasks)) == 2


async def test_each_gets_its_own_error_or_answer_when_a_batch_is_refused() -> None:
    model = Model()
    model.refused = {"bad", "worse"}
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "first", "bad", "good", "worse")
    await model.answer(0)
    await model.answer(1)
    assert model.calls[2:] == [["bad"], ["good"], ["worse"]]
    late = await ask(gatherer, "late")
    await model.answer(4, 2)
    assert model.calls[5:] == []
    await model.answer(3)
    assert model.calls[5:] == [["late"]]
    await model.answer(5)
    assert [(status, body.get("error")) for status, body in await results(tasks + late)] == [
        (200, None),
        (400, "bad is too long"),
        (200, None),
        (400, "worse is too long"),
        (200, None),
    ]


async def test_a_server_that_is_overrun_is_not_asked_again_by_each_alone() -> None:
    model = Model()
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "first", "a", "b")
    model.is_overrun = True
    await model.answer(0)
    await model.answer(1)
    assert model.calls == [["first"], ["a", "b"]]
    assert [status for status, _ in await results(tasks)] == [503, 503, 503]


async def test_a_reply_with_another_number_of_vectors_is_not_handed_out() -> None:
    model = Model()
    model.vectors_missing = 1
    tasks = await ask(Gatherer(model.send), "a", "b", "c")
    await model.answer(0)
    await model.answer(1)
    await model.answer()
    assert [body["embeddings"] for _, body in await results(tasks)] == [vector_of(text) for text in "abc"]


@pytest.mark.parametrize("error", [UpstreamUnreachable("refused"), RuntimeError("a bug")])
async def test_a_failure_reaches_every_owner_of_the_batch_and_nobody_else(error: Exception) -> None:
    model = Model()
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "a", "b", "c")
    await model.answer(0)
    later = await ask(gatherer, "d")
    model.error = error
    await model.answer(1)
    model.error = None
    await model.answer(2)
    assert [one if isinstance(one, Exception) else one[0] for one in await results(tasks + later)] == [
        200,
        error,
        error,
        200,
    ]


async def test_a_client_that_leaves_while_it_waits_is_not_sent() -> None:
    model = Model()
    tasks = await ask(Gatherer(model.send), "a", "b", "c")
    tasks[1].cancel()
    await turns()
    await model.answer(0)
    assert model.calls == [["a"], ["c"]]
    await model.answer(1)
    assert [isinstance(one, asyncio.CancelledError) for one in await results(tasks)] == [False, True, False]


async def test_an_exchange_ends_only_when_all_of_its_owners_left() -> None:
    model = Model()
    gatherer = Gatherer(model.send)
    tasks = await ask(gatherer, "a", "b", "c", "d")
    await model.answer(0)
    for task in (tasks[2], tasks[1]):
        task.cancel()
        await turns()
        assert model.cancelled == []
    tasks[3].cancel()
    await turns()
    assert model.cancelled == [["b", "c", "d"]]
    assert repr(gatherer) == "<Gatherer 0 under way, 0 waiting>"
    assert gatherer._lines == {}


async def test_who_stays_gets_its_answer_when_others_of_its_batch_left() -> None:
    model = Model()
    tasks = await ask(Gatherer(model.send), "a", "b", "c")
    await model.answer(0)
    tasks[1].cancel()
    await model.answer(1)
    assert (await results(tasks))[2] == (200, {"model": "m", "embeddings": vector_of("c")})


async def test_who_left_is_not_tried_alone() -> None:
    model = Model()
    model.refused = {"bad"}
    tasks = await ask(Gatherer(model.send), "a", "gone", "bad")
    await model.answer(0)
    tasks[1].cancel()
    await model.answer(1)
    assert model.calls[2:] == [["bad"]]
    await model.answer(2)
    assert (await results(tasks))[2] == (400, {"error": "bad is too long"})


async def test_when_the_only_one_under_way_leaves_the_next_batch_goes() -> None:
    model = Model()
    tasks = await ask(Gatherer(model.send), "a", "b", "c")
    tasks[0].cancel()
    await turns()
    assert model.cancelled == [["a"]]
    assert model.calls == [["a"], ["b", "c"]]
    await model.answer(1)
    assert [one[0] for one in (await results(tasks))[1:]] == [200, 200]


# --- waiting for company


async def test_after_another_call_one_waits_for_company_until_the_batch_is_full() -> None:
    model = Model()
    gatherer = Gatherer(model.send, max_texts=3, wait_s=1000)
    tasks = await ask(gatherer, "a", "b")
    await model.answer(0)
    assert model.calls == [["a"]]
    tasks += await ask(gatherer, "c")
    assert model.calls == [["a"]]
    tasks += await ask(gatherer, "d")
    assert model.calls == [["a"], ["b", "c", "d"]]
    await model.answer(1)
    assert len(await results(tasks)) == 4


async def test_the_wait_for_company_ends_by_itself() -> None:
    model = Model()
    tasks = await ask(Gatherer(model.send, wait_s=0.02), "a", "b")
    await model.answer(0)
    async with asyncio.timeout(5):
        while len(model.calls) < 2:  # noqa: ASYNC110 - that time passes is what is tested
            await asyncio.sleep(0.005)
    await model.answer(1)
    assert len(await results(tasks)) == 2


async def test_one_that_leaves_while_it_waits_for_company_leaves_nothing_behind() -> None:
    model = Model()
    gatherer = Gatherer(model.send, wait_s=1000)
    tasks = await ask(gatherer, "a", "b")
    await model.answer(0)
    tasks[1].cancel()
    await turns()
    assert gatherer._lines == {}
    tasks += await ask(gatherer, "c")
    assert model.calls == [["a"], ["c"]]
    await model.answer(1)
    assert (await results(tasks))[2][0] == 200


# --- the end


async def test_closing_tells_everyone_who_waits() -> None:
    model = Model()
    gatherer = Gatherer(model.send, wait_s=1000)
    tasks = [*await ask(gatherer, "a", "b"), *await ask(gatherer, "c", truncate=True)]
    lingering = await ask(gatherer, "x", "y", dimensions=1)
    await model.answer(2)
    await gatherer.aclose()
    found = await results([*tasks, lingering[1]])
    assert [type(one) for one in found] == [ShuttingDown] * 4
    assert sorted(model.cancelled) == [["a"], ["c"]]
    assert repr(gatherer) == "<Gatherer 0 under way, 0 waiting>"
    assert gatherer._lines == {}
