"""The log: text on a terminal, one JSON object per line otherwise.

What must live here: how a line looks, which lines are too many, and where they go. What it must not know: what is worth
a line. Rules:

1. No prompt, no answer, no value of a header is ever handed to a logger. Tracebacks show code, never local variables.
2. Whatever a value holds, it cannot end a line, move a terminal's cursor or make the line undecodable.
3. At most ``LINES_PER_S`` error lines a second, and as many warnings; how many were left out stands in the next one and
   in a metric. Request lines are not limited: one per request.
4. A log that nobody reads any more does not stop the proxy.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Literal

import orjson
import structlog
from structlog.processors import TimeStamper, add_log_level, format_exc_info

from proxy.observe.row import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Format = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error"]

LINES_PER_S = 10
_LONGEST_VALUE = 1000
_LONGEST_TRACEBACK = 8000
_NUMBERS = frozenset({int, float, bool, type(None)})


class ErrorLimit:
    """Lets through so many warnings and so many errors a second, and counts the others.

    Args:
        clock: Monotonic seconds.
        per_s: How many of each; a burst after quiet may be as large as one second's worth.

    Attributes:
        on_suppressed: Called for each line left out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, per_s: int = LINES_PER_S) -> None:
        self._clock = clock
        self._errors = _Allowance(per_s, clock())
        self._warnings = _Allowance(per_s, clock())
        self.on_suppressed: Callable[[], None] | None = None

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        level = event["level"]
        if level in ("info", "debug"):
            return event
        allowance = self._warnings if level == "warning" else self._errors
        if not allowance.take(self._clock()):
            if self.on_suppressed is not None:
                self.on_suppressed()
            raise structlog.DropEvent
        if allowance.suppressed:
            event["suppressed"] = allowance.suppressed
            allowance.suppressed = 0
        return event


class _Allowance:
    def __init__(self, per_s: int, now: float) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._at = now
        self.suppressed = 0

    def take(self, now: float) -> bool:
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            self.suppressed += 1
            return False
        self._left -= 1
        return True


def open_log(
    stream: BinaryIO, form: Format, level: Level, limit: ErrorLimit, *, is_terminal: bool = False
) -> FilteringBoundLogger:
    """A logger that writes to ``stream``; changes nothing outside itself.

    Args:
        stream: Takes encoded lines; its errors are ignored.
        form: ``auto`` is text on a terminal and JSON otherwise.
        level: The least level that is written.
        limit: Which error lines are too many.
        is_terminal: Whether a person looks at ``stream``: colours, and text for ``auto``.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _Lines(stream),
        processors=_processors(form, limit, is_terminal=is_terminal),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    )
    return logger


def install(
    stream: BinaryIO, form: Format, level: Level, *, is_terminal: bool, clock: Callable[[], float] = time.monotonic
) -> ErrorLimit:
    """Make this the log of the whole process, of ``structlog`` and of ``logging`` alike. Once, at the start.

    Returns:
        The limit, whose ``on_suppressed`` is to be connected to the metrics.
    """
    limit = ErrorLimit(clock)
    lines = _Lines(stream)
    structlog.configure(
        processors=_processors(form, limit, is_terminal=is_terminal),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward(open_log(stream, form, level, limit, is_terminal=is_terminal))]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    return limit


class _Lines:
    """Where finished lines go. A broken pipe or a full disk loses them; the proxy goes on."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.lost = 0

    def msg(self, line: bytes) -> None:
        try:
            self._stream.write(line + b"\n")
            self._stream.flush()
        except (OSError, ValueError):
            # ValueError: the stream is closed.
            self.lost += 1

    log = debug = info = warning = warn = error = critical = fatal = exception = failure = err = msg


class _Forward(logging.Handler):
    """What aiohttp and asyncio log, in our form and under our limit."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # structlog knows the five levels only.
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        self._logger.log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _processors(form: Format, limit: ErrorLimit, *, is_terminal: bool) -> list[Processor]:
    if form == "text" or (form == "auto" and is_terminal):
        # Plain tracebacks: structlog's default shows local variables, and those hold prompts.
        console = structlog.dev.ConsoleRenderer(
            colors=is_terminal, sort_keys=False, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
        )
        return [add_log_level, limit, format_exc_info, _harmless, _stamp("%H:%M:%S", utc=False), console, _encode_text]
    return [add_log_level, limit, format_exc_info, _harmless, _stamp("iso", utc=True), _encode_json]


def _stamp(form: str, *, utc: bool) -> Processor:
    return TimeStamper(fmt=form, utc=utc)


def _harmless(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        kind = type(value)
        if kind in _NUMBERS or (kind is str and len(value) <= _LONGEST_VALUE and value.isprintable()):
            continue
        if key == "exception":
            event[key] = "\n".join([printable(line, _LONGEST_VALUE) for line in _shortened(str(value)).split("\n")])
        else:
            event[key] = _plain(value)
    return event


def _plain(value: object) -> object:
    """The value as one that JSON has, with text that is harmless."""
    if isinstance(value, dict):
        return {printable(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, BaseException):
        return printable(f"{type(value).__name__}: {value}", _LONGEST_VALUE)
    return value if type(value) in _NUMBERS else printable(str(value), _LONGEST_VALUE)


def _shortened(traceback: str) -> str:
    """The end of a traceback says most."""
    return traceback if len(traceback) <= _LONGEST_TRACEBACK else "…" + traceback[-_LONGEST_TRACEBACK:]


def _encode_json(logger: WrappedLogger, method: str, event: EventDict) -> bytes:
    line: dict[str, Any] = {
        "timestamp": event.pop("timestamp"),
        "level": event.pop("level"),
        "event": event.pop("event"),
        **event,
    }
    # Integers beyond 64 bits, and nothing else that can be in here, are refused by orjson.
    return orjson.dumps(line, default=str)


def _encode_text(logger: WrappedLogger, method: str, line: Any) -> bytes:
    encoded: bytes = line.encode("utf-8", "backslashreplace")
    return encoded
