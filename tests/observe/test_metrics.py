from __future__ import annotations

import asyncio
import json
import math
import random
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.metrics import Metrics
from proxy.observe.timeline import Outcome, Phase, Timeline, ttft_s
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Iterable

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"


def read(metrics: Metrics) -> Series:
    page, _ = metrics.encode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset(labels.items())))


def labels_of(metrics: Metrics, label: str) -> set[str]:
    return {dict(labels)[label] for _, labels in read(metrics) if label in dict(labels)}


def call(model: str = "llama3.2:3b", **marks: object) -> Timeline:
    values: dict[str, object] = {
        "received": 100.0,
        "model": model,
        "sent": 100.25,
        "first_byte": 101.0,
        "token_read": 102.0,
        "first_token": 102.25,
        "finished": 104.0,
        "status": 200,
        "load_duration_s": 0.0625,
        "prompt_eval_duration_s": 0.5,
        "eval_duration_s": 1.0,
        "prompt_eval_count": 11,
        "eval_count": 20,
        "done_reason": "stop",
        **marks,
    }
    return Timeline("id", "api_chat", Family.API, "/api/chat", "POST", **values)  # type: ignore[arg-type]


def finish(metrics: Metrics, calls: Iterable[Timeline]) -> None:
    for t in calls:
        metrics.call_started(t.endpoint)
        metrics.call_finished(t)


def test_a_finished_call_is_in_every_family_that_tells_of_it() -> None:
    metrics = Metrics(["llama3.2:3b"])

    finish(metrics, [call()])

    model = {"model": "llama3.2:3b"}
    assert value(metrics, "llm_calls_total", endpoint="api_chat", status="ok", **model) == 1
    assert value(metrics, "llm_call_duration_seconds_sum", **model) == 4.0
    assert value(metrics, "llm_time_to_first_token_seconds_sum", start="warm", **model) == 2.25
    assert value(metrics, "llm_time_to_first_byte_seconds_sum", endpoint="api_chat") == 1.0
    assert value(metrics, "llm_time_per_output_token_seconds_sum", **model) == 0.05
    assert value(metrics, "llm_tokens_total", type="input", **model) == 11
    assert value(metrics, "llm_tokens_total", type="output", **model) == 20
    assert value(metrics, "llm_request_tokens_sum", type="output") == 20
    assert value(metrics, "llm_load_duration_seconds_sum", **model) == 0.0625
    assert value(metrics, "llm_prompt_eval_duration_seconds_sum", **model) == 0.5
    assert value(metrics, "llm_finished_total", reason="stop") == 1
    assert value(metrics, "pilotlight_overhead_seconds_sum", phase="request") == 0.25
    assert value(metrics, "pilotlight_overhead_seconds_sum", phase="first_chunk") == 0.25
    assert value(metrics, "llm_calls_in_progress", endpoint="api_chat") == 0


def test_the_sums_of_the_parts_are_the_sum_of_the_whole() -> None:
    metrics = Metrics(["llama3.2:3b"])
    rng = random.Random(7)
    calls = [
        call(
            sent=100 + rng.random(),
            first_token=102.25 + rng.random() * 30,
            load_wait_s=rng.choice([0.0, 0.3]),
            load_duration_s=rng.choice([None, 0.001, 2.0]),
        )
        for _ in range(50)
    ]

    finish(metrics, calls)

    series = read(metrics)
    parts = sum(found for (name, _), found in series.items() if name == "llm_time_to_first_token_part_seconds_sum")
    whole = sum(found for (name, _), found in series.items() if name == "llm_time_to_first_token_seconds_sum")
    assert parts == whole == math.fsum(filter(None, map(ttft_s, calls)))
    name, model = "llm_time_to_first_token_part_seconds_count", ("model", "llama3.2:3b")
    counts = {found for (key, labels), found in series.items() if key == name and model in labels}
    assert counts == {50.0}


def test_a_call_without_a_token_has_no_first_token() -> None:
    metrics = Metrics(["llama3.2:3b"])

    finish(metrics, [call(first_token=None, token_read=None, outcome=Outcome.CANCELLED, status=499)])

    assert value(metrics, "llm_time_to_first_token_seconds_count", model="llama3.2:3b", start="warm") == 0
    assert value(metrics, "llm_calls_total", model="llama3.2:3b", endpoint="api_chat", status="cancelled") == 1
    assert value(metrics, "llm_finished_total", reason="stop") == 0


def test_the_five_required_names_and_those_of_the_first_token_are_there_from_the_start() -> None:
    names = {name for name, _ in read(Metrics(["llama3.2:3b"]))}

    assert {
        "llm_calls_total",
        "llm_call_duration_seconds_bucket",
        "cache_hits_total",
        "cache_misses_total",
        "batch_processor_queue_size",
        "llm_time_to_first_token_seconds_bucket",
        "llm_time_to_first_token_part_seconds_bucket",
        "process_resident_memory_bytes",
        "python_gc_collections_total",
        "pilotlight_build_info",
    } <= names


def test_no_created_series_are_shown() -> None:
    metrics = Metrics(["llama3.2:3b"])
    finish(metrics, [call()])

    assert b"_created" not in metrics.encode()[0]
    assert b"_created" not in metrics.encode(OPENMETRICS)[0]


def test_applications_do_not_share_counts() -> None:
    one, other = Metrics(["a"]), Metrics(["a"])

    finish(one, [call("a")])

    assert value(one, "llm_finished_total", reason="stop") == 1
    assert value(other, "llm_finished_total", reason="stop") == 0


def test_goals_are_bucket_boundaries() -> None:
    series = read(Metrics(["llama3.2:3b"]))

    edges = {dict(labels)["le"] for name, labels in series if name == "llm_time_to_first_token_seconds_bucket"}
    assert {"0.5", "2.0"} <= edges


def test_a_trace_becomes_an_exemplar_only_where_there_was_one() -> None:
    metrics = Metrics(["llama3.2:3b"])
    finish(metrics, [call()])
    assert b"trace_id" not in metrics.encode(OPENMETRICS)[0]

    finish(metrics, [call(trace_id="4bf92f3577b34da6a3ce929d0e0e4736")])

    page, content_type = metrics.encode(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    found = [
        sample.exemplar.labels
        for family in parse_openmetrics(page.decode())
        for sample in family.samples
        if family.name == "llm_time_to_first_token_seconds" and sample.exemplar
    ]
    assert found == [{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}]


# --- labels ---


def test_a_model_that_nobody_knows_is_other_and_counted() -> None:
    metrics = Metrics(["llama3.2:3b"])

    finish(metrics, [call("ghost")])

    assert value(metrics, "llm_calls_total", model="other", endpoint="api_chat", status="ok") == 1
    assert value(metrics, "pilotlight_label_overflow_total", label="model") == 1


def test_spellings_of_one_model_are_one_label() -> None:
    metrics = Metrics(["llama3.2"])

    finish(metrics, [call(name) for name in ("llama3.2", "LLAMA3.2:latest", "registry.ollama.ai/library/llama3.2")])

    assert value(metrics, "llm_calls_total", model="llama3.2:latest", endpoint="api_chat", status="ok") == 3


def test_a_name_that_got_a_404_is_no_label_even_if_known() -> None:
    metrics = Metrics()
    metrics.know_models(["gone"])

    finish(metrics, [call("gone", status=404, outcome=Outcome.CLIENT_ERROR, first_token=None)])

    assert labels_of(metrics, "model") == {"other"}
    assert value(metrics, "pilotlight_label_overflow_total", label="model") == 1


def test_at_most_twenty_models_have_series_of_their_own() -> None:
    metrics = Metrics(["kept"])
    metrics.know_models(f"m{n}" for n in range(100))

    finish(metrics, [call(f"m{n}") for n in range(100)])

    assert len(labels_of(metrics, "model") - {"other"}) == 20
    assert value(metrics, "pilotlight_label_overflow_total", label="model") == 81


def test_configured_models_have_their_label_also_when_they_are_many() -> None:
    names = [f"m{n}" for n in range(30)]
    metrics = Metrics(names)

    finish(metrics, [call(name) for name in names])

    assert labels_of(metrics, "model") == {f"m{n}:latest" for n in range(30)} | {"other"}


def test_series_of_a_vanished_model_go_and_make_room() -> None:
    metrics = Metrics(["kept"], model_limit=2)
    metrics.know_models(["a", "b"])
    metrics.running([("a", 100, 100, None)])
    metrics.reload("a", "options")
    metrics.model_failed("a", "missing")
    finish(metrics, [call("a"), call("b")])
    assert labels_of(metrics, "model") == {"kept:latest", "a:latest", "other"}

    metrics.forget_models(["a", "kept"])
    finish(metrics, [call("b")])

    assert labels_of(metrics, "model") == {"kept:latest", "b:latest", "other"}
    metrics.running([])


HOSTILE = [
    'x"} 1\nllm_calls_total{model="evil',
    "new\nline",
    "nul\x00",
    "\x1b[31mred",
    "\udcff\ud800",
    "x" * 100_000,
    "{}",
    "\\",
    "",
    "другое",
    "../../etc/passwd",
    "other",
]


def test_ten_thousand_hostile_names_add_no_series() -> None:
    metrics = Metrics(["llama3.2:3b", "qwen3:8b", "nomic-embed-text"])
    rng = random.Random(3)
    names = [*HOSTILE, *("".join(chr(rng.randrange(1, 0x3000)) for _ in range(20)) for _ in range(10_000))]
    before = len(read(metrics))

    for name in names:
        finish(metrics, [call(name)])
        finish(metrics, [call(name, status=404, outcome=Outcome.CLIENT_ERROR)])
        metrics.chunk_gaps(name)([0.0, 0.01], None)
        metrics.http_request("/api/tags", name, 200)
        metrics.upstream_error(name)
        metrics.disconnect(name)
        metrics.rewrite(name, True)
        metrics.reload(name, name)
        metrics.reload_avoided(name, name)
        metrics.preload(name, name)
        metrics.model_failed(name, name)
        metrics.prompt_cut(name)
        metrics.cache_lookup(name, True)
        metrics.overhead(name, 0.1)
        metrics.queue.waiting(name, 1)
        metrics.queue.waited(name, 0.1)
        metrics.queue.rejected(name)
        metrics.queue.bypassed(name)
        metrics.queue.evicted(name)
        metrics.tokens_read(name, 3)
        metrics.incomplete(name)
        metrics.call_started(name)

    page, _ = metrics.encode()
    series = read(metrics)
    assert len(series) < before + 60
    assert len(page) <= 256 * 1024
    assert labels_of(metrics, "model") == {"llama3.2:3b", "qwen3:8b", "nomic-embed-text:latest", "other"}
    assert labels_of(metrics, "endpoint") <= {"other", "api_chat", "api_generate", "api_embed", "v1_chat",
        "v1_completions", "v1_responses", "v1_messages", "v1_embeddings"}  # fmt: skip
    assert b"evil" not in page
    assert sys.getsizeof(repr(metrics)) < 1000


def test_hostile_names_in_tags_do_not_break_the_page() -> None:
    metrics = Metrics()
    metrics.know_models(HOSTILE)
    metrics.running([(name, 1, 1, math.inf) for name in HOSTILE])

    finish(metrics, [call(name) for name in HOSTILE])

    read(metrics)
    list(parse_openmetrics(metrics.encode(OPENMETRICS)[0].decode()))


def test_routes_are_bounded_too() -> None:
    metrics = Metrics()

    for n in range(10_000):
        metrics.http_request(f"/made/up/{n}", "GET", 200)

    assert len(labels_of(metrics, "route")) <= 65
    assert (value(metrics, "pilotlight_label_overflow_total", label="route") or 0) > 9_000


@pytest.mark.parametrize(("status", "expected"), [(200, "2xx"), (404, "4xx"), (499, "499"), (502, "5xx"), (0, "5xx")])
def test_other_requests_are_counted_by_class(status: int, expected: str) -> None:
    metrics = Metrics()

    metrics.http_request("/api/tags", "GET", status)

    assert value(metrics, "pilotlight_http_requests_total", route="/api/tags", method="GET", code_class=expected) == 1


# --- gauges ---


def test_what_is_running_is_shown_and_what_ceased_is_not() -> None:
    metrics = Metrics(["kept"])
    metrics.running([("kept", 200, 150, 1_800_000_000.0), ("guest", 10, 10, None)])

    assert value(metrics, "pilotlight_model_loaded", model="kept:latest") == 1
    assert value(metrics, "pilotlight_model_vram_bytes", model="kept:latest") == 150
    assert value(metrics, "pilotlight_model_size_bytes", model="kept:latest") == 200
    assert value(metrics, "pilotlight_model_expires_timestamp_seconds", model="kept:latest") == 1_800_000_000
    assert value(metrics, "pilotlight_model_loaded", model="guest:latest") == 1

    metrics.running([("guest", 10, 10, None)])

    assert value(metrics, "pilotlight_model_loaded", model="kept:latest") == 0
    assert value(metrics, "pilotlight_model_vram_bytes", model="kept:latest") is None
    assert value(metrics, "pilotlight_model_expires_timestamp_seconds", model="kept:latest") is None


def test_a_failed_model_has_one_reason_until_it_is_taken_back() -> None:
    metrics = Metrics(["kept"])
    metrics.model_failed("kept", "missing")
    metrics.model_failed("kept", "does_not_fit")

    assert value(metrics, "pilotlight_model_failed", model="kept:latest", reason="does_not_fit") == 1
    assert value(metrics, "pilotlight_model_failed", model="kept:latest", reason="missing") is None

    metrics.model_failed("kept", "")

    assert value(metrics, "pilotlight_model_failed", model="kept:latest", reason="does_not_fit") is None


def test_a_failed_model_that_is_loaded_after_all_has_not_failed() -> None:
    metrics = Metrics(["kept", "loser"])
    metrics.model_failed("kept", "out_of_memory")
    metrics.model_failed("loser", "does_not_fit")

    metrics.running([("kept", 1, 1, None), ("loser", 1, 1, None)])

    assert value(metrics, "pilotlight_model_failed", model="kept:latest", reason="out_of_memory") is None
    assert value(metrics, "pilotlight_model_failed", model="loser:latest", reason="does_not_fit") == 1


def test_a_kept_model_is_in_one_state_and_one_that_is_kept_no_more_in_none() -> None:
    metrics = Metrics(["kept", "dropped"])
    metrics.model_states({"kept": "loading", "dropped": "lost"})
    assert value(metrics, "pilotlight_model_state", model="dropped:latest", state="lost") == 1
    metrics.model_states({"kept:latest": "resident"})

    states = {
        dict(labels)["state"]: v for (name, labels), v in read(metrics).items() if name == "pilotlight_model_state"
    }
    assert states == {"absent": 0, "loading": 0, "resident": 1, "lost": 0, "failed": 0, "released": 0}
    assert value(metrics, "pilotlight_model_state", model="kept:latest", state="resident") == 1


def test_gaps_are_observed_for_the_model() -> None:
    metrics = Metrics(["kept"])
    metrics.know_models(["guest"])

    for model in ("kept", "guest", "ghost"):
        add = metrics.chunk_gaps(model)
        add([1.0], None)
        add([1.25, 1.255], 1.0)

    for label in ("kept:latest", "guest:latest", "other"):
        assert value(metrics, "llm_inter_chunk_latency_seconds_sum", model=label) == pytest.approx(0.255)
        assert value(metrics, "llm_inter_chunk_latency_seconds_count", model=label) == 2
        assert value(metrics, "llm_inter_chunk_latency_seconds_bucket", model=label, le="0.01") == 1
        assert value(metrics, "llm_inter_chunk_latency_seconds_bucket", model=label, le="0.3") == 2


def test_asking_for_gaps_makes_no_series() -> None:
    metrics = Metrics()
    metrics.know_models(["gone"])

    metrics.chunk_gaps("gone")

    assert labels_of(metrics, "model") == {"other"}


def test_the_relays_own_events_are_counted() -> None:
    metrics = Metrics(["kept"])
    metrics.upstream_up(True)
    metrics.upstream_error("reset")
    metrics.upstream_retry(ok=True)
    metrics.connections(idle=3, busy=1)
    metrics.cache_lookup("show", hit=False)
    metrics.disconnect(Phase.STREAMING)
    metrics.rewrite(9, applied=True)
    metrics.rewrite("keep_alive", applied=False)
    metrics.queue.waiting("normal", 2)
    metrics.queue.waiting("normal", -1)
    metrics.queue.capacity(512)
    metrics.queue.waited("batch", 0.25)
    metrics.queue.rejected("timeout")
    metrics.queue.slots(2, 1)
    metrics.queue.bypassed("tools")
    metrics.queue.answers(3, 4096)
    metrics.queue.evicted("ttl")
    metrics.queue.know_fallbacks(["second:11434"])
    metrics.queue.fell_back("second:11434", True)
    metrics.queue.breaker("half_open")
    metrics.queue.shared()
    metrics.queue.batched(7)
    metrics.reload("kept", "evicted")
    metrics.reload_avoided("kept", "num_ctx")
    metrics.preload("kept", "ok")
    metrics.prompt_cut("kept")
    metrics.loop_lag(0.002)
    metrics.log_suppressed()

    expected = {
        ("pilotlight_upstream_up",): 1,
        ("pilotlight_upstream_errors_total", ("kind", "reset")): 1,
        ("pilotlight_upstream_retries_total", ("outcome", "ok")): 1,
        ("pilotlight_upstream_connections", ("state", "idle")): 3,
        ("cache_misses_total", ("cache", "show")): 1,
        ("pilotlight_client_disconnects_total", ("phase", "streaming")): 1,
        ("pilotlight_rewrites_total", ("rule", "generate_9"), ("action", "applied")): 1,
        ("pilotlight_rewrites_total", ("rule", "keep_alive"), ("action", "skipped")): 1,
        ("batch_processor_queue_size", ("priority", "normal")): 1,
        ("batch_processor_queue_capacity",): 512,
        ("batch_processor_wait_seconds_sum", ("priority", "batch")): 0.25,
        ("batch_processor_rejected_total", ("reason", "timeout")): 1,
        ("batch_processor_slots", ("state", "busy")): 2,
        ("batch_processor_slots", ("state", "free")): 1,
        ("cache_bypass_total", ("reason", "tools")): 1,
        ("cache_entries", ("cache", "response")): 3,
        ("cache_size_bytes", ("cache", "response")): 4096,
        ("cache_evictions_total", ("cache", "response"), ("reason", "ttl")): 1,
        ("pilotlight_fallback_total", ("provider", "second:11434"), ("result", "ok")): 1,
        ("pilotlight_fallback_total", ("provider", "second:11434"), ("result", "failed")): 0,
        ("pilotlight_upstream_breaker_open",): 1,
        ("pilotlight_shared_total",): 1,
        ("pilotlight_embed_batches_total",): 1,
        ("pilotlight_embed_batched_texts_total",): 7,
        ("pilotlight_model_reloads_total", ("model", "kept:latest"), ("cause", "evicted")): 1,
        ("pilotlight_reloads_avoided_total", ("model", "kept:latest"), ("option", "num_ctx")): 1,
        ("pilotlight_preloads_total", ("model", "kept:latest"), ("result", "ok")): 1,
        ("pilotlight_prompts_cut_total", ("model", "kept:latest")): 1,
        ("pilotlight_event_loop_lag_seconds_count",): 1,
        ("pilotlight_log_lines_suppressed_total",): 1,
    }
    series = read(metrics)
    assert {key: series[(key[0], frozenset(key[1:]))] for key in expected} == expected


def test_an_overview_has_what_is_under_way() -> None:
    metrics = Metrics()
    metrics.call_started("api_chat")
    metrics.call_started("made up")
    metrics.queue.waiting("normal", 1)
    metrics.cache_lookup("show", hit=True)
    metrics.cache_lookup("show", hit=False)
    metrics.cache_lookup("show", hit=False)

    assert metrics.overview() == {
        "queue": {"interactive": 0, "normal": 1, "batch": 0},
        "rejected": {"full": 0, "timeout": 0, "rate_limit": 0, "shutdown": 0},
        "cache": {"show": {"hits": 1, "misses": 2}, "response": {"hits": 0, "misses": 0}},
        "in_progress": 2,
    }


def test_an_incomplete_reply_is_counted_once() -> None:
    metrics = Metrics(["llama3.2:3b"])

    finish(metrics, [call(incomplete=True, outcome=Outcome.UPSTREAM_ERROR)])

    assert value(metrics, "pilotlight_incomplete_total", endpoint="api_chat") == 1


async def test_a_page_can_be_written_while_models_come_and_go() -> None:
    metrics = Metrics(["kept"])
    pages = [asyncio.create_task(asyncio.to_thread(metrics.encode)) for _ in range(4)]

    for n in range(200):
        metrics.know_models([f"m{n}"])
        finish(metrics, [call(f"m{n}"), call("kept")])
        metrics.forget_models([f"m{n}"])
        await asyncio.sleep(0)

    for page, _ in await asyncio.gather(*pages):
        assert list(text_string_to_metric_families(page.decode()))
    assert labels_of(metrics, "model") == {"kept:latest", "other"}


def test_label_values_survive_the_page() -> None:
    metrics = Metrics()
    metrics.http_request('/odd"\\path', "GET", 200)

    assert value(metrics, "pilotlight_http_requests_total", route='/odd"\\path', method="GET", code_class="2xx") == 1
    assert json.dumps(sorted(labels_of(metrics, "route")))
