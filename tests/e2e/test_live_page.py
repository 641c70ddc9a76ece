"""The live page in a real browser: what it shows is what the admin port says, and it follows by itself."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import ollama
import pytest

from proxy.edge.keys import hash_key, new_key
from tests.e2e import devtools
from tests.e2e.browser import needs_chromium
from tests.e2e.pair import Pair, paired
from tests.peers import client as raw_client

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [*needs_chromium, pytest.mark.timeout(120)]

MESSAGES = [{"role": "user", "content": "tell me"}]
# One row of the last calls: model, call, outcome, the widths of the parts, and the figure at the bar's end.
ROWS = """
[...document.querySelectorAll("#requests tbody tr")].filter((row) => row.cells.length > 1).map((row) => ({
  model: row.cells[1].textContent, call: row.cells[2].textContent, came: row.cells[3].textContent,
  parts: [...row.querySelectorAll(".bar i")].map((part) => [part.className, parseFloat(part.style.width)]),
  ttft: row.cells[5].textContent, id: row.cells[3].firstChild.title,
}))
"""


async def rows_of(pair: Pair) -> list[dict[str, Any]]:
    async with raw_client(pair.proxy.admin_address, limit=2**22) as opened:
        opened.get("/requests", "Connection: close")
        requests: list[dict[str, Any]] = (await opened.answer()).json["requests"]
    return requests


async def call(pair: Pair, model: str = "tiny") -> None:
    async with ollama.AsyncClient(f"http://{pair.proxied}") as client:
        await client.chat(model, MESSAGES, options={"num_predict": 6})


def shown(ms: float) -> str:
    """As the page writes it."""
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.2f} s"


async def test_it_shows_what_the_admin_port_says_and_follows_by_itself(tmp_path: Path) -> None:
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        await call(pair)
        async with devtools.opened(f"http://{pair.proxy.admin_address}/", tmp_path) as tab:
            await tab.until(f"{ROWS}.length === 1")
            assert await tab.evaluate("document.getElementById('state').textContent") == "ready"
            assert await tab.evaluate("document.querySelector('#models tbody td').textContent") == "tiny:latest"
            assert await tab.evaluate("document.querySelector('#queue tbody').textContent") == "nobody waits"

            with pytest.raises(ollama.ResponseError):
                await call(pair, "<b>ghost</b>")
            await call(pair)
            await tab.until(f"{ROWS}.length === 3")
            said = [row for row in await rows_of(pair) if "endpoint" in row]
            for row, line in zip(said, await tab.evaluate(ROWS), strict=True):
                assert line["id"] == row["request_id"]
                assert line["model"] == row["model"]
                assert line["call"] == f"POST {row['route']}"
                assert line["came"] == ("ok" if row["outcome"] == "ok" else f"{row['status']} {row['outcome']}")
                if "ttft_ms" in row:
                    assert abs(float(line["ttft"].split()[0]) - float(shown(row["ttft_ms"]).split()[0])) <= 1
                    assert [name for name, _ in line["parts"]] == ["queue", "load", "prompt", "proxy", "other"]
                    for name, width in line["parts"]:
                        assert width == pytest.approx(100 * row[f"{name}_ms"] / row["ttft_ms"], abs=0.1)
            # Names are text: nothing of them becomes a part of the page.
            assert await tab.evaluate("document.querySelectorAll('b').length") == 0
            assert tab.complaints == []
            assert all(url.startswith((f"http://{pair.proxy.admin_address}/", "data:")) for url in tab.requests)


async def test_it_says_so_when_the_proxy_is_gone_and_stops_asking_while_it_is_paused(tmp_path: Path) -> None:
    async with paired(models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        async with devtools.opened(f"http://{pair.proxy.admin_address}/", tmp_path, dark=True) as tab:
            await tab.until("document.getElementById('state').textContent === 'ready'")
            background = "getComputedStyle(document.body).backgroundColor"
            assert await tab.evaluate(background) == "rgb(23, 22, 20)"
            await tab.evaluate("document.getElementById('pause').click()")
            asked = len(tab.requests)
            # Longer than between two updates; nothing may come meanwhile.
            await asyncio.sleep(2.5)
            assert len(tab.requests) == asked
            await pair.proxy.aclose()
            await tab.evaluate("document.getElementById('pause').click()")
            await tab.until("document.getElementById('state').textContent === 'no connection'")
            assert "does not answer" in await tab.evaluate("document.getElementById('trouble').textContent")


async def test_who_may_not_read_is_asked_for_a_key_that_stays_in_the_tab(tmp_path: Path) -> None:
    key = new_key(bytes(32))
    entry = {"name": "reader", "hash": hash_key(key), "scopes": ["read"]}
    # A page of another origin's name would not get this far; here it is the operator's own, through a proxy in front.
    async with paired(keys=[entry], models=[{"name": "tiny"}]) as pair:
        await pair.until_ready()
        async with devtools.opened("about:blank", tmp_path) as tab:
            await tab.tell("Network.setExtraHTTPHeaders", headers={"X-Forwarded-For": "203.0.113.9"})
            await tab.go(f"http://{pair.proxy.admin_address}/")
            await tab.until("!document.getElementById('door').hidden")
            assert await tab.evaluate("document.getElementById('main').hidden")
            await tab.evaluate(
                f"document.getElementById('key').value = {json.dumps(key)}, document.forms.door.requestSubmit()"
            )
            await tab.until("!document.getElementById('main').hidden")
            assert await tab.evaluate("document.querySelector('#models tbody td').textContent") == "tiny:latest"
            assert await tab.evaluate("document.getElementById('key').value + localStorage.length") == "0"
