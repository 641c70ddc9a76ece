"""Pages in a real browser may do what ``docs/security.md`` says, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from proxy.edge.keys import hash_key, new_key
from tests.e2e.browser import COLUMNS, JSON, attempts, needs_chromium, opened_site, post, table_rows
from tests.stage import Stage, chat_end, chat_token, staged

if TYPE_CHECKING:
    from tests.e2e.browser import Site
    from tests.peers import Answering, Seen

pytestmark = needs_chromium

PAGE = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
KEY = new_key(bytes(range(32)))


def documented() -> dict[str, dict[str, str]]:
    """What becomes of each attempt, for each kind of page."""
    _, *rows = table_rows(PAGE, "| a page |")
    return {column: {row[0]: row[place] for row in rows} for place, column in enumerate(COLUMNS, 1)}


def upstream_for(site: Site) -> Any:
    async def script(seen: Seen, reply: Answering) -> None:
        await seen.whole.wait()
        if seen.path == "/api/chat" and b'"stream":true' in seen.body.replace(b" ", b"") and b"stream>" in seen.body:
            reply.head()
            reply.frames(chat_token("first"))
            # The page has to read it before there is more.
            await site.first_piece.wait()
            reply.frames(chat_token("second"), chat_end())
            reply.end()
        elif seen.path == "/api/chat":
            reply.head()
            reply.frames(chat_token("whole"), chat_end())
            reply.end()
        else:
            reply.json({"status": "success"})

    return script


def reached(stage: Stage, name: str) -> bool:
    return any(f"<{name}>".encode() in seen.body or name in unquote(seen.target) for seen in stage.calls)


def judged(stage: Stage, names: dict[str, Any]) -> dict[str, str]:
    return {name: "served" if reached(stage, name) else "refused" for name in names}


async def test_a_page_that_may_call_is_served_and_reads_what_it_asked_for_as_it_comes(tmp_path: Path) -> None:
    async with opened_site() as site:
        origins = {"origins": [f"http://listed.test:{site.port}"]}
        async with staged(upstream_for(site), edge=origins) as stage:
            site.server, site.attempts = f"http://{stage.address}", attempts()
            results = await site.visit("listed.test", tmp_path)
            assert judged(stage, results) == documented()[COLUMNS[0]]
        opaque = results.pop("posts `text/plain`, `no-cors`")
        assert (opaque["type"], opaque["status"]) == ("opaque", 0)
        assert {name: result.get("status") for name, result in results.items()} == dict.fromkeys(results, 200)
        assert "first" in results["reads a stream"]["first"]
        assert "second" not in results["reads a stream"]["first"]
        assert '"done":true' in results["reads a stream"]["rest"]
        assert results["posts JSON"]["headers"]["x-request-id"]
        for seen in stage.calls:
            named = {name.lower() for name, _ in seen.fields}
            assert not named & {"origin", "referer", "access-control-request-method"}


async def test_any_other_page_reaches_nothing_and_reads_nothing(tmp_path: Path) -> None:
    async with opened_site() as site:
        async with staged(upstream_for(site), edge={"origins": [f"http://listed.test:{site.port}"]}) as stage:
            site.server, site.attempts = f"http://{stage.address}", attempts()
            results = await site.visit("other.test", tmp_path)
            assert judged(stage, results) == documented()[COLUMNS[1]]
            assert stage.calls == []
        assert results.pop("posts `text/plain`, `no-cors`")["type"] == "opaque"
        assert all("rejected" in result for result in results.values()), results


async def test_a_page_under_a_name_that_was_rebound_to_this_machine_reaches_nothing(tmp_path: Path) -> None:
    async with opened_site() as site:
        async with staged(upstream_for(site)) as stage:
            site.relays_to, site.attempts = stage.address, attempts()
            results = await site.visit("rebound.test", tmp_path)
            assert judged(stage, results) == documented()[COLUMNS[2]]
            assert stage.calls == []
        # It is same-origin to the browser, so that nothing but the name in Host keeps it out, and it may read why.
        assert {result["status"] for result in results.values()} == {421}
        assert all("edge.hosts" in result["text"] for result in results.values() if "text" in result)


async def test_the_same_page_is_served_under_a_name_that_is_configured(tmp_path: Path) -> None:
    async with opened_site() as site, staged(upstream_for(site), edge={"hosts": ["rebound.test"]}) as stage:
        site.relays_to, site.attempts = stage.address, {"posts JSON": attempts()["posts JSON"]}
        results = await site.visit("rebound.test", tmp_path)
        assert results["posts JSON"]["status"] == 200
        assert reached(stage, "posts JSON")


def with_keys() -> dict[str, Any]:
    bearer = {**JSON, "Authorization": f"Bearer {KEY}"}
    return {
        "none": post("none", JSON),
        "text": post("text", {"Content-Type": "text/plain"}),
        "key": post("key", {**JSON, "X-API-Key": KEY}),
        "bearer": post("bearer", bearer),
        "wrong": post("wrong", {**JSON, "X-API-Key": KEY[:-1]}),
    }


async def test_where_any_page_may_call_each_has_to_show_a_key_though_its_browser_is_at_home(tmp_path: Path) -> None:
    async with opened_site() as site:
        keys = [{"name": "page", "hash": hash_key(KEY)}]
        async with staged(upstream_for(site), keys=keys, edge={"origins": ["*"]}) as stage:
            site.server, site.attempts = f"http://{stage.address}", with_keys()
            results = await site.visit("any.test", tmp_path)
            assert judged(stage, results) == {
                "none": "refused",
                "text": "refused",
                "key": "served",
                "bearer": "served",
                "wrong": "refused",
            }
            assert results["key"]["status"] == results["bearer"]["status"] == 200
            assert all(KEY not in seen.head.decode() for seen in stage.calls)
            assert {results[name]["status"] for name in ("none", "text", "wrong")} == {401}


async def test_a_page_that_may_call_reads_why_it_was_refused(tmp_path: Path) -> None:
    async with opened_site() as site:
        keys = [{"name": "page", "hash": hash_key(KEY)}]
        origins = {"origins": [f"http://listed.test:{site.port}"]}
        async with staged(upstream_for(site), keys=keys, edge=origins) as stage:
            made = {
                "wrong": with_keys()["wrong"],
                "beyond": post("beyond", {**JSON, "X-API-Key": KEY}, path="/api/pull"),
            }
            site.server, site.attempts = f"http://{stage.address}", made
            results = await site.visit("listed.test", tmp_path)
            assert stage.calls == []
        assert {name: result.get("status") for name, result in results.items()} == {"wrong": 401, "beyond": 403}
        assert results["wrong"]["headers"]["x-pilotlight-error"] == "unauthorized"
