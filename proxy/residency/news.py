"""What the operator is told about residency: log lines and metrics, and no decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from proxy.residency.checklist import gigabytes
from proxy.residency.loads import is_out_of_memory
from proxy.residency.observation import Change, Drifted, Lost
from proxy.upstream.ollama import LoadReply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.observe.metrics import Metrics
    from proxy.residency.checklist import Checklist
    from proxy.residency.loads import Flight, Outcome
    from proxy.residency.runner import Runner
    from proxy.residency.warm import Warmed

_log: Any = structlog.get_logger("pilotlight.residency")


class News:
    """Writes them.

    Args:
        metrics: Counts.
        checklist: Has the lines that belong to the start.
    """

    def __init__(self, metrics: Metrics, checklist: Checklist) -> None:
        self._metrics = metrics
        self._checklist = checklist
        self._missing_told: set[str] = set()

    def __repr__(self) -> str:
        return "<News>"

    def changes(self, changes: Iterable[Change]) -> None:
        """What a look at ``/api/ps`` brought."""
        for change in changes:
            if isinstance(change, Lost):
                by = {"by": change.by} if change.by else {}
                _log.warning("model lost", model=change.runner.name, cause=change.cause.value, **by)
            elif isinstance(change, Drifted):
                _log.warning(
                    "model runs with another context length, which a call without its options causes",
                    model=change.runner.name,
                    num_ctx=change.shown,
                    loaded_with=change.expected,
                )
                self._metrics.reload(change.runner.name, "options")
            else:
                _log.error(
                    "kept models do not fit beside each other",
                    kept=change.winner.name,
                    given_up=change.loser.name,
                    hint="it is loaded when asked for; a smaller quantization or num_ctx may make room for both",
                )
                self._metrics.model_failed(change.loser.name, "does_not_fit")

    def load_ended(self, flight: Flight, outcome: Outcome) -> None:
        name = flight.runner.name
        if flight.by_keeper:
            self._metrics.preload(name, "ok" if outcome.ok else "failed")
        if not outcome.ok:
            self._load_failed(flight, outcome)
            return
        was_loaded = outcome.real or flight.cold or flight.grows
        if outcome.cause and was_loaded:
            self._metrics.reload(name, outcome.cause)
        self._checklist.tell("model loaded", outcome.seconds, model=name, again=was_loaded, options=outcome.options)
        if outcome.without_num_gpu:
            _log.warning(
                "the configured num_gpu does not fit; loaded without it",
                model=name,
                fits=f"{_share(flight.runner)} in VRAM",
                hint="lower num_gpu, or leave it out",
            )
        if outcome.growth_refused:
            _log.warning(
                "a larger num_ctx does not fit; it stays as it was",
                model=name,
                num_ctx=flight.runner.num_ctx,
                refused=flight.runner.refused_num_ctx,
            )
        if flight.runner.kept is not None and not flight.runner.unfit_beside:
            self._metrics.model_failed(name, "")
        self._vram(flight.runner)

    def warmed(self, runner: Runner, warmed: Warmed) -> None:
        if warmed.error:
            _log.warning("warming failed", model=runner.name, reason=warmed.error[:200])
            return
        if warmed.token_s is not None:
            self._checklist.tell("warm-up token generated", warmed.token_s, model=runner.name)
        if warmed.prompts:
            self._checklist.tell("prompt cache warmed", warmed.prompts_s, model=runner.name, prompts=warmed.prompts)

    def missing(self, name: str) -> None:
        if name not in self._missing_told:
            self._missing_told.add(name)
            _log.error("model missing", model=name, hint=f"ollama pull {name}, or residency.pull_missing: true")
            self._metrics.model_failed(name, "missing")

    def _load_failed(self, flight: Flight, outcome: Outcome) -> None:
        reply = LoadReply(outcome.status, outcome.error, outcome.seconds)
        reason = outcome.error or (outcome.failure.message if outcome.failure is not None else "")
        _log.error("load failed", model=flight.runner.name, status=outcome.status, reason=reason[:300])
        kind = "out_of_memory" if is_out_of_memory(reply) else "missing" if outcome.status == 404 else "load"
        if flight.runner.kept is not None:
            self._metrics.model_failed(flight.runner.name, kind)

    def _vram(self, runner: Runner) -> None:
        if runner.kept is None or not runner.size_bytes:
            return
        self._checklist.tell("resident", model=runner.name, vram=_share(runner), num_ctx=runner.shown_num_ctx)
        if runner.vram_bytes < runner.size_bytes and not runner.vram_told:
            runner.vram_told = True
            _log.warning(
                "model is not wholly in VRAM, so it answers slowly" if runner.vram_bytes else "model is not in VRAM",
                model=runner.name,
                vram=gigabytes(runner.vram_bytes),
                size=gigabytes(runner.size_bytes),
                hint="a smaller quantization, or a smaller num_ctx, may fit"
                if runner.vram_bytes
                else "it runs on the CPU alone",
            )


def _share(runner: Runner) -> str:
    percent = 100 * runner.vram_bytes // runner.size_bytes if runner.size_bytes else 0
    return f"{gigabytes(runner.vram_bytes)} of {gigabytes(runner.size_bytes)} ({percent} %)"
