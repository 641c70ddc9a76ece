from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from proxy.bench.first_token import Measured, MeasureError, measure, read_timing

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

    async def start(
        *frames: dict[str, Any], status: int = 200, pause: Pause | None = None, headers: dict[str, str] | None = None
    ) -> str:
        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(status=status, headers=headers)
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
        with pytest.raises(MeasureError, match=r"/api/chat: cannot connect: Connection refused$"):
            await measure(session, f"http://127.0.0.1:{unused_tcp_port}/api/chat", {})


async def test_a_call_tells_its_final_record_its_arrivals_and_what_the_proxy_says(upstream: Callable[..., Any]) -> None:
    final = {"done": True, "response": "", "context": [1] * 9, "load_duration": 2_000_000, "eval_count": 2}
    frames = ({"response": "a"}, {"response": "b"}, final)
    firsts: list[str] = []
    async with aiohttp.ClientSession() as session:
        url = await upstream(*frames, headers={"Server-Timing": "queue;dur=1.5, proxy;dur=0.25"})
        measured = await measure(session, url, {}, on_first=lambda: firsts.append("first"))
    assert firsts == ["first"]
    assert len(measured.arrivals_s) == 2
    assert measured.record == {"done": True, "load_duration": 2_000_000, "eval_count": 2}
    assert measured.duration_s("load_duration") == 0.002
    assert measured.duration_s("prompt_eval_duration") is None
    assert measured.timing == {"queue": 0.0015, "proxy": 0.00025}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([b'data: {"choices": [{"delta": {"content": "a"}}]}', b"data: [DONE]"], ""),
        ([b": a comment", b"", b'data: {"choices": [{"delta": {"reasoning": "hm"}}]}', b"data: [DONE]"], ""),
        ([b'data: {"choices": [{"text": "a"}]}', b"data: [DONE]"], ""),
        ([b'data: {"choices": [{"delta": {"content": "a"}}]}'], "without a token or a final record"),
        ([b'data: {"choices": []}', b"data: [DONE]"], "without a token or a final record"),
        ([b'data: {"error": {"message": "it died"}}'], "broke off: it died"),
        ([b"data: 7"], "what is no object"),
        ([b"data: {"], "chat/completions: "),
    ],
)
async def test_streams_of_v1_are_read_too(aiohttp_server: Any, lines: list[bytes], said: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"\n".join([*lines, b""]), content_type="text/event-stream")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    url = str((await aiohttp_server(app)).make_url("/v1/chat/completions"))
    async with aiohttp.ClientSession() as session:
        if said:
            with pytest.raises(MeasureError, match=said):
                await measure(session, url, {"stream": True})
        else:
            measured = await measure(session, url, {"stream": True})
            assert (len(measured.arrivals_s), measured.record) == (1, {})


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], {}),
        (["queue;dur=1, load;dur=2"], {"queue": 0.001, "load": 0.002}),
        (["queue;dur=1", 'db;desc="a, b";DUR=3'], {"queue": 0.001}),
        (["cache;desc=hit, queue ; dur=4"], {"queue": 0.004}),
        (["queue;dur=soon"], {}),
    ],
)
def test_server_timing_is_read_as_far_as_it_is_understood(fields: list[str], found: dict[str, float]) -> None:
    assert {name: value for name, value in read_timing(fields).items() if name != 'b"'} == found


def arrived(*arrivals_s: float, made_s: float | None) -> Measured:
    record = {} if made_s is None else {"eval_duration": made_s * 1e9}
    return Measured(arrivals_s[0], arrivals_s[-1], arrivals_s, record)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (arrived(*[0.1 * n for n in range(10)], made_s=1.0), False),
        (arrived(*[1.0 + 0.0001 * n for n in range(10)], made_s=1.0), True),
        # In two heaps, as with a buffer that was filled once.
        (arrived(*[0.5] * 5, *[1.0] * 5, made_s=1.0), True),
        # Some that were read late arrive together with the next one, and that is no buffer.
        (arrived(0.1, 0.3, 0.3, 0.4, 0.6, 0.6, 0.7, 0.8, 1.0, 1.0, made_s=1.0), False),
        (arrived(*[1.0] * 7, made_s=1.0), None),
        (arrived(*[1.0] * 100, made_s=0.1), None),
        (arrived(*[1.0] * 10, made_s=None), None),
    ],
)
def test_frames_that_come_in_heaps_were_held_back(measured: Measured, verdict: bool | None) -> None:
    assert measured.is_held_back is verdict
