"""``docs/metrics.md`` names every metric and every route of the admin port, and none that does not exist."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe import buckets, labels
from proxy.observe.families import Families
from proxy.observe.metrics import Metrics
from proxy.observe.recent import Recent
from proxy.observe.row import describe
from proxy.observe.stats import Stats
from proxy.observe.timeline import Outcome, Phase, Start, Timeline
from proxy.residency.catalogue import Catalogue
from proxy.residency.runner import State
from proxy.residency.service import Residency
from proxy.server.admin import PAGES, build_admin
from proxy.settings import KeptModel, Settings
from proxy.upstream.ollama import Ollama
from proxy.wire.routes import Family
from tests.peers import until
from tests.stage import MODEL, chat, staged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web
    from aiohttp.test_utils import TestClient

    from tests.peers import Answering, Seen

    Serve = Callable[[web.Application], Awaitable[TestClient[web.Request, web.Application]]]

PAGE = (Path(__file__).parent.parent.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
BUCKETS = {
    "TTFT": buckets.TTFT_S,
    "CHUNK": buckets.CHUNK_S,
    "CALL": buckets.CALL_S,
    "LOAD": buckets.LOAD_S,
    "WAIT": buckets.WAIT_S,
    "OVERHEAD": buckets.OVERHEAD_S,
    "TOKENS": buckets.TOKENS,
}
# Routes whose answer depends on others than this module, or is no JSON.
OPEN = {"/", "/pages", "/metrics"}


def rows(heading: str) -> list[list[str]]:
    """The body of the table below a heading."""
    _, _, section = PAGE.partition(f"\n{heading}\n")
    assert section, heading
    table = re.search(r"\n((?:\|.*\n)+)", section)
    assert table is not None, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


def quoted(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def example(path: str) -> Any:
    found = re.search(rf"\n### `{re.escape(path)}`\n(?:(?!\n### ).)*?```json\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"{path} has no example"
    return json.loads(found[1])


def shape(value: Any) -> Any:
    """Names without values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def test_the_table_of_metrics_is_what_is_built() -> None:
    registry = CollectorRegistry()
    built = {(family.name, family.kind, family.labels, family.buckets) for family in Families(registry).listing}

    written = {
        (quoted(name)[0], kind, quoted(names), BUCKETS[bucket] if bucket else ())
        for name, kind, names, bucket, _ in rows("## Metrics")
    }

    assert written == built
    assert all(meaning for *_, meaning in rows("## Metrics"))


def test_the_metrics_of_the_process_are_named() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    built = {sample.name for family in registry.collect() for sample in family.samples}

    assert set(re.findall(r"`((?:process|python)_\w+)`", PAGE)) == built


def test_the_page_of_an_application_has_no_metric_that_is_not_documented() -> None:
    page = Metrics(["llama3.2"]).encode()[0].decode()

    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in PAGE, name


def test_closed_lists_of_labels_are_written_out() -> None:
    built = {
        "endpoint": labels.ENDPOINTS,
        "status": tuple(Outcome),
        "start": tuple(Start),
        "part": ("queue", "load", "prompt", "proxy", "other"),
        "type": ("input", "output"),
        "reason of llm_finished_total": labels.DONE_REASONS,
        "reason of pilotlight_model_failed": labels.FAILURE_REASONS,
        "priority": labels.PRIORITIES,
        "cache": labels.CACHES,
        "reason of batch_processor_rejected_total": labels.REJECT_REASONS,
        "reason of cache_bypass_total": labels.BYPASS_REASONS,
        "reason of cache_evictions_total": labels.EVICTION_REASONS,
        "state of batch_processor_slots": labels.SLOT_STATES,
        "state of pilotlight_model_state": tuple(State),
        "kind": labels.ERROR_KINDS,
        "outcome": labels.RETRY_OUTCOMES,
        "state of pilotlight_upstream_connections": labels.CONNECTION_STATES,
        "result of pilotlight_preloads_total and pilotlight_fallback_total": labels.PRELOAD_RESULTS,
        "cause": labels.RELOAD_CAUSES,
        "option": labels.RUNNER_OPTIONS,
        "rule": labels.REWRITE_RULES,
        "action": labels.REWRITE_ACTIONS,
        "phase of pilotlight_client_disconnects_total": tuple(Phase),
        "phase of pilotlight_overhead_seconds": labels.OVERHEAD_PHASES,
        "code_class": labels.CODE_CLASSES,
    }

    written = {name.replace("`", ""): quoted(values) for name, values in rows("### Labels")}

    assert labels.PRELOAD_RESULTS == labels.FALLBACK_RESULTS
    assert tuple(State) == labels.MODEL_STATES
    assert set(written.pop("method")) == {*labels.METHODS, labels.OTHER}
    assert written == {name: tuple(str(value) for value in values) for name, values in built.items()}


def test_every_label_is_explained() -> None:
    explained = {quoted(name)[0] for name, _ in rows("### Labels")} | {"model", "route", "provider"}
    used = {label for family in Families(CollectorRegistry()).listing for label in family.labels}

    assert used - {"label", "version", "python", "aiohttp"} == explained


def test_buckets_are_written_as_they_are() -> None:
    written = {name: tuple(float(bound) for bound in bounds.split()) for name, bounds in rows("### Buckets")}

    assert written == {name: tuple(map(float, bounds)) for name, bounds in BUCKETS.items()}


def test_the_routes_of_the_admin_port_are_those_that_exist() -> None:
    assert re.findall(r"^### `(/\S*)`$", PAGE, re.MULTILINE) == [page.path for page in PAGES]


def call(**marks: Any) -> Timeline:
    values = {"model": "llama3.2:3b", "status": 200, "load_duration_s": 0.001, **marks}
    return Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 0.0, **values)


def full_call() -> Timeline:
    """A call of which everything is known, and to which everything happened."""
    t = call(first_token=1.0, first_answer=2.0, finished=3.0, prompt_eval_count=1, eval_count=1, eval_duration_s=1.0)
    t.done_reason, t.rule, t.injected, t.error_code, t.incomplete = "stop", 9, "keep_alive", "upstream_broken", True
    t.client_disconnect_phase, t.trace_id, t.reused, t.key = Phase.STREAMING, "4bf9", "shared", "phone"
    t.fallback = "10.0.0.2:11434"
    return t


async def test_examples_have_the_shape_of_the_answers(aiohttp_client: Serve) -> None:
    recent, stats = Recent(), Stats()
    recent.add(describe(full_call()), 1_800_000_000.0)
    stats.add("llama3.2:3b", call(first_token=0.15, finished=3.0, key="phone"))
    stats.add("llama3.2:3b", call(first_token=2.5, finished=3.0, load_wait_s=2.0))
    models, queue = example("/models")["models"], example("/queue")
    app = build_admin(
        metrics=Metrics(),
        recent=recent,
        stats=stats,
        is_ready=lambda: True,
        models=lambda: models,
        queue=lambda: queue,
    )
    client = await aiohttp_client(app)

    for page in PAGES:
        answer = await client.get(page.path)
        assert answer.status == 200
        if page.path in OPEN:
            continue
        if page.path == "/healthz":
            assert "Another name of `/readyz`" in PAGE
            continue
        assert shape(await answer.json()) == shape(example(page.path)), page.path


async def test_the_row_of_a_model_has_the_fields_of_the_example() -> None:
    settings = Settings(models=(KeptModel(name="llama3.2:3b"),))
    metrics = Metrics()
    async with aiohttp.ClientSession() as session:
        ollama = Ollama(session, "http://127.0.0.1:9")
        residency = Residency(settings, ollama, Catalogue(ollama, metrics), metrics)

        (row,) = residency.models()

    (written,) = example("/models")["models"]
    assert list(row) == list(written)
    assert written["state"] in tuple(State)


async def test_the_queue_has_the_fields_of_the_example() -> None:
    answers = asyncio.Event()

    async def script(seen: Seen, reply: Answering) -> None:
        await answers.wait()
        reply.json({"model": MODEL, "message": {"role": "assistant", "content": ""}, "done": True})

    async with staged(script, scheduler={"parallel": 1}) as stage, stage.client() as first, stage.client() as second:
        first.post("/api/chat", chat(stream=False))
        await until(lambda: stage.proxy.scheduler.running == 1)
        second.post("/api/chat", chat(stream=False))
        await until(lambda: stage.proxy.scheduler.queued == 1)
        _, page = await stage.page("/queue")
        answers.set()
        await first.answer()
        await second.answer()

    written = example("/queue")
    assert list(page) == list(written)
    assert [list(row) for row in page["waiting"]] == [list(row) for row in written["waiting"]]
    assert page["running"] == {f"{MODEL}:latest": 1}
    assert page["resident"] == [f"{MODEL}:latest"]


def test_fields_of_the_queue_are_explained() -> None:
    written = [name for cell, _ in rows("### `/queue`") for name in quoted(cell)]
    queue = example("/queue")

    assert set(written) == {*queue["waiting"][0], "running", "resident"} - {"model"}


def test_fields_of_a_request_are_explained() -> None:
    written = {name for cell, _ in rows("### `/requests`") for name in quoted(cell)}

    assert written <= set(example("/requests")["requests"][0])
