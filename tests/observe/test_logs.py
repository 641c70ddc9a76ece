from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.logs import LINES_PER_S, ErrorLimit, Level, install, open_log

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_log(stream: io.BytesIO, limit: ErrorLimit | None = None, level: Level = "info") -> Any:
    return open_log(stream, "json", level, limit or ErrorLimit())


def test_a_json_line_begins_with_time_level_and_event() -> None:
    stream = io.BytesIO()

    json_log(stream).info("request", model="llama3.2", ttft_ms=1.5, stream=True)

    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "event", "model", "ttft_ms", "stream"]
    assert (line["level"], line["event"], line["ttft_ms"]) == ("info", "request", 1.5)


@pytest.mark.parametrize(
    ("form", "is_terminal", "is_json"),
    [("auto", False, True), ("auto", True, False), ("json", True, True), ("text", False, False)],
)
def test_text_is_for_terminals_unless_told_otherwise(form: Any, is_terminal: bool, is_json: bool) -> None:
    stream = io.BytesIO()

    open_log(stream, form, "info", ErrorLimit(), is_terminal=is_terminal).info("ready", seconds=1.5)

    written = stream.getvalue()
    assert written.startswith(b"{") is is_json
    assert (b"\x1b[" in written) is (is_terminal and not is_json)
    assert b"ready" in written
    assert b"1.5" in written


@given(text=st.text() | st.sampled_from(["\r\nforged", "\x1b[2J", "\ud800", "\u2028", "x" * 5000]))
@pytest.mark.parametrize("form", ["json", "text"])
def test_no_value_ends_a_line_or_reaches_the_terminal_raw(form: Any, text: str) -> None:
    stream = io.BytesIO()
    log = open_log(stream, form, "info", ErrorLimit())

    log.info("request", model=text, error=ValueError(text), odd={"a": text, text: [text, 1, None]})

    written = stream.getvalue().decode()
    assert written.endswith("\n")
    assert written[:-1].isprintable()


def test_values_keep_their_structure() -> None:
    stream = io.BytesIO()

    json_log(stream).info("model loaded", options={"num_ctx": 4096, "use_mmap": None}, names=("a", "b\n"))

    (line,) = lines(stream)
    assert (line["options"], line["names"]) == ({"num_ctx": 4096, "use_mmap": None}, ["a", "b\\n"])


def test_the_level_is_the_least_that_is_written() -> None:
    stream = io.BytesIO()
    log = json_log(stream, level="warning")

    log.info("no")
    log.warning("yes")

    assert [line["event"] for line in lines(stream)] == ["yes"]


def test_error_lines_are_limited_and_the_rest_is_counted() -> None:
    stream, clock, suppressed = io.BytesIO(), Clock(), []
    limit = ErrorLimit(clock)
    limit.on_suppressed = lambda: suppressed.append(1)
    log = json_log(stream, limit)

    for _ in range(1000):
        log.error("refused")
    for _ in range(500):
        log.info("request")
    assert [line["event"] for line in lines(stream)] == ["refused"] * LINES_PER_S + ["request"] * 500
    assert len(suppressed) == 990

    clock.now += 0.1
    log.error("refused")
    log.error("refused")

    last = lines(stream)[-1]
    assert last["suppressed"] == 990
    assert len(lines(stream)) == LINES_PER_S + 501


def test_warnings_do_not_use_up_the_errors() -> None:
    stream = io.BytesIO()
    log = json_log(stream, ErrorLimit(Clock()))

    for _ in range(100):
        log.warning("malformed request")
    log.error("unhandled error")

    assert lines(stream)[-1]["event"] == "unhandled error"


def raise_with(prompt: str) -> None:
    secret = prompt.upper()
    raise RuntimeError(f"broken after {len(secret)} characters")


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_shows_code_but_no_values(form: Any) -> None:
    stream = io.BytesIO()
    log = open_log(stream, form, "info", ErrorLimit(), is_terminal=form == "text")

    try:
        raise_with("my private prompt")
    except RuntimeError:
        log.exception("unhandled error")

    written = stream.getvalue().decode()
    assert "raise_with" in written
    assert "broken after 17 characters" in written
    assert "PRIVATE" not in written
    assert "my private prompt" not in written.replace('raise_with("my private prompt")', "").replace(
        r"raise_with(\"my private prompt\")", ""
    )
    if form == "json":
        assert len(written.splitlines()) == 1


class ClosedPipe(io.BytesIO):
    def write(self, data: Any) -> int:
        raise BrokenPipeError


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    json_log(ClosedPipe()).info("request")
    closed = io.BytesIO()
    log = json_log(closed)
    closed.close()

    log.error("request")


@pytest.fixture
def installed() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.BytesIO()
    install(stream, "json", "info", is_terminal=False)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_log_of_the_process_takes_in_what_libraries_say(installed: io.BytesIO) -> None:
    structlog.get_logger("proxy.server").info("ready", port=11435)
    logging.getLogger("aiohttp.server").error("Error handling request from %s", "1.2.3.4\n")
    logging.getLogger("asyncio").log(25, "odd level")
    logging.getLogger("asyncio").info("not worth a line")

    found = lines(installed)
    assert [(line["level"], line["event"]) for line in found] == [
        ("info", "ready"),
        ("error", "Error handling request from 1.2.3.4\\n"),
    ]
    assert found[1]["logger"] == "aiohttp.server"


async def test_an_exception_that_nobody_awaited_is_one_line(installed: io.BytesIO) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": "lost", "exception": ValueError("x")})

    (line,) = lines(installed)
    assert line["logger"] == "asyncio"
    assert "ValueError: x" in line["exception"]
