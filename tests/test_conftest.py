from __future__ import annotations

import asyncio

import uvloop
from aiohttp import web


async def test_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_fixture_servers_run_on_uvloop(aiohttp_client) -> None:
    client = await aiohttp_client(web.Application())
    assert (await client.get("/")).status == 404
