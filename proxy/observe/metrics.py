"""The metrics of an application: what happened, in; the exposition, out.

What must live here: how an event becomes series. Which text may be a label is ``labels``, what families there are is
``families``, how they count is ``plain``, a model's own children are ``series``. Methods are called on the event loop
and none of them waits; ``encode`` is for a thread, since a page of 200 histogram children takes 50 ms to write.
Whatever label a caller passes, a value outside its closed list becomes ``other`` (or the list's general value), so that
no caller can add series.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from proxy import __version__
from proxy.observe import labels
from proxy.observe.families import Families
from proxy.observe.labels import OTHER, ModelLabels, code_class, one_of
from proxy.observe.queueing import QueueMetrics
from proxy.observe.series import EndpointSeries, ModelSeries
from proxy.observe.timeline import REUSED_CACHE, Outcome, Phase, parts, start, total_s, ttft_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from proxy.observe.timeline import Timeline

_LONGEST_ROUTE = 64
_MOST_ROUTES = 64


class Running(NamedTuple):
    """One row of ``/api/ps``; ``expires_unix`` is ``None`` where it is not told."""

    name: str
    size_bytes: int
    vram_bytes: int
    expires_unix: float | None


class Metrics:
    """Counts for one application, on a registry of its own.

    Args:
        known_models: Names from the settings. Their series exist from the start, so that ``rate()`` sees zeros.
        registry: For tests that want to look inside; a fresh one otherwise.
        model_limit: How many models may have series of their own at the same time.

    Attributes:
        queue: The part about queue, limits and what answers without Ollama.
    """

    def __init__(
        self, known_models: Iterable[str] = (), registry: CollectorRegistry | None = None, model_limit: int = 20
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False) if registry is None else registry
        self._families = Families(self._registry)
        self._labels = ModelLabels(known_models, model_limit)
        self._models: dict[str, ModelSeries] = {}
        self._routes: set[str] = set()
        self._running: set[str] = set()
        self._failed: dict[str, str] = {}
        self._states: dict[str, str] = {}
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._precreate()
        self.queue = QueueMetrics(self._families)

    def __repr__(self) -> str:
        return f"<Metrics {self._labels!r}>"

    # --- calls ---

    def call_started(self, endpoint: str) -> None:
        """An inference call arrived. Each is answered by one ``call_finished``."""
        self._endpoint(endpoint).in_progress.inc()

    def call_finished(self, t: Timeline) -> str:
        """Count a finished inference call, whatever became of it.

        Returns:
            The model's label, for statistics that must be bounded in the same way.
        """
        endpoint = self._endpoint(t.endpoint)
        # Ollama said that there is no such model: not even a known name is a label then, it is about to vanish.
        label = self.model_label("" if t.status == 404 else t.model)
        if t.status == 404:
            self._families.label_overflow.labels("model").inc()
        series = self._series(label)
        exemplar = {"trace_id": t.trace_id[:64]} if t.trace_id else None
        endpoint.in_progress.dec()
        series.call(endpoint.name, t.outcome).inc()
        whole_s = total_s(t)
        if whole_s is not None:
            series.duration.observe(whole_s, exemplar)
        if t.first_byte is not None:
            endpoint.ttfb.observe(max(0.0, t.first_byte - t.received))
        if t.incomplete:
            endpoint.incomplete.inc()
        # What comes from memory says nothing about how fast the model is; of a shared run its own call tells.
        if t.reused != REUSED_CACHE:
            self._observe_first_token(t, series, exemplar)
        if not t.reused:
            self._observe_final_record(t, series, endpoint.name)
        return label

    def chunk_gaps(self, model: str) -> Callable[[Sequence[float], float | None], None]:
        """What takes the times of a stream's pieces (:meth:`Distribution.observe_gaps`); ask once per request."""
        label = self._labels.of(model)
        series = self._models.get(label)
        if series is not None:
            return series.gaps.observe_gaps
        # No series yet: Ollama may still say that there is no such model.
        return lambda times, since: self._series(label).gaps.observe_gaps(times, since)

    def incomplete(self, endpoint: str) -> None:
        """A reply ended without its final record. ``call_finished`` counts what is marked so by itself."""
        self._endpoint(endpoint).incomplete.inc()

    # --- other requests, and what the relay did ---

    def http_request(self, route: str, method: str, status: int) -> None:
        """A finished request that is no inference. ``route`` is a template, never the caller's path."""
        if route not in self._routes:
            if len(self._routes) >= _MOST_ROUTES or len(route) > _LONGEST_ROUTE or not route.isprintable():
                route = OTHER
                self._families.label_overflow.labels("route").inc()
            self._routes.add(route)
        method = one_of(method, labels.METHODS)
        self._families.http_requests.labels(route, method, code_class(status)).inc()

    def disconnect(self, phase: str) -> None:
        """A client left. ``Observer.finish`` calls this for what the timeline says."""
        self._families.disconnects.labels(one_of(phase, tuple(Phase), Phase.WAITING)).inc()

    def rewrite(self, rule: int | str, applied: bool) -> None:
        """A decision about rewriting: the number of the generate-to-chat rule, or keep_alive, options."""
        name = f"generate_{rule}" if isinstance(rule, int) else rule
        self._rewrites.get((name, applied), self._rewrites[OTHER, applied]).inc()

    def overhead(self, phase: str, seconds: float) -> None:
        """Time of our own: ``request`` until the request was sent, ``first_chunk`` for the first token."""
        self._overhead.get(phase, self._overhead["request"]).observe(max(0.0, seconds))

    def tokens_read(self, model: str, count: int) -> None:
        """Tokens of texts that were embedded together; whose they were is not told."""
        self._series(self.model_label(model)).tokens_in.inc(count)

    def prompt_cut(self, model: str) -> None:
        self._families.prompts_cut.labels(self.model_label(model)).inc()

    # --- upstream ---

    def upstream_up(self, up: bool) -> None:
        self._families.upstream_up.set(1 if up else 0)

    def upstream_error(self, kind: str) -> None:
        """A failure of Ollama or of the way to it: connect, reset, timeout, http_5xx, protocol."""
        self._families.upstream_errors.labels(one_of(kind, labels.ERROR_KINDS)).inc()

    def upstream_retry(self, ok: bool) -> None:
        self._families.upstream_retries.labels("ok" if ok else "failed").inc()

    def connections(self, idle: int, busy: int) -> None:
        self._families.connections.labels("idle").set(idle)
        self._families.connections.labels("busy").set(busy)

    def cache_lookup(self, cache: str, hit: bool) -> None:
        """A look-up in what is remembered of ``/api/show`` (show), or in the answers that are kept (response)."""
        self._lookups.get((cache, hit), self._lookups["show", hit]).inc()

    # --- residency ---

    def running(self, models: Iterable[Running | tuple[str, int, int, float | None]]) -> None:
        """What ``/api/ps`` lists now: rows of name, size, bytes in VRAM, and when it expires."""
        rows = [Running(*row) for row in models]
        self.know_models(row.name for row in rows)
        families = self._families
        now: set[str] = set()
        for row in rows:
            label = self.model_label(row.name)
            if label == OTHER:
                continue
            now.add(label)
            if self._failed.get(label, "does_not_fit") != "does_not_fit":
                self.model_failed(row.name, "")
            families.loaded.labels(label).set(1)
            families.size.labels(label).set(row.size_bytes)
            families.vram.labels(label).set(row.vram_bytes)
            if row.expires_unix is not None:
                families.expires.labels(label).set(row.expires_unix)
        for label in self._running - now:
            families.loaded.labels(label).set(0)
            # A size or an expiry of something that is not loaded would only mislead.
            for family in (families.size, families.vram, families.expires):
                family.remove(label)
        self._running = now

    def reload(self, model: str, cause: str) -> None:
        cause = one_of(cause, labels.RELOAD_CAUSES, "unknown")
        self._families.reloads.labels(self.model_label(model), cause).inc()

    def reload_avoided(self, model: str, option: str) -> None:
        self._series(self.model_label(model)).reload_avoided(one_of(option, labels.RUNNER_OPTIONS)).inc()

    def preload(self, model: str, result: str) -> None:
        """A load made by the proxy ended: ok or failed."""
        result = one_of(result, labels.PRELOAD_RESULTS, "failed")
        self._families.preloads.labels(self.model_label(model), result).inc()

    def model_failed(self, model: str, reason_kind: str) -> None:
        """A kept model cannot be resident, for this reason; an empty one takes it back.

        So does ``running`` once the model is loaded after all, unless it does not fit beside another kept one: that one
        is loaded while it is asked for, and not kept all the same.
        """
        label = self.model_label(model)
        self._families.failed.remove_where("model", label)
        self._failed.pop(label, None)
        if reason_kind:
            self._failed[label] = one_of(reason_kind, labels.FAILURE_REASONS)
            self._families.failed.labels(label, self._failed[label]).set(1)

    def model_states(self, states: Mapping[str, str]) -> None:
        """Where the kept models stand, each in one of ``labels.MODEL_STATES``; others are not kept any more."""
        now = {self.model_label(name): state for name, state in states.items()}
        if now == self._states:
            return
        for label in self._states.keys() - now.keys():
            self._families.state.remove_where("model", label)
        for label, state in now.items():
            for known in labels.MODEL_STATES:
                self._families.state.labels(label, known).set(1 if known == state else 0)
        self._states = now

    # --- which models there are ---

    def keep_models(self, names: Iterable[str]) -> None:
        """The settings name these now, and no others: they have their label from here on, loaded or not."""
        for label in self._labels.keep(names):
            self._series(label).precreate()

    def know_models(self, names: Iterable[str]) -> None:
        """Ollama has these, says ``/api/tags`` or ``/api/ps``: they may become labels."""
        self._labels.know(names)

    def forget_models(self, names: Iterable[str]) -> None:
        """These left ``/api/tags``: their series go, those of configured models apart."""
        for label in self._labels.forget(names):
            self._families.remove_model(label)
            self._models.pop(label, None)
            self._running.discard(label)
            self._failed.pop(label, None)

    def model_label(self, name: str) -> str:
        """The label for a caller's model name; one that may not be a label is counted and becomes ``other``."""
        label = self._labels.of(name) if name else OTHER
        if label == OTHER and name:
            self._families.label_overflow.labels("model").inc()
        return label

    # --- the proxy itself ---

    def loop_lag(self, seconds: float) -> None:
        self._families.loop_lag.observe(seconds)

    def settings_read(self, ok: bool, unix_s: float) -> None:
        """The settings were read, at start or anew; those that cannot be used leave the time as it was."""
        self._families.reload_ok.set(1 if ok else 0)
        if ok:
            self._families.reload_at.set(unix_s)

    def log_suppressed(self) -> None:
        self._families.log_suppressed.inc()

    def overview(self) -> dict[str, Any]:
        """Queue, refusals, what is remembered and calls under way, for ``/stats``; call it in a thread."""
        names = [
            "batch_processor_queue_size",
            "batch_processor_rejected_total",
            "cache_hits_total",
            "cache_misses_total",
            "llm_calls_in_progress",
        ]
        found: dict[str, dict[str, int]] = {name: {} for name in names}
        for family in self._registry.restricted_registry(names).collect():
            for sample in family.samples:
                if sample.name in found:
                    found[sample.name][next(iter(sample.labels.values()))] = int(sample.value)
        queue, rejected, hits, misses, in_progress = (found[name] for name in names)
        return {
            "queue": queue,
            "rejected": rejected,
            "cache": {cache: {"hits": hits[cache], "misses": misses.get(cache, 0)} for cache in hits},
            "in_progress": sum(in_progress.values()),
        }

    def encode(self, accept: str = "") -> tuple[bytes, str]:
        """Write the page; call it in a thread.

        Args:
            accept: The request's Accept header: OpenMetrics where it is asked for, else the text format.

        Returns:
            The page and its content type.
        """
        # Not the library's choose_encoder: version=x in the header makes it raise a TypeError (0.26).
        if "application/openmetrics-text" in accept:
            encoded: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return encoded, openmetrics.CONTENT_TYPE_LATEST
        return exposition.generate_latest(self._registry), exposition.CONTENT_TYPE_PLAIN_0_0_4

    # --- inside ---

    def _endpoint(self, endpoint: str) -> EndpointSeries:
        series = self._endpoints.get(endpoint)
        if series is None:
            series = self._endpoints.get(OTHER)
        if series is None:
            series = self._endpoints[OTHER] = EndpointSeries(self._families, OTHER)
        return series

    def _series(self, label: str) -> ModelSeries:
        series = self._models.get(label)
        if series is None:
            series = self._models[label] = ModelSeries(self._families, label)
        return series

    def _observe_first_token(self, t: Timeline, series: ModelSeries, exemplar: dict[str, str] | None) -> None:
        if t.sent is not None:
            self.overhead("request", t.sent - t.received - t.queue_s - t.load_wait_s - t.failed_s)
        whole_s, split = ttft_s(t), parts(t)
        if whole_s is None or split is None:
            return
        series.first_token(start(t)).observe(whole_s, exemplar)
        series.queue.observe(split.queue)
        series.load.observe(split.load)
        series.prompt.observe(split.prompt)
        series.proxy.observe(split.proxy)
        series.other.observe(split.other)
        if t.token_read is not None and t.first_token is not None:
            self.overhead("first_chunk", t.first_token - t.token_read)

    def _observe_final_record(self, t: Timeline, series: ModelSeries, endpoint: str) -> None:
        if t.load_duration_s is not None:
            series.load_duration.observe(t.load_duration_s)
        if t.prompt_eval_duration_s is not None:
            series.prompt_eval.observe(t.prompt_eval_duration_s)
        if t.prompt_eval_count is not None:
            series.tokens_in.inc(t.prompt_eval_count)
            self._tokens_in.observe(t.prompt_eval_count)
        if t.eval_count is not None:
            series.tokens_out.inc(t.eval_count)
            self._tokens_out.observe(t.eval_count)
            if t.eval_duration_s is not None and t.eval_count > 0:
                series.per_token.observe(t.eval_duration_s / t.eval_count)
        if t.outcome is Outcome.OK and endpoint not in labels.EMBEDDING_ENDPOINTS:
            self._finished.get(t.done_reason or "none", self._finished[OTHER]).inc()

    def _precreate(self) -> None:
        families = self._families
        self._tokens_in = families.request_tokens.labels("input")
        self._tokens_out = families.request_tokens.labels("output")
        self._finished = {reason: families.finished.labels(reason) for reason in labels.DONE_REASONS}
        self._overhead = {phase: families.overhead.labels(phase) for phase in labels.OVERHEAD_PHASES}
        self._endpoints = {endpoint: EndpointSeries(families, endpoint) for endpoint in labels.ENDPOINTS}
        for family, values in (
            (families.upstream_errors, labels.ERROR_KINDS),
            (families.upstream_retries, labels.RETRY_OUTCOMES),
            (families.connections, labels.CONNECTION_STATES),
            (families.disconnects, tuple(Phase)),
            (families.label_overflow, ("model", "route")),
        ):
            for value in values:
                family.labels(value)
        self._lookups = {
            (cache, hit): (families.cache_hits if hit else families.cache_misses).labels(cache)
            for cache in labels.CACHES
            for hit in (True, False)
        }
        self._rewrites = {
            (rule, action == "applied"): families.rewrites.labels(rule, action)
            for rule in labels.REWRITE_RULES
            for action in labels.REWRITE_ACTIONS
        }
        families.build_info.labels(__version__, platform.python_version(), aiohttp.__version__).set(1)
        for label in (*self._labels.configured, OTHER):
            self._series(label).precreate()
