"""What is asked and written: calls, streams, queue, cache, limits."""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import GREEN, GREY, ORANGE, PURPLE, RED
from deploy.grafana.promql import INSTANCE, MODEL, quantile, rate, share, total
from deploy.grafana.series import PRIORITIES, STATUSES
from deploy.grafana.sources import Query

_ASKED: Final = f'{INSTANCE}, cache="response"'
_TOKENS: Final = "suffix: tok/s"


def traffic() -> Board:
    board = Board("pilotlight-traffic", "Pilotlight / Traffic", "Calls, tokens, queue, cache, limits.")
    _calls(board.row("Calls"))
    _tokens(board.row("Tokens and streams"))
    _queue(board.row("Queue"))
    _limits(board.row("Limits"))
    _cache(board.row("Cache and other reuse"))
    return board


def _calls(board: Board) -> None:
    duration = "llm_call_duration_seconds"
    board.graph(
        "By outcome",
        [Query(rate("llm_calls_total", MODEL, "status"), "{{status}}")],
        "reqps",
        "Calls per second by how they ended. upstream_error, timeout, rejected: Pilotlight / Itself and the runbook "
        "(PilotlightErrors). Many cancelled: clients lose patience, or stop what they do not want.",
        stacked=True,
        colours=STATUSES,
    ).graph(
        "By route",
        [Query(rate("llm_calls_total", MODEL, "endpoint"), "{{endpoint}}")],
        "reqps",
        "Calls per second by API. v1_responses, v1_messages and v1_embeddings carry no options and may make Ollama "
        "load a model again.",
        stacked=True,
    ).graph(
        "Duration of calls",
        [Query(quantile(q, duration, MODEL), f"P{q * 100:g}") for q in (0.5, 0.95, 0.99)],
        "s",
        "First byte of the request to last byte of the reply. It grows with the length of answers; for how fast it "
        "feels see the first token.",
    ).graph(
        "Under way",
        [Query(total("llm_calls_in_progress", by="endpoint"), "{{endpoint}}")],
        "none",
        "Calls inside Pilotlight now, those that wait among them. Rising without end: Ollama hangs.",
        stacked=True,
        none="Unknown",
    )


def _tokens(board: Board) -> None:
    pace = "llm_time_per_output_token_seconds"
    gap = "llm_inter_chunk_latency_seconds"
    board.graph(
        "Tokens per second",
        [Query(rate("llm_tokens_total", MODEL, "model, type"), "{{model}} {{type}}")],
        _TOKENS,
        "Read (input) and written (output) by all calls together. Not counted are /v1 streams without usage.",
    ).graph(
        "Speed of one stream",
        [Query(f"1 / ({quantile(0.5, pace, MODEL, 'model')} > 0)", "{{model}}")],
        _TOKENS,
        "Tokens per second that a usual call gets, from Ollama's own figures. Falling: more calls at once, or the "
        "model spills out of VRAM (Pilotlight / Models).",
    ).graph(
        "Pause between two pieces",
        [Query(quantile(q, gap, MODEL), f"P{q * 100:g}") for q in (0.5, 0.95, 0.99)],
        "s",
        "As relayed to clients. P99 far above P50: streams stutter; see the event loop on Pilotlight / Itself, else "
        "it is Ollama.",
    ).graph(
        "Tokens per call",
        [Query(quantile(q, "llm_request_tokens", INSTANCE, "type"), f"{{{{type}}}} P{q * 100:g}") for q in (0.5, 0.95)],
        "none",
        "Lengths of prompts (input) and answers (output). Prompts near the context's length are cut by Ollama without "
        "a word, see `long_prompts`.",
        logarithmic=True,
    ).graph(
        "Why answers end",
        [Query(rate("llm_finished_total", INSTANCE, "reason"), "{{reason}}")],
        "reqps",
        "Ollama's done_reason. Much length: answers are cut by num_predict or by the context.",
        stacked=True,
        width=24,
    )


def _queue(board: Board) -> None:
    wait = "batch_processor_wait_seconds"
    board.graph(
        "Waiting calls",
        [
            Query(total("batch_processor_queue_size", by="priority"), "{{priority}}"),
            Query(total("batch_processor_queue_capacity"), "capacity"),
        ],
        "none",
        "By class, and how many may wait at most (`scheduler.max_queue`); beyond that calls get 503 (runbook: "
        "PilotlightQueueFull).",
        colours={**PRIORITIES, "capacity": RED},
        none="Unknown",
    ).graph(
        "Wait for a place, P95",
        [Query(quantile(0.95, wait, INSTANCE, "priority"), "{{priority}}")],
        "s",
        "Of all calls that got a place. interactive should stay near 0; if it does not, Ollama has too few slots for "
        "what is interactive (runbook: PilotlightInteractiveWaits).",
        colours=PRIORITIES,
    ).graph(
        "Places",
        [Query(total("batch_processor_slots", by="state"), "{{state}}")],
        "none",
        "Places on the loaded models, taken and free. All taken while calls wait is normal; free ones while calls "
        "wait: those wait for a model that is not loaded.",
        stacked=True,
        colours={"busy": ORANGE, "free": GREEN},
        none="Unknown",
    ).graph(
        "Wait for a place, mean",
        [
            Query(
                share(rate(f"{wait}_sum", INSTANCE, "priority"), rate(f"{wait}_count", INSTANCE, "priority")),
                "{{priority}}",
            )
        ],
        "s",
        "The mean wait by class. batch may wait long, that is what it is for; ageing lifts it in the end.",
        colours=PRIORITIES,
    )


def _limits(board: Board) -> None:
    board.graph(
        "Turned away",
        [Query(rate("batch_processor_rejected_total", INSTANCE, "reason"), "{{reason}}")],
        "reqps",
        "Calls that were never sent. full and timeout: more arrives than can be done (runbook: PilotlightRejects); "
        "rate_limit: a client sends more than it may (`rate_limit`, `keys`); shutdown: while stopping.",
        stacked=True,
        colours={"full": RED, "timeout": ORANGE, "rate_limit": PURPLE, "shutdown": GREY},
    ).graph(
        "Clients that left",
        [Query(rate("pilotlight_client_disconnects_total", INSTANCE, "phase"), "{{phase}}")],
        "reqps",
        "By what they waited for. queued and waiting: they lost patience before the first token; streaming: they had "
        "read enough.",
        stacked=True,
        colours={"queued": ORANGE, "waiting": RED, "streaming": GREY},
    )


def _cache(board: Board) -> None:
    hits, misses = rate("cache_hits_total", _ASKED), rate("cache_misses_total", _ASKED)
    board.graph(
        "Cache hits",
        [Query(share(f"100 * {hits}", f"({hits} + {misses})"), "answers")],
        "percent",
        "Percentage of the answers that were asked of the cache and found there. Low with many misses: requests "
        "differ, or `cache.ttl_s` and `cache.max_entries` are small. Off by default.",
        top=100,
        width=8,
        none="Not used",
    ).graph(
        "Asked of memory",
        [
            Query(rate("cache_hits_total", INSTANCE, "cache"), "{{cache}} found"),
            Query(rate("cache_misses_total", INSTANCE, "cache"), "{{cache}} not found"),
            Query(rate("cache_bypass_total", INSTANCE, "reason"), "not eligible: {{reason}}"),
        ],
        "reqps",
        "response: whole answers; show: what is known about models. Not eligible: sampling asks for variety, header "
        "for a fresh answer, tools and size are never kept.",
        width=8,
        none="Not used",
    ).graph(
        "What the cache holds",
        [Query(total("cache_size_bytes", by="cache"), "{{cache}} bytes")],
        "bytes",
        "Memory for answers; `cache.max_bytes` is its limit.",
        width=8,
        none="Not used",
    ).graph(
        "Answers kept and dropped",
        [
            Query(total("cache_entries", by="cache"), "{{cache}} kept"),
            Query(rate("cache_evictions_total", INSTANCE, "reason"), "dropped per second: {{reason}}"),
        ],
        "none",
        "ttl: too old; size: for room, so more memory would help; flush: the model was changed.",
        none="Not used",
    ).graph(
        "Shared and gathered",
        [
            Query(rate("pilotlight_shared_total"), "joined a run under way"),
            Query(rate("pilotlight_embed_batches_total"), "calls for several texts"),
            Query(rate("pilotlight_embed_batched_texts_total"), "texts in such calls"),
        ],
        "ops",
        "What `share_identical` and `embed_batch` save: runs that were not needed. Both are off by default.",
    )
