"""What a run of ``pilotlight bench`` has found: the file that it writes, field by field.

What must live here: the shapes, and reading them strictly. What the samples come to is worked out in
``proxy/bench/statistics.py``, whose ``side``, ``workload`` and ``model`` make the larger of these. The texts below the
fields are the documentation: ``docs/bench.schema.json`` and the tables in ``docs/results.md`` are written from them.

Another meaning, a field more or a field less is another ``SCHEMA``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = "pilotlight.bench/1"

_LARGEST: Final = 2**63 - 1

Verdict = Literal["pass", "fail", "unknown"]


class ResultsError(Exception):
    """A file that cannot be used; the message is one line that names the file, and the field where it is one."""


class _Strict:
    """Nothing unknown, nothing converted, no number that is not one."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(_Strict):
    """Where the benchmark itself ran, which need not be where Ollama ran."""

    cpu: str
    """Model of the processor; empty where the system does not tell."""
    cores: int
    """Logical processors that this program may use."""
    memory_bytes: int | None
    """Of the machine; null where the system does not tell."""
    os: str
    """Operating system and its version."""
    python: str
    """Implementation and version of Python."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(_Strict):
    """One side: where calls were sent."""

    url: str
    """Without user and password."""
    version: str | None
    """What `/api/version` answered; null where it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo(_Strict):
    """The model of the calls, as the server describes it."""

    name: str
    """As it was asked for."""
    digest: str | None = None
    """Of its manifest, from `/api/tags`."""
    size_bytes: int | None = None
    """Of its file, from `/api/tags`."""
    memory_bytes: int | None = None
    """What it takes when loaded, from `/api/ps`."""
    vram_bytes: int | None = None
    """The part of that which is in the graphics card's memory."""
    context_length: int | None = None
    """With which it was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(_Strict):
    """What the run was asked to do; headers by their names only."""

    workloads: tuple[str, ...]
    """In the order in which they ran."""
    runs: int
    """Of each workload on each side."""
    seconds: float | None
    """After which a workload began no further run; null: no such limit."""
    concurrency: int
    """Calls at the same time, where the workload does not say itself."""
    seed: int
    """Of the prompts: the same seed gives the same prompts."""
    prompts: str
    """`built-in`, or the name of the file that they were taken from, without its folder."""
    num_predict: int | None
    """Tokens that each call asked for at most; null: as many as the model gives."""
    header_names: tuple[str, ...]
    """Names of the headers that were sent along. Their values are in no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts(_Strict):
    """Where the time to the first token went. What is not known is null."""

    queue_s: float | None = None
    """Waiting for a place."""
    load_s: float | None = None
    """Loading the model, or waiting for a load."""
    prompt_s: float | None = None
    """Reading the prompt."""
    proxy_s: float | None = None
    """The proxy's own work."""
    other_s: float | None = None
    """The rest: the network, and what nobody has told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(_Strict):
    """One call."""

    run: int
    """In which run of its workload, from 1."""
    call: int
    """Which of its side's calls in that run, from 1; the excluded ones are not numbered and have 0."""
    t_start_s: float
    """When it was sent, in seconds since the whole run began."""
    ttft_s: float | None
    """From sending it to its first token, as the client sees it; null where none came."""
    total_s: float | None
    """From sending it to the end of the answer; null where it did not end well."""
    tokens: int
    """In the answer, as Ollama counts them."""
    prompt_tokens: int | None
    """In the prompt, as Ollama counts them; null where it does not say. A part that it still knew is not counted."""
    parts: Parts | None = None
    """Null where nothing is known about them."""
    cold: bool = False
    """The model was loaded for it."""
    excluded: str = ""
    """Why it is in no figure, as `warm-up`; empty: it counts."""
    error: str | None = None
    """What came instead of an answer; such a call is in no figure of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(_Strict):
    """A figure, and the interval that holds the true one with 95 % confidence."""

    value: float
    """Of these samples."""
    low: float | None
    """Null where there are fewer than five samples."""
    high: float | None
    """Null where there are fewer than five samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(_Strict):
    """Some durations, in seconds. Percentiles are interpolated between the two nearest samples."""

    count: int
    """Samples that it is made of."""
    mean_s: Estimate
    """Their mean."""
    p50_s: Estimate
    """The median: half of them are below."""
    p90_s: Estimate
    """90 of 100 are below."""
    p95_s: Estimate
    """95 of 100 are below."""
    min_s: float
    """The shortest."""
    max_s: float
    """The longest."""
    variance_percent: Estimate
    """Standard deviation (divided by n) as a percentage of the mean: the same as `stddev_percent` of `/stats`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position(_Strict):
    """The mean first token of all first calls, all second ones, and so on."""

    call: int
    """Which call of a run."""
    ttft_s: Estimate
    """Mean over the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures(_Strict):
    """What the samples of one side come to; null where no sample says anything about it."""

    ttft: Summary | None
    """Time to first token."""
    total: Summary | None
    """Time to the end of the answer."""
    tokens_per_s: Estimate | None
    """Tokens after the first, of all calls together, divided by the time that they took."""
    parts: Parts | None
    """Mean parts of the first token, over the calls whose parts are known."""
    positions: tuple[Position, ...]
    """The 1st, 2nd and 10th call of the runs; empty where a run has one call."""
    calls: int
    """That count, answered or not."""
    cold: int
    """Of these, how many had the model loaded for them."""
    errors: int
    """Of these, how many were not answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(_Strict):
    """One workload on one side; without samples where there was no such side."""

    samples: tuple[Sample, ...]
    """In the order in which they were sent; the excluded ones too."""
    loads: int | None
    """Of models that calls had to wait for, as `load_duration` tells; null where they could not be counted."""
    figures: Figures
    """What the samples come to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio(_Strict):
    """How many times sooner the first token comes by way of the proxy: direct divided by proxied; below 1, later."""

    mean: Estimate
    """Of the means."""
    p50: Estimate
    """Of the medians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(_Strict):
    """One target, and whether it was met: by way of the proxy where there is one."""

    what: str
    """The figure that is judged, in words."""
    limit: float
    """It has to be below this."""
    unit: str
    """Of `limit` and `value`."""
    value: float | None
    """What was measured; null: nothing was."""
    verdict: Verdict
    """`unknown` where there is no value."""


def target(what: str, limit: float, unit: str, value: float | None) -> Target:
    """Judge a figure: it has to be below the limit."""
    verdict: Verdict = "unknown" if value is None else "pass" if value < limit else "fail"
    return Target(what=what, limit=limit, unit=unit, value=value, verdict=verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(_Strict):
    """One kind of use, on both sides in turn."""

    name: str
    """As in `--workload`."""
    description: str
    """What the calls are."""
    excluded: str
    """Which calls are in no figure, and why."""
    direct: Side
    """Without the proxy."""
    via: Side
    """By way of the proxy."""
    ratio: Ratio | None
    """Null where one side has no first token."""
    targets: tuple[Target, ...]
    """Those that are judged by this workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult(_Strict):
    """One model of `--models`."""

    model: ModelInfo
    """Which one."""
    samples: tuple[Sample, ...]
    """In the order in which they were sent; the excluded ones too."""
    load_s: Estimate | None
    """The part `load` of the cold calls."""
    prompt_tokens_per_s: Estimate | None
    """Tokens of the prompts that were read, divided by the part `prompt`; of long prompts, where there were any."""
    ttft_cold: Summary | None
    """First token of the calls for which the model was loaded."""
    ttft_warm: Summary | None
    """First token of the others."""
    total: Summary | None
    """Time to the end of the answer, warm."""
    tokens_per_s: Estimate | None
    """Tokens after the first, divided by the time that they took."""
    targets: tuple[Target, ...]
    """Those that make up the goal."""
    error: str | None = None
    """Why it could not be measured, or not wholly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelComparison(_Strict):
    """Models beside each other, on one server."""

    goal: str
    """What was asked of them, in words."""
    models: tuple[ModelResult, ...]
    """In the order in which they were named."""
    recommended: str | None
    """Name of the model to take; null where none meets the goal."""
    reason: str
    """Why, in a sentence; where none meets it, what to try instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(_Strict):
    """A whole run."""

    schema: Literal["pilotlight.bench/1"] = SCHEMA
    """Of this file. Another one is refused."""
    started_at: str
    """UTC, as in 2026-11-26T08:15:00Z."""
    duration_s: float
    """Of the whole run."""
    interrupted: bool
    """It was stopped early (Ctrl-C), and holds what had been measured until then."""
    pilotlight_version: str
    """Of the program that measured."""
    machine: Machine
    """On which it ran."""
    direct: Server
    """Where the direct calls went."""
    via: Server | None
    """Where the proxied calls went; null where there were none: models were compared, or one side was measured."""
    model: ModelInfo | None
    """Of the workloads; null where models were compared."""
    settings: Settings
    """What it was asked to do."""
    workloads: tuple[Workload, ...]
    """Empty where models were compared."""
    models: ModelComparison | None
    """Null where workloads were measured."""
    notes: tuple[str, ...] = ()
    """What the reader should know, a sentence each, as that loads could not be counted."""


PARTS: Final = ("queue", "load", "prompt", "proxy", "other")


@functools.cache
def _adapter() -> TypeAdapter[Run]:
    # Made once, and only where results are read: it costs some milliseconds.
    return TypeAdapter(Run)


def to_json(run: Run) -> bytes:
    """The file: indented, with a last line's end. What a server said must not keep a run from being written."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        return orjson.dumps(run, option=option)
    except TypeError:
        # Half of a surrogate pair, or a count beyond 64 bits: JSON allows both, and files of ours do not.
        return orjson.dumps(_writable(dataclasses.asdict(run)), option=option)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _writable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(part) for part in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value if isinstance(value, bool) else max(-_LARGEST, min(value, _LARGEST))
    return value


def json_schema() -> dict[str, Any]:
    """The schema of the file, as JSON Schema 2020-12."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA, **_adapter().json_schema()}


def from_json(text: bytes, name: str) -> Run:
    """Read a file's content.

    Args:
        text: All of it.
        name: Of the file, for the message.

    Raises:
        ResultsError: It is not JSON, of another schema, or a field is unknown, missing or of the wrong kind.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ResultsError(f"{name}: not JSON: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        told = f"schema {_short(schema)}" if schema is not None else "no schema"
        raise ResultsError(f"{name}: has {told}; results that this version reads have schema {_short(SCHEMA)}")
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        raise ResultsError(f"{name}: {_explain(error)}") from None


def read(path: Path) -> Run:
    """Read a file of results.

    Raises:
        ResultsError: It cannot be read, or is no such file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror or error}") from None
    return from_json(text, str(path))


_KINDS: Final = {"unexpected_keyword_argument": "unknown field", "missing": "is missing"}


def _explain(error: ValidationError) -> str:
    """The first finding, with the field's place in the file."""
    first, *more = error.errors(include_url=False)
    kind = _KINDS.get(first["type"])
    if kind is None:
        wanted = first["msg"].removeprefix("Input ").replace("should", "must", 1)
        kind = f"{_short(first['input'])} {wanted[:1].lower()}{wanted[1:]}"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {kind}" + (f" (and {len(more)} more)" if more else "")


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
