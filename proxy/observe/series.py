"""The metric children that every call touches, looked up once: that costs as much as counting does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.observe import labels
from proxy.observe.timeline import Outcome, Start

if TYPE_CHECKING:
    from proxy.observe.families import Families
    from proxy.observe.plain import Count, Distribution, Level


class EndpointSeries:
    """What every call to one endpoint touches; there is one for ``other`` too."""

    __slots__ = ("in_progress", "incomplete", "name", "ttfb")

    def __init__(self, families: Families, endpoint: str) -> None:
        self.name = endpoint
        self.in_progress: Level = families.in_progress.labels(endpoint)
        self.ttfb: Distribution = families.ttfb.labels(endpoint)
        self.incomplete: Count = families.incomplete.labels(endpoint)


class ModelSeries:
    """What every call for one model touches."""

    __slots__ = (
        "_avoided", "_calls", "_families", "_first_token", "_model", "duration", "gaps", "load", "load_duration",
        "other", "per_token", "prompt", "prompt_eval", "proxy", "queue", "tokens_in", "tokens_out",
    )  # fmt: skip

    def __init__(self, families: Families, model: str) -> None:
        self._families = families
        self._model = model
        self._calls: dict[tuple[str, Outcome], Count] = {}
        self._first_token: dict[Start, Distribution] = {}
        self._avoided: dict[str, Count] = {}
        self.duration = families.call_duration.labels(model)
        self.queue, self.load, self.prompt, self.proxy, self.other = (
            families.ttft_part.labels(model, part) for part in ("queue", "load", "prompt", "proxy", "other")
        )
        self.gaps = families.inter_chunk.labels(model)
        self.per_token = families.per_token.labels(model)
        self.load_duration = families.load_duration.labels(model)
        self.prompt_eval = families.prompt_eval.labels(model)
        self.tokens_in = families.tokens.labels(model, "input")
        self.tokens_out = families.tokens.labels(model, "output")

    def call(self, endpoint: str, outcome: Outcome) -> Count:
        key = (endpoint, outcome)
        child = self._calls.get(key)
        if child is None:
            child = self._calls[key] = self._families.calls.labels(self._model, endpoint, outcome.value)
        return child

    def first_token(self, start: Start) -> Distribution:
        child = self._first_token.get(start)
        if child is None:
            child = self._first_token[start] = self._families.ttft.labels(self._model, start.value)
        return child

    def reload_avoided(self, option: str) -> Count:
        child = self._avoided.get(option)
        if child is None:
            child = self._avoided[option] = self._families.reloads_avoided.labels(self._model, option)
        return child

    def precreate(self) -> None:
        """Make the children that would otherwise appear with their first event, so that ``rate()`` sees it."""
        families = self._families
        for endpoint in labels.ENDPOINTS:
            for outcome in Outcome:
                self.call(endpoint, outcome)
        for start in (Start.WARM, Start.COLD):
            self.first_token(start)
        families.prompts_cut.labels(self._model)
        for result in labels.PRELOAD_RESULTS:
            families.preloads.labels(self._model, result)
        for cause in labels.RELOAD_CAUSES:
            families.reloads.labels(self._model, cause)
        for option in labels.RUNNER_OPTIONS:
            self.reload_avoided(option)
        families.loaded.labels(self._model)
