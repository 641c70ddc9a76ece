"""Look at a running Ollama, and at what stands in front of it. All I/O of the doctor starts here; it decides nothing.

Nothing is loaded and nothing is changed, except where it is said: a short stream is asked of a model that is loaded
already (its ``keep_alive`` timer begins anew, as with any request), or of the one that the operator names.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proxy.bench.first_token import MeasureError, measure
from proxy.doctor.contact import ANSWER_S, contact, read, stamping
from proxy.doctor.facts import (
    VARIABLES,
    Admin,
    Described,
    Observed,
    Reached,
    Snapshot,
    Stamp,
    Stream,
    context_bytes,
)
from proxy.doctor.server import FOREIGN_HOST
from proxy.errors import PilotlightError
from proxy.observe.row import printable
from proxy.rewrite.facts import facts_from_show
from proxy.settings.sources import ollama_variable
from proxy.upstream.ollama import Ollama, RunningModel
from proxy.wire.names import canonical, is_cloud

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from proxy.settings import Settings

_LOOK_EVERY_S: Final = 0.5
_MOST_SHOWN: Final = 40
_MOST_AT_ONCE: Final = 16
_LEAST_AT_ONCE: Final = 4
_TEXT: Final = 300
_RELOADS: Final = "pilotlight_model_reloads"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator asked for, beside the settings.

    Attributes:
        via: URL of what stands in front of Ollama.
        model: Stream from this one, loaded or not.
        headers: Sent to the upstream, to ``via`` and to the admin port.
        vram_bytes: What the GPU has.
        streams: Whether a short stream may be asked for.
        tokens: Length of a stream.
        watch_s: How long ``/api/ps`` is watched.
        measures: Whether it is measured how many streams run at once.
        names_admin: The admin port was named, so that it should be there.
    """

    via: str | None = None
    model: str | None = None
    headers: Mapping[str, str] | None = None
    vram_bytes: int | None = None
    streams: bool = True
    tokens: int = 32
    watch_s: float = 0.0
    measures: bool = False
    names_admin: bool = False


async def gather(settings: Settings, environ: Mapping[str, str], asked: Asked, tell: Callable[[str], None]) -> Observed:
    """Look, and say what is looked at before doing it.

    Args:
        settings: The upstream, the admin port, the models that are kept.
        environ: Of this process.
        asked: What else.
        tell: Is told each step.

    Returns:
        What was seen. What could not be reached is part of it, and no error.
    """
    ollama_environ = {name: value for name in VARIABLES if (value := ollama_variable(environ, name))}
    stamps: list[Stamp] = []
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.upstream.connect_timeout_s)
    url = settings.upstream.url.rstrip("/")
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=asked.headers, cookie_jar=aiohttp.DummyCookieJar()) as session,
        aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as bare,
        aiohttp.ClientSession(
            timeout=timeout,
            headers=asked.headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[stamping(stamps)],
        ) as upstream,
    ):
        tell(f"asking {url} what it is")
        observed = Observed(
            settings,
            ollama_environ,
            await contact(upstream, f"{url}/api/version"),
            now=time.time(),
            vram_bytes=asked.vram_bytes,
            stamps=stamps,
            admin_is_asked=asked.names_admin,
        )
        if asked.via is not None:
            tell(f"asking {asked.via} the same")
            observed.via = await contact(session, f"{asked.via.rstrip('/')}/api/version")
        tell(f"looking for Pilotlight's admin port at {settings.admin}")
        observed.admin = await _admin(session, f"http://{settings.admin}")
        if observed.is_ollama:
            tell(f"asking {url} with `Host: {FOREIGN_HOST}`, to see to whom it answers")
            observed.foreign_host = await contact(bare, f"{url}/api/version", {"Host": FOREIGN_HOST})
            await _describe(observed, Ollama(upstream, url), tell)
            await _stream(observed, session, Ollama(upstream, url), asked, tell)
            await _watch(observed, Ollama(upstream, url), asked.watch_s, tell)
    return observed


# --- what Ollama has


async def _describe(observed: Observed, ollama: Ollama, tell: Callable[[str], None]) -> None:
    tell("asking what is loaded (/api/ps) and stored (/api/tags)")
    observed.running = await _running(observed, ollama)
    observed.now = time.time()
    try:
        observed.stored = tuple(await ollama.tags())
    except PilotlightError as error:
        observed.troubles["/api/tags"] = printable(error.message, _TEXT)
    first = [row.name for row in observed.running or ()] + [model.name for model in observed.settings.models]
    names = dict.fromkeys(canonical(name) for name in [*first, *(entry.name for entry in observed.stored or ())])
    local = [name for name in names if not is_cloud(name)]
    asked, observed.undescribed = local[:_MOST_SHOWN], max(0, len(local) - _MOST_SHOWN)
    if asked:
        tell(f"asking what {len(asked)} models are (/api/show)")
    for name in asked:
        try:
            show = await ollama.show(name)
        except PilotlightError as error:
            observed.troubles["/api/show"] = printable(f"{name}: {error.message}", _TEXT)
            return
        if show is not None:
            info = show.get("model_info")
            described = Described(
                facts_from_show(name, "", show), context_bytes(info if isinstance(info, dict) else {})
            )
            observed.described[name] = described


async def _running(observed: Observed, ollama: Ollama) -> tuple[RunningModel, ...] | None:
    try:
        return tuple(await ollama.ps())
    except PilotlightError as error:
        observed.troubles["/api/ps"] = printable(error.message, _TEXT)
        return None


# --- short streams


async def _stream(
    observed: Observed, session: aiohttp.ClientSession, ollama: Ollama, asked: Asked, tell: Callable[[str], None]
) -> None:
    model = _to_stream(observed, asked)
    if model is None:
        return
    url, count = observed.settings.upstream.url.rstrip("/"), asked.tokens
    observed.was_loaded = observed.row(model) is not None
    state = (
        "it is loaded; its keep_alive timer begins anew"
        if observed.was_loaded
        else "it is not loaded: this LOADS it, and may push another out"
    )
    tell(f"streaming {count} tokens from {model} directly ({state})")
    observed.direct = await _timed(session, url, observed, model, count, 1)
    rows = await _running(observed, ollama)
    if rows is not None:
        observed.after = Snapshot(time.time(), rows)
        if not observed.was_loaded:
            observed.running, observed.now = rows, observed.after.at
    if asked.via is not None and observed.via is not None and observed.via.reached is Reached.ANSWERED:
        tell(f"streaming {count} tokens from {model} through {asked.via}")
        observed.through = await _timed(session, asked.via.rstrip("/"), observed, model, count, 2)
    if asked.measures and observed.direct.measured is not None:
        at_once = min(_MOST_AT_ONCE, max(_LEAST_AT_ONCE, observed.settings.scheduler.parallel + 1))
        tell(f"streaming {count} tokens from {model} {at_once} times at once, directly")
        streams = await asyncio.gather(
            *(_spanned(session, url, observed, model, count, 3 + index) for index in range(at_once))
        )
        observed.asked_at_once = at_once
        observed.spans = tuple(span for span in streams if span is not None)


def _to_stream(observed: Observed, asked: Asked) -> str | None:
    """The model to stream from: the one that was named, else the first that is loaded and writes."""
    if not asked.streams:
        observed.why_no_stream = "switched off (--no-stream)"
        return None
    if asked.model is not None:
        return asked.model
    for row in observed.running or ():
        found = observed.described.get(canonical(row.name))
        if found is None or "completion" in found.facts.capabilities:
            return row.name
    observed.why_no_stream = "no model that writes is loaded (--model NAME takes one, and loads it)"
    return None


def _body(observed: Observed, model: str, tokens: int, number: int) -> dict[str, Any]:
    # Each one differs from the beginning on, so that none finds its prompt read already.
    question = f"{number}. Count from {number} to one hundred, in words, and say nothing else."
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "options": {**_loaded_options(observed, model), "num_predict": tokens},
        "stream": True,
    }


def _loaded_options(observed: Observed, model: str) -> dict[str, Any]:
    """What it is loaded with, as far as can be seen: without it, Ollama would load the model anew.

    ``/api/ps`` shows the context only; the rest of the set is known to a proxy of ours. ``num_gpu`` is left out, which
    never counts as different (v0.24.0, server/sched.go, ``needsReload``).
    """
    row = observed.row(model)
    if row is None:
        return {}
    options: dict[str, Any] = {}
    for known in observed.admin.models if observed.admin is not None else ():
        current = known.get("options")
        if known.get("weights") == observed.weights(model) and isinstance(current, dict):
            options = {name: value for name, value in current.items() if name != "num_gpu"}
    return {**options, "num_ctx": row.context_length} if row.context_length else options


async def _timed(
    session: aiohttp.ClientSession, base: str, observed: Observed, model: str, tokens: int, number: int
) -> Stream:
    url = f"{base}/api/chat"
    try:
        measured = await measure(session, url, _body(observed, model, tokens, number))
    except MeasureError as error:
        return Stream(url, model, error=printable(str(error), _TEXT))
    return Stream(url, model, measured)


async def _spanned(
    session: aiohttp.ClientSession, base: str, observed: Observed, model: str, tokens: int, number: int
) -> tuple[float, float] | None:
    """When a stream had its first token and its last but one; ``None`` where it was too short or failed."""
    began = time.monotonic()
    stream = await _timed(session, base, observed, model, tokens, number)
    if stream.measured is None or len(stream.measured.arrivals_s) < 3:
        return None
    arrivals = stream.measured.arrivals_s
    return began + arrivals[0], began + arrivals[-2]


async def _watch(observed: Observed, ollama: Ollama, watch_s: float, tell: Callable[[str], None]) -> None:
    if watch_s <= 0:
        return
    tell(f"watching what is loaded for {watch_s:g} s")
    looks: list[Snapshot] = []
    async for rows in _looks(observed, ollama, watch_s):
        looks.append(Snapshot(time.time(), rows))
    observed.watched = tuple(looks)


async def _looks(observed: Observed, ollama: Ollama, watch_s: float) -> AsyncIterator[tuple[RunningModel, ...]]:
    ends = time.monotonic() + watch_s
    while True:
        rows = await _running(observed, ollama)
        if rows is not None:
            yield rows
        left = ends - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(_LOOK_EVERY_S, left))


# --- Pilotlight


async def _admin(session: aiohttp.ClientSession, base: str) -> Admin:
    found = await contact(session, f"{base}/readyz")
    if found.body is None or "status" not in found.body:
        return Admin(found)
    models = (await contact(session, f"{base}/models")).body or {}
    requests = (await contact(session, f"{base}/requests?limit=200")).body or {}
    return Admin(
        found,
        models=_rows(models.get("models")),
        requests=_rows(requests.get("requests")),
        reloads=await _reloads(session, f"{base}/metrics"),
    )


def _rows(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


async def _reloads(session: aiohttp.ClientSession, url: str) -> dict[tuple[str, str], float]:
    try:
        async with asyncio.timeout(ANSWER_S), session.get(url) as reply:
            page = (await read(reply)).decode()
        return {
            (printable(sample.labels.get("model", "")), printable(sample.labels.get("cause", ""))): sample.value
            for family in text_string_to_metric_families(page)
            if family.name == _RELOADS
            for sample in family.samples
            if sample.name == f"{_RELOADS}_total"
        }
    except (aiohttp.ClientError, OSError, ValueError):
        return {}
