"""nginx in front, set up as ``docs/security.md`` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import yaml

from proxy.edge.keys import hash_key, new_key
from tests.nginx import needs_nginx, nginx_with
from tests.stage import Stage, chat, chat_end, chat_token, staged

if TYPE_CHECKING:
    from tests.peers import Answering, Seen

pytestmark = needs_nginx

PAGE = (Path(__file__).parent.parent.parent / "docs" / "security.md").read_text(encoding="utf-8")
KEY = new_key(bytes(range(32)))


def location(stage: Stage) -> str:
    """As the page has it, with the proxy of the test."""
    (found,) = re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL)
    assert "http://127.0.0.1:11435" in found
    return str(found).replace("127.0.0.1:11435", stage.address)


async def script(seen: Seen, reply: Answering) -> None:
    await seen.whole.wait()
    reply.head()
    reply.frames(chat_token("a"), chat_end())
    reply.end()


async def test_who_comes_through_nginx_is_a_stranger_and_is_served_with_a_key(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(edge: .*?)```", PAGE, re.DOTALL)
    keys = [{"name": "phone", "hash": hash_key(KEY)}]
    async with staged(script, keys=keys, **yaml.safe_load(example)) as stage:
        async with nginx_with(tmp_path, location(stage)) as url:
            statuses = {}
            host, key = {"Host": "models.example"}, {"X-API-Key": KEY}
            async with aiohttp.ClientSession(url) as session:
                for name, path, fields in (
                    ("no key", "/api/chat", host),
                    ("key", "/api/chat", {**host, **key}),
                    ("its own page", "/api/chat", {**host, **key, "Origin": "https://models.example"}),
                    ("another host", "/api/chat", {**key, "Host": "evil.example"}),
                    ("pull", "/api/pull", host),
                ):
                    async with session.post(path, json=chat(stream=False), headers=fields) as reply:
                        statuses[name] = reply.status
        assert statuses == {"no key": 401, "key": 200, "its own page": 200, "another host": 421, "pull": 403}
        assert [seen.path for seen in stage.calls] == ["/api/chat", "/api/chat"]
