from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from proxy.bench.first_token import MeasureError, measure

if TYPE_CHECKING:
    from collections.abc import Callable

FINAL = {"done": True}


class Pause:
    """Between the first frame and the second: when it began, and what ends it."""

    def __init__(self) -> None:
        self.began_s = 0.0
        self.began = asyncio.Event()
        self.go = asyncio.Event()


@pytest.fixture
def upstream(aiohttp_server: Any) -> Callable[..., Any]:
    """A server that answers each POST with the given frames."""

    async def start(*frames: dict[str, Any], status: int = 200, pause: Pause | None = None) -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=status)
            await response.prepare(request)
            for number, frame in enumerate(frames):
                if number == 1 and pause is not None:
                    pause.began_s = time.monotonic()
                    pause.began.set()
                    await pause.go.wait()
                await response.write(json.dumps(frame).encode() + b"\n")
            return response

        app = web.Application()
        app.router.add_post("/api/chat", answer)
        return str((await aiohttp_server(app)).make_url("/api/chat"))

    return start


async def test_the_first_frame_with_content_is_the_first_token(upstream: Callable[..., Any]) -> None:
    pause = Pause()
    url = await upstream({"message": {"content": ""}}, {"message": {"content": "a"}}, FINAL, pause=pause)
    async with aiohttp.ClientSession() as session:
        call = asyncio.create_task(measure(session, url, {}))
        await pause.began.wait()
        await asyncio.sleep(0.02)
        paused_s = time.monotonic() - pause.began_s
        pause.go.set()
        measured = await call
    assert paused_s <= measured.first_token_s <= measured.total_s


@pytest.mark.parametrize(
    "token",
    [
        {"response": "a"},
        {"message": {"thinking": "hm"}},
        {"message": {"content": "", "tool_calls": [{"function": {}}]}},
    ],
)
async def test_thinking_and_tool_calls_are_tokens_too(upstream: Callable[..., Any], token: dict[str, Any]) -> None:
    async with aiohttp.ClientSession() as session:
        measured = await measure(session, await upstream(token, FINAL), {})
    assert 0 < measured.first_token_s <= measured.total_s


@pytest.mark.parametrize(
    ("frames", "status", "said"),
    [
        ([{"error": "no such model"}], 404, "answered 404"),
        ([{"message": {"content": "a"}}, {"error": "it died"}], 200, "broke off: it died"),
        ([{"message": {"content": "a"}}], 200, "without a token or a final record"),
        ([FINAL], 200, "without a token or a final record"),
        ([], 200, "without a token or a final record"),
    ],
)
async def test_a_call_without_a_whole_answer_is_an_error(
    upstream: Callable[..., Any], frames: list[dict[str, Any]], status: int, said: str
) -> None:
    url = await upstream(*frames, status=status)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(MeasureError, match=said):
            await measure(session, url, {})


async def test_nobody_there_is_an_error(unused_tcp_port: int) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(MeasureError, match="/api/chat: "):
            await measure(session, f"http://127.0.0.1:{unused_tcp_port}/api/chat", {})
