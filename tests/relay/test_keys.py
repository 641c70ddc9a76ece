"""What a key is for, through the whole proxy: it goes nowhere, and nothing that is asked for gets past it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from proxy.edge.keys import hash_key, new_key
from tests.peers import Answering, Seen, client, until
from tests.relay.test_guard import STRANGER, ask, plain, verdict
from tests.stage import MODEL, chat, chat_end, chat_token, generate, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.stage import Stage

KEYS = {name: new_key(bytes([number]) * 32) for number, name in enumerate(("user", "other", "batch", "manager"))}
WRONG = new_key(b"w" * 32)


def listed(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "hash": hash_key(KEYS[name]), **more}


def shown(name: str) -> str:
    return f"X-API-Key: {KEYS[name]}"


async def answering(seen: Seen, reply: Answering) -> None:
    if seen.path in ("/api/chat", "/api/generate") and b'"messages": [{' in seen.body:
        reply.head()
        reply.frames(chat_token("x"), chat_end())
        reply.end()
    else:
        await plain(seen, reply)


@contextlib.asynccontextmanager
async def keyed(*keys: dict[str, Any], **settings: Any) -> AsyncIterator[Stage]:
    async with staged(answering, keys=list(keys), **settings) as stage:
        yield stage


def as_json(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


# --- a key is seen by nobody else


async def test_a_key_goes_nowhere() -> None:
    with capture_logs() as logged:
        async with keyed(listed("user"), listed("manager", scopes=["manage"])) as stage:
            answers = []
            for key in (KEYS["user"], KEYS["manager"], WRONG):
                for field in (
                    f"X-API-Key: {key}",
                    f"Authorization: Bearer {key}",
                    f"x-api-key:{key}\r\nX-Api-Key: {key}",
                ):
                    for method, path in (
                        ("POST", "/api/chat"),
                        ("POST", "/v1/messages"),
                        ("GET", "/api/tags"),
                        ("POST", "/api/pull"),
                        ("GET", f"/api/blobs/{'x' * 9000}"),
                        ("BAD VERB", "/"),
                    ):
                        answers.append(await ask(stage.address, method, path, field, body=as_json(chat())))
                    answers.append(await ask(stage.proxy.admin_address, "GET", "/requests", field))
                    answers.append(await ask(stage.proxy.admin_address, "GET", "/nope", field))
            pages = [
                (await ask(stage.proxy.admin_address, "GET", page)).body
                for page in ("/metrics", "/requests", "/stats", "/queue", "/models", "/readyz?verbose")
            ]
            everything = b"\n".join(
                [
                    *(seen.head + seen.body for seen in stage.upstream.seen),
                    *(repr(answer).encode() for answer in answers),
                    *pages,
                    repr(logged).encode(),
                    repr(vars(stage.proxy)).encode(),
                ]
            )
            assert len(stage.calls) >= 9
    for key in (*KEYS.values(), WRONG):
        for part in (key, key[3:], key[3:20], hash_key(key).partition(":")[2]):
            assert part.encode() not in everything
    assert b"user" in everything


@pytest.mark.parametrize("field", ["Authorization: Bearer sk-dummy", "X-API-Key: dummy", "Authorization: Basic eDp5"])
async def test_without_keys_what_clients_send_because_they_must_passes_untouched(field: str) -> None:
    name, _, value = field.partition(": ")
    async with keyed() as stage:
        for path in ("/api/chat", "/api/show", "/v1/chat/completions"):
            assert (await ask(stage.address, "POST", path, field)).status == 200
            assert stage.calls[-1].header(name) == value


async def test_another_scheme_is_no_key_and_passes() -> None:
    async with keyed(listed("user")) as stage:
        assert (await ask(stage.address, "POST", "/api/show", "Authorization: Basic eDp5")).status == 200
        assert stage.calls[-1].header("authorization") == "Basic eDp5"


# --- what is counted and ordered by it


async def test_requests_and_counts_have_the_keys_name() -> None:
    async with keyed(listed("user"), listed("other")) as stage:
        for name in ("user", "user", "other"):
            assert (await ask(stage.address, "POST", "/api/chat", shown(name), body=as_json(chat()))).status == 200
        await ask(stage.address, "POST", "/api/chat", body=as_json(chat()))
        rows = await stage.rows(4)
        assert [row.get("key") for row in rows] == [None, "other", "user", "user"]
        _, stats = await stage.page("/stats")
        assert {name: usage["calls"] for name, usage in stats["keys"].items()} == {"user": 2, "other": 1}
        assert stats["keys"]["user"] == {"calls": 2, "tokens_in": 6, "tokens_out": 4}
        page = (await ask(stage.proxy.admin_address, "GET", "/metrics")).body
        assert b'"user"' not in page


async def test_a_key_has_a_rate_of_its_own() -> None:
    async with keyed(listed("user", rate_per_s=0.001, burst=2), listed("other")) as stage:
        statuses = [(await ask(stage.address, "POST", "/api/chat", shown("user"))).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        answer = await ask(stage.address, "POST", "/v1/messages", shown("user"))
        assert verdict(answer) == (429, "rate_limited")
        assert int(answer.header("retry-after") or "") > 100
        for fields in ((shown("other"),), ()):
            assert (await ask(stage.address, "POST", "/api/chat", *fields)).status == 200


async def test_a_class_has_a_ceiling_and_turns_are_per_key() -> None:
    may_answer = asyncio.Event()
    order: list[str] = []

    async def script(seen: Seen, reply: Answering) -> None:
        order.append(seen.json["messages"][-1]["content"])
        await may_answer.wait()
        await answering(seen, reply)

    keys = [listed("user"), listed("other"), listed("batch", **{"class": "batch"})]
    async with staged(script, keys=keys, scheduler={"parallel": 1}) as stage, contextlib.AsyncExitStack() as stack:
        scheduler = stage.proxy.scheduler
        for name, text, *fields in (
            ("user", "running"),
            ("batch", "batch", "X-Priority: interactive"),
            ("user", "user 1"),
            ("user", "user 2"),
            ("other", "other 1"),
            ("user", "urgent", "X-Priority: interactive"),
        ):
            peer = await stack.enter_async_context(client(stage.address))
            inside = scheduler.queued + scheduler.running
            peer.post("/api/chat", chat(messages=[{"role": "user", "content": text}]), shown(name), *fields)
            await until(lambda inside=inside: scheduler.queued + scheduler.running > inside)
        _, page = await stage.page("/queue")
        waiting = {(row["client"], row["priority"]) for row in page["waiting"]}
        assert waiting == {
            ("key:batch", "batch"),
            ("key:user", "normal"),
            ("key:other", "normal"),
            ("key:user", "interactive"),
        }
        may_answer.set()
        await until(lambda: scheduler.queued + scheduler.running == 0)
        assert order[0] == "running"
        assert order[1] == "urgent"
        assert order.index("other 1") < order.index("user 2")
        assert order[-1] == "batch"


async def test_no_answer_of_one_key_is_given_to_another() -> None:
    count = 0

    async def script(seen: Seen, reply: Answering) -> None:
        nonlocal count
        count += 1
        reply.head()
        reply.frames(chat_token(f"answer {count}"), chat_end())
        reply.end()

    settings: dict[str, Any] = {"cache": {"mode": "deterministic"}, "keys": [listed("user"), listed("other")]}
    async with staged(script, **settings) as stage:
        body = as_json(chat(options={"temperature": 0}))
        bodies = {
            name: (await ask(stage.address, "POST", "/api/chat", *fields, body=body)).body
            for name, fields in {"user": (shown("user"),), "other": (shown("other"),), "nobody": ()}.items()
        }
        assert len({*bodies.values()}) == 3
        again = await ask(stage.address, "POST", "/api/chat", f"Authorization: Bearer {KEYS['user']}", body=body)
        assert again.header("x-cache") == "MISS", "what another field says is not known to be the same"
        again = await ask(stage.address, "POST", "/api/chat", shown("user"), body=body)
        assert (again.header("x-cache"), again.body) == ("HIT", bodies["user"])


# --- models


@pytest.mark.parametrize("patterns", [[MODEL], ["TINY:latest"], ["t*"]])
async def test_a_key_is_for_its_models_however_they_are_spelt(patterns: list[str]) -> None:
    async with keyed(listed("user", models=patterns)) as stage:
        for spelling in (MODEL, "tiny:latest", "TINY", "registry.ollama.ai/library/tiny", "library/tiny:LATEST"):
            for path in ("/api/chat", "/v1/chat/completions", "/api/embed"):
                answer = await ask(stage.address, "POST", path, shown("user"), body=as_json({"model": spelling}))
                assert answer.status == 200, (spelling, path, answer)
        seen = len(stage.calls)
        bodies: list[Any] = [
            *(
                {"model": name}
                for name in ("other", "someone/tiny", "evil.example/library/tiny", "", " other ", 5, None)
            ),
            {},
            [],
            b"{",
        ]
        for body in bodies:
            for path in ("/api/chat", "/v1/chat/completions", "/v1/messages"):
                answer = await ask(stage.address, "POST", path, shown("user"), body=as_json(body))
                if isinstance(body, dict):
                    assert verdict(answer) == (403, "forbidden"), (body, path)
                    assert len(stage.calls) == seen
                seen = len(stage.calls)
        packed = gzip.compress(as_json({"model": "other"}))
        for path in ("/v1/responses", "/v1/chat/completions"):
            answer = await ask(stage.address, "POST", path, shown("user"), "Content-Encoding: gzip", body=packed)
            assert verdict(answer) == (403, "forbidden")
        # Which model these are for is not read.
        for path in ("/v1/audio/transcriptions", "/v1/images/generations", "/api/ch%61t", "/v1/chat%2fcompletions"):
            assert verdict(await ask(stage.address, "POST", path, shown("user"))) == (403, "forbidden")
        assert len(stage.calls) == seen


async def test_a_pattern_with_a_tag_is_for_that_tag() -> None:
    async with keyed(listed("user", models=["other:7b"])) as stage:
        for name in ("other", "other:70b", "other:7b-x"):
            answer = await ask(stage.address, "POST", "/api/chat", shown("user"), body=as_json({"model": name}))
            assert answer.status == 403
        assert stage.calls == []
        answer = await ask(stage.address, "POST", "/api/chat", shown("user"), body=as_json({"model": "Other:7B"}))
        assert answer.status == 200


# --- unloading

UNLOADS: dict[str, list[Any]] = {
    "/api/generate": [
        {"model": MODEL, "keep_alive": 0},
        {"model": "TINY:latest", "keep_alive": "0s", "prompt": ""},
        {"model": MODEL, "keep_alive": -0.0},
        {"model": MODEL, "keep_alive": 0, "prompt": None},
        # Not understood for another reason, and so to go on as it came.
        {"model": MODEL, "keep_alive": 0, "Options": {}},
        {"model": MODEL, "keep_alive": 0, "prompt": 5},
        {"model": MODEL, "keep_alive": "0s", "prompt": "hi", "Stream": False},
        {"model": MODEL, "keep_alive": 1e300},
    ],
    "/api/chat": [
        {"model": MODEL, "keep_alive": 0},
        {"model": MODEL, "keep_alive": "0m", "messages": []},
        {"model": MODEL, "keep_alive": 0, "messages": [{"role": "user", "content": "hi"}], "Think": True},
    ],
    "/api/embed": [{"model": MODEL, "keep_alive": 0}, {"model": MODEL, "keep_alive": 0, "Input": "x"}],
    "/api/embeddings": [{"model": MODEL, "keep_alive": "0"}, {"model": MODEL, "keep_alive": "0h", "Prompt": "x"}],
}
ODD: list[bytes] = [
    b'{"model":"tiny","Keep_Alive":0}',
    b'{"model":"tiny","KEEP_ALIVE":"0s"}',
    b'{"Model":"tiny","keep_alive":0}',
    b'{"model":"tiny","keep_alive":5,"keep_alive":0}',
    b'{"model":"other","model":"tiny","keep_alive":0}',
    b'{"model":"other","MODEL":"tiny","keep_alive":0}',
    '{"model":"tiny","\u212aeep_alive":0}'.encode(),
    b'{"model":"tiny","\\u212aeep_alive":0}',
    b'{"model":"tiny","keep\\u005faliv\\u0065":0,"keep_alive":-1}',
]


@pytest.mark.parametrize("path", UNLOADS)
async def test_who_may_not_manage_unloads_no_kept_model(path: str) -> None:
    async with keyed(listed("user"), listed("manager", scopes=["infer", "manage"]), edge={"allow_anonymous": True}) as (
        stage
    ):
        for fields in ((shown("user"),), (STRANGER,), (STRANGER, shown("user"))):
            for body in UNLOADS[path]:
                answer = await ask(stage.address, "POST", path, *fields, body=as_json(body))
                assert verdict(answer) == (403, "forbidden"), body
            for raw in ODD:
                answer = await ask(stage.address, "POST", path, *fields, body=raw)
                assert verdict(answer) == (400, "bad_request"), raw
            body = as_json(UNLOADS[path][0])
            for coding in ("gzip", "identity", "zstd", "x"):
                for packed in (body, gzip.compress(body)):
                    answer = await ask(stage.address, "POST", path, f"Content-Encoding: {coding}", *fields, body=packed)
                    assert verdict(answer) == (400, "bad_request")
            for spelling in (path.replace("e", "%65"), path[:4] + "%2F" + path[5:], path.upper(), path + "/"):
                assert (await ask(stage.address, "POST", spelling, *fields, body=body)).status == 403
        assert stage.calls == []
        # A model that nobody keeps may be unloaded by everybody who may call it.
        body = as_json({"model": "other", "keep_alive": 0})
        assert (await ask(stage.address, "POST", path, shown("user"), body=body)).status == 200
        for fields in ((shown("manager"),), ()):
            answer = await ask(stage.address, "POST", path, *fields, body=as_json(UNLOADS[path][0]))
            assert answer.status in (200, 400)
            assert stage.calls[-1].json == UNLOADS[path][0]


async def test_a_run_that_would_end_with_an_unload_keeps_the_model() -> None:
    async with keyed(listed("user")) as stage:
        answer = await ask(stage.address, "POST", "/api/chat", shown("user"), body=as_json(chat(keep_alive=0)))
        assert answer.status == 200
        assert stage.calls[-1].json["keep_alive"] == -1
        await ask(stage.address, "POST", "/api/generate", shown("user"), body=as_json(generate(keep_alive="1ms")))
        assert stage.calls[-1].json["keep_alive"] == -1


# --- the audit log


async def test_what_manages_models_leaves_one_line_each() -> None:
    managing = [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
        ("POST", "/api/delete%2f"),
    ]
    with capture_logs() as logged:
        async with keyed(listed("user"), listed("manager", scopes=["infer", "manage"])) as stage:
            for fields, who, status in (
                ((shown("manager"),), "key:manager", 200),
                ((), "127.0.0.1", 200),
                ((shown("user"),), "key:user", 403),
                ((STRANGER,), "127.0.0.1", 403),
                ((f"X-API-Key: {WRONG}",), "127.0.0.1", 401),
            ):
                for method, path in managing:
                    before = len(logged)
                    assert (await ask(stage.address, method, path, *fields)).status == status
                    (line,) = _audited(logged[before:])
                    assert (line["who"], line["method"], line["path"]) == (who, method, path)
                    assert line["status"] == status
                    assert line["outcome"] == ("ok" if status == 200 else "client_error")
            before = len(logged)
            unload = as_json({"model": MODEL, "keep_alive": 0})
            for name in ("user", "manager"):
                await ask(stage.address, "POST", "/api/generate", shown(name), body=unload)
            assert [(line["who"], line["model"], line["status"]) for line in _audited(logged[before:])] == [
                ("key:user", MODEL, 403),
                ("key:manager", MODEL, 200),
            ]
            before = len(logged)
            for path in ("/api/chat", "/api/show"):
                await ask(stage.address, "POST", path, body=as_json(chat()))
            await ask(stage.address, "GET", "/api/tags")
            assert _audited(logged[before:]) == []


async def test_a_line_of_the_audit_log_is_one_line() -> None:
    with capture_logs() as logged:
        async with keyed(listed("user")) as stage:
            for path in ("/api/blobs/%0d%0aevil", "/api/blobs/\x1b[31m", "/api/pull?\x1b[31m", "/x%1b[2J" + "y" * 5000):
                await ask(stage.address, "POST", path, shown("user"))
    lines = _audited(logged)
    # aiohttp's parser refuses two of them.
    assert len(lines) == 2
    for line in lines:
        assert all(str(value).isprintable() for value in line.values())
        assert len(str(line)) < 2000


def _audited(logged: Any) -> list[Any]:
    return [line for line in logged if line["event"] == "managed"]
