"""The metric families: name, type, labels, buckets, help. One registry per application; nothing is global.

``docs/metrics.md`` lists the same families, and a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from proxy.observe import buckets
from proxy.observe.plain import PlainCounter, PlainFamily, PlainGauge, PlainHistogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

F = TypeVar("F", bound=PlainFamily[Any])


class Family(NamedTuple):
    """What the documentation has to say about a family; ``buckets`` is empty for what is no histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


class Families:
    """Every family of the proxy's own, registered; of one without labels, its only child.

    Attributes:
        listing: What there is, in order.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.listing: list[Family] = []
        self._by_model: list[PlainFamily[Any]] = []
        self._add_calls()
        self._add_queue_and_cache()
        self._add_upstream()
        self._add_residency()
        self._add_proxy()

    def remove_model(self, label: str) -> None:
        """Drop every series with this ``model``."""
        for family in self._by_model:
            family.remove_where("model", label)

    def _add_calls(self) -> None:
        self.calls = self._counter(
            "llm_calls_total", "Finished inference calls, counted once, at the end", "model", "endpoint", "status"
        )
        self.call_duration = self._histogram(
            "llm_call_duration_seconds", "First request byte to last response byte", buckets.CALL_S, "model"
        )
        self.ttft = self._histogram(
            "llm_time_to_first_token_seconds",
            "First request byte to the first content, thinking or tool call at the client",
            buckets.TTFT_S,
            "model",
            "start",
        )
        self.ttft_part = self._histogram(
            "llm_time_to_first_token_part_seconds",
            "Parts of the time to first token, which sum to it",
            buckets.TTFT_S,
            "model",
            "part",
        )
        self.ttfb = self._histogram(
            "llm_time_to_first_byte_seconds", "First request byte to first body byte", buckets.TTFT_S, "endpoint"
        )
        self.inter_chunk = self._histogram(
            "llm_inter_chunk_latency_seconds", "Gap between content chunks as relayed", buckets.CHUNK_S, "model"
        )
        self.per_token = self._histogram(
            "llm_time_per_output_token_seconds", "Ollama's eval_duration / eval_count", buckets.CHUNK_S, "model"
        )
        self.tokens = self._counter("llm_tokens_total", "Tokens read and written, as Ollama counts", "model", "type")
        self.request_tokens = self._histogram("llm_request_tokens", "Tokens per call", buckets.TOKENS, "type")
        self.load_duration = self._histogram(
            "llm_load_duration_seconds", "Ollama's load_duration", buckets.LOAD_S, "model"
        )
        self.prompt_eval = self._histogram(
            "llm_prompt_eval_duration_seconds", "Ollama's prompt_eval_duration", buckets.TTFT_S, "model"
        )
        self.finished = self._counter("llm_finished_total", "Why generation ended", "reason")
        self.in_progress = self._gauge("llm_calls_in_progress", "Inference calls inside the proxy", "endpoint")
        self.incomplete = self._counter(
            "pilotlight_incomplete_total", "Replies that ended without their final record", "endpoint"
        )

    def _add_queue_and_cache(self) -> None:
        self.queue_size = self._gauge("batch_processor_queue_size", "Requests that wait for a place", "priority")
        self.queue_capacity = self._gauge("batch_processor_queue_capacity", "How many requests may wait").labels()
        self.queue_wait = self._histogram(
            "batch_processor_wait_seconds", "How long requests waited for a place", buckets.WAIT_S, "priority"
        )
        self.slots = self._gauge("batch_processor_slots", "Places on loaded models", "state")
        self.rejected = self._counter("batch_processor_rejected_total", "Requests that were turned away", "reason")
        self.cache_hits = self._counter("cache_hits_total", "Asked and found", "cache")
        self.cache_misses = self._counter("cache_misses_total", "Asked and not found", "cache")
        self.cache_bypass = self._counter("cache_bypass_total", "Requests that the cache is not for", "reason")
        self.cache_entries = self._gauge("cache_entries", "What it holds", "cache")
        self.cache_bytes = self._gauge("cache_size_bytes", "Memory that this takes", "cache")
        self.cache_evictions = self._counter("cache_evictions_total", "What it dropped", "cache", "reason")
        self.shared = self._counter(
            "pilotlight_shared_total", "Requests that joined the run of an identical one"
        ).labels()
        self.embed_batches = self._counter(
            "pilotlight_embed_batches_total", "Calls that embed the texts of several"
        ).labels()
        self.embed_batched = self._counter(
            "pilotlight_embed_batched_texts_total", "Texts that went in such calls"
        ).labels()

    def _add_upstream(self) -> None:
        self.upstream_up = self._gauge("pilotlight_upstream_up", "1 while Ollama answers").labels()
        self.upstream_errors = self._counter("pilotlight_upstream_errors_total", "Failures of Ollama", "kind")
        self.upstream_retries = self._counter(
            "pilotlight_upstream_retries_total", "Requests sent again; only before any byte came back", "outcome"
        )
        self.breaker_open = self._gauge("pilotlight_upstream_breaker_open", "1 while Ollama is not even tried").labels()
        self.fallback = self._counter("pilotlight_fallback_total", "Fallbacks that were asked", "provider", "result")
        self.connections = self._gauge("pilotlight_upstream_connections", "Pooled connections to Ollama", "state")

    def _add_residency(self) -> None:
        self.loaded = self._gauge("pilotlight_model_loaded", "1 if /api/ps lists the model", "model")
        self.vram = self._gauge("pilotlight_model_vram_bytes", "How much of the model is in VRAM", "model")
        self.size = self._gauge("pilotlight_model_size_bytes", "Size of the loaded model", "model")
        self.expires = self._gauge(
            "pilotlight_model_expires_timestamp_seconds", "When Ollama will unload the model", "model"
        )
        self.state = self._gauge(
            "pilotlight_model_state", "1 for the state that a kept model is in, 0 for the others", "model", "state"
        )
        self.failed = self._gauge("pilotlight_model_failed", "1 if a kept model cannot be resident", "model", "reason")
        self.preloads = self._counter("pilotlight_preloads_total", "Loads made by the proxy", "model", "result")
        self.reloads = self._counter("pilotlight_model_reloads_total", "Reloads seen, by cause", "model", "cause")
        self.reloads_avoided = self._counter(
            "pilotlight_reloads_avoided_total", "Reloads that a client's option would have caused", "model", "option"
        )
        self.prompts_cut = self._counter(
            "pilotlight_prompts_cut_total", "Prompts longer than the context that Ollama cut", "model"
        )

    def _add_proxy(self) -> None:
        self.rewrites = self._counter("pilotlight_rewrites_total", "Decisions about rewriting", "rule", "action")
        self.disconnects = self._counter(
            "pilotlight_client_disconnects_total", "Clients that left before the end", "phase"
        )
        self.overhead = self._histogram(
            "pilotlight_overhead_seconds", "Time added by the proxy itself", buckets.OVERHEAD_S, "phase"
        )
        self.loop_lag = self._histogram(
            "pilotlight_event_loop_lag_seconds", "How late a timer of the event loop was", buckets.OVERHEAD_S
        ).labels()
        self.http_requests = self._counter(
            "pilotlight_http_requests_total", "Requests that are no inference", "route", "method", "code_class"
        )
        self.label_overflow = self._counter(
            "pilotlight_label_overflow_total", "Values that were folded into other", "label"
        )
        self.log_suppressed = self._counter(
            "pilotlight_log_lines_suppressed_total", "Error lines beyond the limit per second"
        ).labels()
        self.reload_ok = self._gauge(
            "pilotlight_config_last_reload_successful", "1 if the settings could be used"
        ).labels()
        self.reload_at = self._gauge(
            "pilotlight_config_last_reload_timestamp_seconds", "When settings that could be used were last read"
        ).labels()
        self.build_info = self._gauge("pilotlight_build_info", "Always 1", "version", "python", "aiohttp")

    def _counter(self, name: str, text: str, *labels: str) -> PlainCounter:
        return self._noted(PlainCounter(name, text, labels), Family(name, "counter", labels))

    def _gauge(self, name: str, text: str, *labels: str) -> PlainGauge:
        return self._noted(PlainGauge(name, text, labels), Family(name, "gauge", labels))

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> PlainHistogram:
        return self._noted(PlainHistogram(name, text, bounds, labels), Family(name, "histogram", labels, bounds))

    def _noted(self, family: F, entry: Family) -> F:
        self._registry.register(family)
        self.listing.append(entry)
        if "model" in entry.labels:
            self._by_model.append(family)
        return family
