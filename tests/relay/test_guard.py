"""S4, S5: who is let in, through the whole proxy; what was refused is seen by nobody behind it."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from proxy.edge.keys import hash_key, new_key
from proxy.edge.scopes import Scope, routes
from tests.peers import Answering, End, Seen, client
from tests.stage import MODEL, chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.peers import Answer
    from tests.stage import Stage

KEYS = {name: new_key(bytes([number]) * 32) for number, name in enumerate(("user", "reader", "manager"))}
LISTED = [
    {"name": "user", "hash": hash_key(KEYS["user"])},
    {"name": "reader", "hash": hash_key(KEYS["reader"]), "scopes": ["read"]},
    {"name": "manager", "hash": hash_key(KEYS["manager"]), "scopes": ["infer", "read", "manage"]},
]
STRANGER = "X-Forwarded-For: 10.1.2.3"
PAGE = "http://localhost:3000"
EVIL = "https://evil.example"


async def plain(seen: Seen, reply: Answering) -> None:
    reply.raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: *\r\n"
        b"Access-Control-Allow-Credentials: true\r\nContent-Length: 2\r\n\r\n"
        + (b"" if seen.method == "HEAD" else b"{}")
    )


async def stream(seen: Seen, reply: Answering) -> None:
    reply.head(200, "application/x-ndjson", "Access-Control-Allow-Origin: *")
    reply.frames(chat_token("x"), chat_end())
    reply.end()


async def ask(
    address: str, method: str, target: str, *fields: str, body: bytes | None = None, host: str = "127.0.0.1"
) -> Answer:
    """One request on a connection of its own."""
    if body is None and method in ("POST", "PUT", "DELETE"):
        body = b"{}"
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, *length, "Connection: close", "", ""]
    async with client(address, limit=2**20) as peer:
        peer.send("\r\n".join(lines).encode("latin-1") + (body or b""))
        return await peer.answer(is_head=method == "HEAD")


def verdict(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.header("x-pilotlight-error")


def cors(answer: Answer) -> list[tuple[str, str]]:
    return [(name, value) for name, value in answer.fields if name.lower().startswith("access-control-")]


# --- S4: names and pages

OURS = ("127.0.0.1", "127.0.0.1:{port}", "localhost:{port}", "app.localhost", "[::1]:1", "pilot.example", "LOCALHOST.")
NOT_OURS = (
    "evil.example",
    "evil.example:{port}",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "192.168.1.1",
    "0.0.0.0:{port}",
    "127.1",
    "2130706433",
    "a@127.0.0.1",
    "127.0.0.1,evil.example",
    "[::1%25lo]",
    "host.internal",
)
PAGES: dict[str | None, bool] = {
    None: True,
    PAGE: True,
    "app://obsidian.md": True,
    "https://app.example": True,
    "http://{host}": True,
    EVIL: False,
    "null": False,
    "http://localhost:3000.evil.example": False,
    "https://app.example, https://evil.example": False,
}
EDGE: dict[str, Any] = {"hosts": ["pilot.example"], "origins": ["https://app.example"]}


@contextlib.asynccontextmanager
async def named() -> AsyncIterator[Stage]:
    async with staged(plain, edge=EDGE) as stage:
        yield stage


@pytest.mark.parametrize("admin", [False, True], ids=["listen", "admin"])
async def test_a_request_is_answered_under_a_name_of_ours_to_a_page_that_may_call(admin: bool) -> None:
    async with named() as stage:
        address = stage.proxy.admin_address if admin else stage.address
        port = address.rpartition(":")[2]
        count = 0
        requests = (("GET", "/metrics"),) if admin else (("GET", "/api/tags"), ("POST", "/api/chat"))
        for named_as, page, (method, path) in itertools.product((*OURS, *NOT_OURS), PAGES, requests):
            host = named_as.format(port=port)
            fields = [] if page is None else [f"Origin: {page.format(host=host.lower().removesuffix('.'))}"]
            before = len(stage.calls)
            answer = await ask(address, method, path, "Content-Type: text/plain", *fields, host=host)
            if named_as not in OURS:
                expected: tuple[int, str | None] = (421, "misdirected_host")
            elif not PAGES[page]:
                expected = (403, "origin_refused")
            else:
                expected = (200, None)
            assert verdict(answer) == expected, (host, page, method)
            assert len(stage.calls) - before == (expected[0] == 200 and not admin)
            count += 1
        assert count >= 60


async def test_a_page_under_a_rebound_name_is_not_same_origin() -> None:
    async with named() as stage:
        for address in (stage.address, stage.proxy.admin_address):
            answer = await ask(address, "GET", "/", "Origin: http://evil.example", host="evil.example")
            assert verdict(answer) == (421, "misdirected_host")
            assert cors(answer) == []
        assert stage.calls == []


async def test_an_empty_host_is_none_of_ours() -> None:
    async with named() as stage:
        assert (await ask(stage.address, "GET", "/", host="")).status in (400, 421)
        assert stage.calls == []


async def test_a_cross_site_request_whose_origin_was_taken_away_may_only_read() -> None:
    async with named() as stage:
        site = "Sec-Fetch-Site: cross-site"
        answer = await ask(stage.address, "POST", "/api/chat", "Content-Type: text/plain", site)
        assert verdict(answer) == (403, "origin_refused")
        assert stage.calls == []
        assert (await ask(stage.address, "GET", "/api/tags", site)).status == 200
        assert (await ask(stage.address, "POST", "/api/chat", "Sec-Fetch-Site: same-origin")).status == 200


async def test_a_preflight_is_answered_here_and_shows_no_key() -> None:
    async with staged(plain, edge=EDGE, keys=LISTED) as stage:
        asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, x-api-key")
        for path in ("/api/chat", "/v1/messages", "/api/delete", "/nope"):
            answer = await ask(stage.address, "OPTIONS", path, f"Origin: {PAGE}", STRANGER, *asked)
            assert (answer.status, answer.header("access-control-allow-origin")) == (204, PAGE)
            allowed = (answer.header("access-control-allow-headers") or "").lower().split(",")
            assert {"authorization", "x-api-key", "x-priority", "content-type"} <= set(allowed)
            assert answer.header("access-control-allow-credentials") is None
            refused = await ask(stage.address, "OPTIONS", path, f"Origin: {EVIL}", *asked)
            assert verdict(refused) == (403, "origin_refused")
            assert cors(refused) == []
        assert stage.calls == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/show"])
async def test_only_a_page_that_may_call_is_told_that_it_may_read(path: str) -> None:
    async with staged(stream if path == "/api/chat" else plain, edge=EDGE, keys=LISTED) as stage:
        body = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
        answer = await ask(stage.address, "POST", path, f"Origin: {PAGE}", body=body)
        assert (answer.status, answer.end) == (200, End.COMPLETE)
        assert answer.header("access-control-allow-origin") == PAGE
        assert "X-Pilotlight-Error" in (answer.header("access-control-expose-headers") or "")
        assert "Origin" in (answer.header("vary") or "")
        assert answer.header("access-control-allow-credentials") is None
        for fields in ((), ("Origin: http://127.0.0.1",)):
            # What stood in front of Ollama said so, to everybody.
            assert cors(await ask(stage.address, "POST", path, *fields, body=body)) == []


async def test_a_page_that_may_call_can_read_why_it_was_refused() -> None:
    async with staged(plain, edge={**EDGE, "max_body": 2000}, keys=LISTED) as stage:
        page = f"Origin: {PAGE}"
        cases = {
            401: await ask(stage.address, "POST", "/api/chat", page, STRANGER),
            403: await ask(stage.address, "POST", "/api/pull", page, f"X-API-Key: {KEYS['user']}"),
            413: await ask(stage.address, "POST", "/api/chat", page, body=b" " * 2001),
            400: await ask(stage.address, "POST", "/api/chat", page, "X-Priority: none"),
        }
        await stage.upstream.stop()
        cases[502] = await ask(stage.address, "POST", "/api/show", page)
        for status, answer in cases.items():
            assert answer.status == status
            assert answer.header("access-control-allow-origin") == PAGE, status


async def test_a_star_lets_in_no_page_without_a_key() -> None:
    async with staged(plain, edge={"origins": ["*"]}, keys=LISTED) as stage:
        assert verdict(await ask(stage.address, "POST", "/api/chat", f"Origin: {EVIL}")) == (401, "unauthorized")
        assert verdict(await ask(stage.proxy.admin_address, "GET", "/requests", f"Origin: {EVIL}")) == (
            401,
            "unauthorized",
        )
        assert stage.calls == []
        answer = await ask(stage.address, "POST", "/api/chat", f"Origin: {EVIL}", f"X-API-Key: {KEYS['user']}")
        assert (answer.status, answer.header("access-control-allow-origin")) == (200, EVIL)


# --- S5: what is asked for

_ALL = frozenset(Scope)
_READER = frozenset((Scope.LIVE, Scope.READ))
# Caller: its fields, whether strangers are served, what it may ask for, and how it is refused what a key could allow.
CALLERS: dict[str, tuple[tuple[str, ...], bool, frozenset[Scope], int]] = {
    "local": ((), False, _ALL, 0),
    "stranger": ((STRANGER,), False, frozenset((Scope.LIVE,)), 401),
    "anonymous": ((STRANGER,), True, _READER | {Scope.INFER}, 401),
    "user": ((STRANGER, f"X-API-Key: {KEYS['user']}"), False, _READER | {Scope.INFER}, 403),
    "reader": ((STRANGER, f"Authorization: Bearer {KEYS['reader']}"), False, _READER, 403),
    "manager": ((STRANGER, f"authorization: bearer {KEYS['manager']}"), False, _ALL, 403),
}
UNKNOWN = [
    ("GET", "/debug/pprof/"),
    ("GET", "/nope"),
    ("PUT", "/api/tags"),
    ("POST", "/api/nope"),
    ("GET", "/api/chat"),
]


def spellings(path: str, scope: Scope) -> dict[str, Scope | None]:
    """Ways to write a path, each with what it is to the guard; ``None``: no target at all."""
    written: dict[str, Scope | None] = {path: scope, f"{path}?a=/api/version": scope, f"/{path}": None}
    if path == "/":
        return written
    head, _, tail = path.rpartition("/")
    for odd in (f"{head}%2f{tail}", f"/x/..{path}", f"{head}/./{tail}", path.upper(), f"{path}/"):
        written[odd] = Scope.MANAGE if odd.startswith("/") else None
    written[f"{head}//{tail}"] = Scope.MANAGE if head else None
    # What a server that decodes reads as the same: as strict, and where the body decides, stricter.
    written[f"/%{ord(path[1]):02x}{path[2:]}"] = Scope.MANAGE if scope is Scope.INFER else scope
    return written


@pytest.mark.parametrize("caller", CALLERS)
async def test_nobody_reaches_more_than_he_may_however_it_is_spelt(caller: str) -> None:
    fields, serves_strangers, may, status = CALLERS[caller]
    wanted: dict[tuple[str, str], Scope] = routes() | dict.fromkeys(UNKNOWN, Scope.MANAGE)
    async with staged(plain, edge={"allow_anonymous": serves_strangers}, keys=LISTED) as stage:
        count = passed = 0
        for (method, path), scope in wanted.items():
            for target, needed in spellings(path.replace("*", "sha256:0a"), scope).items():
                before = len(stage.calls)
                answer = await ask(stage.address, method, target, *fields)
                count += 1
                reached = stage.calls[before:]
                if needed is None:
                    assert (answer.status, reached) == (400, []), target
                elif needed in may:
                    passed += 1
                    assert answer.status == 200, (method, target, answer)
                    assert [seen.target for seen in reached] == [target], (method, target)
                    assert not {"x-api-key", "authorization"} & {name.lower() for name, _ in reached[0].fields}
                else:
                    # Without a key, managing is refused by where the caller is; everything else wants a key.
                    expected = 403 if needed is Scope.MANAGE else status
                    assert (answer.status, reached) == (expected, []), (method, target, answer)
        assert count >= 300
        assert passed >= 4


REFUSED = {
    "/api/chat": ({"error"}, None),
    "/v1/chat/completions": ({"error"}, {"message", "type", "param", "code"}),
    "/v1/responses": ({"error"}, {"message", "type", "param", "code"}),
    "/v1/messages": ({"type", "error", "request_id"}, {"type", "message"}),
    "/nope": ({"error"}, None),
}


@pytest.mark.parametrize("path", REFUSED)
async def test_a_refusal_has_the_shape_of_the_api_that_was_called(path: str) -> None:
    outer, inner = REFUSED[path]
    method = "GET" if path == "/nope" else "POST"
    async with staged(plain, keys=LISTED) as stage:
        unknown = "X-API-Key: pl_nobody"
        for fields, status, code in (
            ((STRANGER, unknown), 401, "unauthorized"),
            ((unknown,), 401, "unauthorized"),
            ((f"X-API-Key: {KEYS['reader']}",), 403, "forbidden"),
            ((f"Origin: {EVIL}",), 403, "origin_refused"),
            ((f"X-API-Key: {KEYS['reader']}", f"Authorization: Bearer {KEYS['user']}"), 400, "bad_request"),
        ):
            answer = await ask(stage.address, method, path, *fields)
            assert verdict(answer) == (status, code)
            assert answer.header("content-type") == "application/json; charset=utf-8"
            assert set(answer.json) == outer
            assert inner is None or set(answer.json["error"]) == inner
            challenge = 'Bearer realm="pilotlight"' if status == 401 else None
            assert answer.header("www-authenticate") == challenge
        assert stage.calls == []


async def test_the_admin_port_tells_a_stranger_only_that_it_lives() -> None:
    async with staged(plain, keys=LISTED) as stage:
        admin = stage.proxy.admin_address
        for path in ("/pages", "/metrics", "/requests", "/models", "/queue", "/stats", "/nope", "/debug"):
            answer = await ask(admin, "GET", path, STRANGER)
            assert verdict(answer) == (401, "unauthorized"), path
            assert answer.header("www-authenticate") is not None
            expected = 404 if path in ("/nope", "/debug") else 200
            assert (await ask(admin, "GET", path, STRANGER, f"X-API-Key: {KEYS['reader']}")).status == expected
            assert (await ask(admin, "GET", path)).status == expected
        for path in ("/livez", "/readyz", "/healthz"):
            assert (await ask(admin, "GET", path, STRANGER, host="evil.example")).status == 200
        # The live page asks for a key itself, but is no page of anybody's name.
        for path in ("/", "/live.js", "/live.css"):
            assert (await ask(admin, "GET", path, STRANGER)).status == 200
            assert verdict(await ask(admin, "GET", path, STRANGER, host="evil.example")) == (421, "misdirected_host")


# --- callers behind a proxy


@pytest.mark.parametrize("trusted", [False, True])
async def test_what_a_proxy_says_of_its_clients_counts_where_it_is_trusted(trusted: bool) -> None:
    edge = {"allow_anonymous": True, "trusted_proxies": ["127.0.0.0/8"] if trusted else []}
    async with staged(plain, edge=edge, rate_limit={"rate_per_s": 0.001, "burst": 1}) as stage:

        async def status(forwarded: str) -> int:
            return (await ask(stage.address, "POST", "/api/chat", f"X-Forwarded-For: {forwarded}")).status

        assert await status("10.0.0.1") == 200
        assert await status("10.0.0.1") == 429
        # The rightmost that no trusted proxy added counts: what the client wrote itself is to its left.
        assert await status("10.9.9.9, 10.0.0.1") == 429
        assert await status("10.0.0.2") == (200 if trusted else 429)
        for forwarded in ("127.0.0.1", "::1", "10.0.0.3"):
            answer = await ask(stage.address, "POST", "/api/pull", f"X-Forwarded-For: {forwarded}")
            assert verdict(answer) == (403, "forbidden")


async def test_whoever_may_not_manage_without_a_key_may_still_with_one() -> None:
    async with staged(plain, edge={"manage_from": []}, keys=LISTED) as stage:
        assert verdict(await ask(stage.address, "POST", "/api/copy")) == (403, "forbidden")
        assert (await ask(stage.address, "POST", "/api/copy", f"X-API-Key: {KEYS['manager']}")).status == 200
        assert (await ask(stage.address, "POST", "/api/chat", body=str(chat()).encode())).status == 200
        assert MODEL not in stage.calls[0].target
