from __future__ import annotations

import asyncio

import hypothesis
import uvloop
from aiohttp import web


async def test_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_fixture_servers_run_on_uvloop(aiohttp_client) -> None:
    client = await aiohttp_client(web.Application())
    assert (await client.get("/")).status == 404


def test_properties_have_no_deadline() -> None:
    assert hypothesis.settings.default.deadline is None
