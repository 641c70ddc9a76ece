"""What was seen, as plain data. ``gather`` fills it in, the checks read it, and ``report`` prints it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from proxy.doctor.finding import span
from proxy.observe.row import printable
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.bench.first_token import Measured
    from proxy.rewrite.facts import ModelFacts
    from proxy.settings import Settings
    from proxy.upstream.ollama import RunningModel, TagEntry

# Ollama's "for ever" is some 290 years ahead (v0.24.0, envconfig/config.go); nobody means ten years by a number.
FOREVER_S = 10 * 365 * 86_400.0
# What Ollama takes by itself on a machine without much VRAM (v0.24.0, server/routes.go, ``Serve``).
DEFAULT_NUM_CTX = 4096
# Ollama's variables that say something here. All others stay unread: one holds a key.
VARIABLES = (
    "OLLAMA_HOST",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_KV_CACHE_TYPE",
)


class Reached(enum.Enum):
    """How far a first request came."""

    ANSWERED = "answered"
    NO_NAME = "the name is not known"
    REFUSED = "the connection is refused"
    NO_ROUTE = "there is no way to it"
    TIMED_OUT = "no connection came about in time"
    SILENT = "connected, and no answer came in time"
    TLS = "no secure connection came about"
    BROKEN = "the connection broke off before an answer"


@dataclass(frozen=True, slots=True)
class Contact:
    """One small request.

    Attributes:
        url: What was asked.
        status: 0 where no answer came.
        body: The answer's JSON object; ``None`` where it is none.
        text: The beginning of the answer, or what the system said to the attempt.
        server: The ``Server`` field; Ollama sends none.
        took_s: Until the answer was there, or there was none.
    """

    url: str
    reached: Reached
    status: int = 0
    body: Mapping[str, Any] | None = None
    text: str = ""
    server: str = ""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """One answer's ``Date``, and when it was made by our own clock: between ``sent`` and ``received``. Unix seconds."""

    sent: float
    received: float
    date: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``/api/ps`` at one moment, in seconds since 1970 by our own clock."""

    at: float
    running: tuple[RunningModel, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """One timed stream.

    Attributes:
        measured: ``None`` where it failed; ``error`` then says how.
    """

    url: str
    model: str
    measured: Measured | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Admin:
    """What Pilotlight's admin port says.

    Attributes:
        contact: With ``/readyz``.
        models: The rows of ``/models``.
        requests: The rows of ``/requests``, newest first.
        reloads: Loads that it counted, by model and cause.
    """

    contact: Contact
    models: Sequence[Mapping[str, Any]] = ()
    requests: Sequence[Mapping[str, Any]] = ()
    reloads: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """A proxy of ours answered, ready or not."""
        return self.contact.body is not None and "status" in self.contact.body


@dataclass(frozen=True, slots=True)
class Described:
    """A model as ``/api/show`` has it.

    Attributes:
        context_bytes: Memory that each token of context takes; ``None`` where it cannot be told.
    """

    facts: ModelFacts
    context_bytes: int | None = None


@dataclass(slots=True)
class Observed:
    """All that was seen. ``None`` means that it was not asked, or that no answer came.

    Attributes:
        settings: Of the proxy as it would start here.
        environ: Ollama's variables in this process's environment, those of ``VARIABLES``. The server may have others.
        now: When ``running`` was asked, in seconds since 1970 by our own clock.
        admin_is_asked: The operator named the admin port, so that it should be there.
        foreign_host: What came of a request with a ``Host`` that is nobody's.
        stamps: Of answers that came straight from the upstream.
        troubles: Calls of Ollama's API that went wrong, by path.
        described: By canonical name.
        undescribed: How many stored models were not looked into, because there are so many.
        vram_bytes: As the operator says.
        was_loaded: The model that was streamed from had been loaded before.
        after: ``/api/ps`` right after the direct stream.
        spans: Streams that ran at the same time: first and last token but one, monotonic seconds.
        watched: ``/api/ps`` again and again.
    """

    settings: Settings
    environ: Mapping[str, str]
    upstream: Contact
    now: float = 0.0
    admin_is_asked: bool = False
    foreign_host: Contact | None = None
    stamps: list[Stamp] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    running: tuple[RunningModel, ...] | None = None
    stored: tuple[TagEntry, ...] | None = None
    described: dict[str, Described] = field(default_factory=dict)
    undescribed: int = 0
    vram_bytes: int | None = None
    why_no_stream: str = ""
    direct: Stream | None = None
    was_loaded: bool = False
    after: Snapshot | None = None
    via: Contact | None = None
    through: Stream | None = None
    asked_at_once: int = 0
    spans: tuple[tuple[float, float], ...] = ()
    watched: tuple[Snapshot, ...] = ()
    admin: Admin | None = None

    @property
    def version(self) -> str:
        body = self.upstream.body or {}
        version = body.get("version")
        return printable(version, 64) if isinstance(version, str) and self.upstream.status == 200 else ""

    @property
    def is_ollama(self) -> bool:
        return bool(self.version)

    def weights(self, name: str) -> str:
        """What a runner belongs to; the name itself where Ollama did not describe it."""
        found = self.described.get(canonical(name))
        return found.facts.weights if found is not None else f"name:{canonical(name)}"

    def row(self, name: str) -> RunningModel | None:
        """The row of ``/api/ps`` of the runner that a call to this name would use."""
        wanted = self.weights(name)
        return next((row for row in self.running or () if self.weights(row.name) == wanted), None)

    def tag(self, name: str) -> TagEntry | None:
        wanted = canonical(name)
        return next((entry for entry in self.stored or () if canonical(entry.name) == wanted), None)

    def called(self, name: str) -> str:
        """The name as it can be shown, with what distinguishes a model that only embeds."""
        found, shown = self.described.get(canonical(name)), printable(name)
        return f"{shown} (embedding model)" if found is not None and found.facts.embedding_only else shown

    def load_cost(self, name: str) -> str:
        """What one load of it costs, by the best source that there is."""
        loads_s = [
            row["load_ms"] / 1000
            for row in (self.admin.requests if self.admin is not None else ())
            if row.get("start") == "cold"
            and canonical(str(row.get("model", ""))) == canonical(name)
            and isinstance(row.get("load_ms"), int | float)
        ]
        if loads_s:
            middle = sorted(loads_s)[len(loads_s) // 2]
            return f"a load took {span(middle)} (median of {len(loads_s)} cold requests that Pilotlight saw)"
        return (
            "the next request waits for a load (not measured here; with a small model on Ollama 0.24.0 the first token "
            "then took 2.6 s instead of 0.15 s)"
        )


def version_of(text: str) -> tuple[int, int, int] | None:
    """The three numbers of a version; ``None`` for what is none, and for a build from source (``0.0.0``)."""
    numbers = text.removeprefix("v").partition("-")[0].partition("+")[0].split(".")
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    found = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
    return found if any(found) else None


def clock_offset(stamps: Sequence[Stamp]) -> tuple[float, float] | None:
    """Between which bounds the server's clock is ahead of ours, in seconds; negative: behind.

    ``Date`` is cut to whole seconds (RFC 9110, 5.6.7), so that each answer bounds it only so far; several cut the
    range down. Where no value fits them all a clock was set meanwhile, and the last answer counts alone.
    """
    ranges = [(stamp.date - stamp.received, stamp.date + 1 - stamp.sent) for stamp in stamps]
    if not ranges:
        return None
    least, most = max(low for low, _ in ranges), min(high for _, high in ranges)
    return (least, most) if least <= most else ranges[-1]


def ahead_s(observed: Observed) -> float:
    """The best guess of what the server's clock is ahead of ours; 0 where it may be right."""
    bounds = clock_offset(observed.stamps)
    if bounds is None or bounds[0] <= 0 <= bounds[1]:
        return 0.0
    return (bounds[0] + bounds[1]) / 2


def expires_in_s(row: RunningModel, now: float, ahead: float) -> float | None:
    """How long a model stays from ``now`` on if nobody uses it; infinite for ever, ``None`` where it is not told."""
    if row.expires_unix is None:
        return None
    left = row.expires_unix - now - ahead
    return float("inf") if left > FOREVER_S else left


def keep_alive_s(observed: Observed) -> float | None:
    """The ``keep_alive`` of the model that was streamed from: its timer began anew at the stream's end.

    Source: v0.24.0, server/sched.go, ``processCompleted``. ``None`` where it was not streamed from, or the timer does
    not show yet.
    """
    if observed.direct is None or observed.direct.measured is None or observed.after is None:
        return None
    wanted = observed.weights(observed.direct.model)
    for row in observed.after.running:
        if observed.weights(row.name) == wanted:
            left = expires_in_s(row, observed.after.at, ahead_s(observed))
            return left if left is not None and left > 0 else None
    return None


def context_bytes(info: Mapping[str, Any]) -> int | None:
    """Memory that a token of context takes in the cache of keys and values, of 16 bits each.

    Args:
        info: ``model_info`` of ``/api/show``: as the model's file has it.

    Returns:
        Layers x heads x (length of a key + of a value) x 2 bytes. ``None`` where the file does not say, where layers
        differ, and where some of them see a window only.
    """
    arch = info.get("general.architecture")

    def number(name: str) -> int | None:
        value = info.get(f"{arch}.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    if f"{arch}.attention.sliding_window" in info:
        return None
    layers, heads = number("block_count"), number("attention.head_count")
    cached = number("attention.head_count_kv")
    width = number("embedding_length")
    length = width // heads if width and heads else None
    key, value = number("attention.key_length") or length, number("attention.value_length") or length
    if layers is None or cached is None or key is None or value is None:
        return None
    return layers * cached * (key + value) * 2
