"""Errors, and what Pilotlight itself costs."""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import GREEN, ORANGE, RED
from deploy.grafana.promql import INSTANCE, increase, quantile, rate, total
from deploy.grafana.sources import Query

# process_* and python_* are of every program that is scraped.
_OWN: Final = f'{INSTANCE}, job="pilotlight"'


def itself() -> Board:
    board = Board(
        "pilotlight-itself", "Pilotlight / Itself", "Errors on the way, and what Pilotlight costs.", has_model=False
    )
    _now(board.row("Now"))
    _errors(board.row("Errors on the way to Ollama"))
    _cost(board.row("Its own cost"))
    _edge(board.row("Other requests, labels and log"))
    return board


def _now(board: Board) -> None:
    board.tile(
        "Ollama",
        f"min(pilotlight_upstream_up{{{INSTANCE}}})",
        "none",
        "Whether Ollama answers. Down: runbook, PilotlightUpstreamDown.",
        steps=((None, RED), (1, GREEN)),
        words={1: ("Up", GREEN), 0: ("Down", RED)},
        none="Unknown",
        now=True,
        width=4,
    ).tile(
        "Breaker",
        f"max(pilotlight_upstream_breaker_open{{{INSTANCE}}})",
        "none",
        "Open: Ollama refused five times in a row, so calls fail at once and it is probed once a second.",
        steps=((None, GREEN), (1, RED)),
        words={0: ("Closed", GREEN), 1: ("Open", RED)},
        none="Unknown",
        now=True,
        width=4,
    ).tile(
        "Settings",
        f"min(pilotlight_config_last_reload_successful{{{INSTANCE}}})",
        "none",
        "Whether the settings that were read last are in effect. Rejected: the log names the field (runbook: "
        "PilotlightSettingsRejected).",
        steps=((None, RED), (1, GREEN)),
        words={1: ("In effect", GREEN), 0: ("Rejected", RED)},
        none="Unknown",
        now=True,
        width=4,
    ).tile(
        "Settings read",
        f"max(pilotlight_config_last_reload_timestamp_seconds{{{INSTANCE}}}) * 1000",
        "dateTimeFromNow",
        "When the settings in effect were read.",
        none="Unknown",
        now=True,
        width=4,
    ).table(
        "Versions",
        f"pilotlight_build_info{{{INSTANCE}}}",
        "What runs where. More than one version: an update is under way, or was forgotten on one machine.",
        hidden=["__name__", "job"],
        width=8,
        none="Unknown",
    )


def _errors(board: Board) -> None:
    board.graph(
        "Failures of Ollama",
        [Query(rate("pilotlight_upstream_errors_total", INSTANCE, "kind"), "{{kind}}")],
        "reqps",
        "connect: nothing listens; reset: it ended in the middle, mostly a crash; timeout: it is silent; http_5xx: its "
        "own error, for instance out of memory; protocol: not Ollama (runbook: PilotlightErrors).",
        stacked=True,
        width=8,
        none="None",
    ).graph(
        "Sent once more",
        [Query(rate("pilotlight_upstream_retries_total", INSTANCE, "outcome"), "{{outcome}}")],
        "reqps",
        "Requests that were repeated on a fresh connection because a pooled one gave nothing back. Some ok are normal "
        "after a restart of Ollama.",
        stacked=True,
        colours={"ok": GREEN, "failed": RED},
        width=8,
        none="None",
    ).graph(
        "Asked of a fallback",
        [Query(rate("pilotlight_fallback_total", INSTANCE, "provider, result"), "{{provider}} {{result}}")],
        "reqps",
        "Calls that another Ollama got because the first could not. Lasting: the first one needs you (runbook: "
        "PilotlightFallbackUsed).",
        stacked=True,
        width=8,
        none="No fallback set",
    ).graph(
        "Replies that broke off",
        [Query(increase("pilotlight_incomplete_total", INSTANCE, "endpoint"), "{{endpoint}}")],
        "none",
        "Ended without their final record; the client got an error frame (runbook: PilotlightIncompleteReplies).",
        width=8,
        none="None",
    ).graph(
        "Connections to Ollama",
        [Query(total("pilotlight_upstream_connections", by="state"), "{{state}}")],
        "none",
        "busy ones carry a call. Many idle ones cost nothing.",
        stacked=True,
        colours={"busy": ORANGE, "idle": GREEN},
        width=8,
        none="Unknown",
    ).graph(
        "Ollama up",
        [Query(f"min by (instance) (pilotlight_upstream_up{{{INSTANCE}}})", "{{instance}}")],
        "none",
        "1 while it answers. Short gaps are restarts; what was lost then is on Pilotlight / Models.",
        top=1,
        width=8,
        none="Unknown",
    )


def _cost(board: Board) -> None:
    overhead, lag = "pilotlight_overhead_seconds", "pilotlight_event_loop_lag_seconds"
    limits = ((None, GREEN), (0.01, ORANGE), (0.05, RED))
    board.graph(
        "Added time",
        [Query(quantile(q, overhead, INSTANCE, "phase"), f"{{{{phase}}}} P{q * 100:g}") for q in (0.5, 0.99)],
        "s",
        "Time of Pilotlight's own: request until it was sent on, first_chunk from reading the first token to writing "
        "it. Tens of milliseconds: the processor is taken by something.",
        steps=limits,
    ).graph(
        "Lag of the event loop",
        [Query(quantile(q, lag), f"P{q * 100:g}") for q in (0.5, 0.99)],
        "s",
        "How late a timer is, four times a second. All streams wait for as long (runbook: PilotlightLoopLag).",
        steps=limits,
    ).graph(
        "Processor",
        [Query(f"rate(process_cpu_seconds_total{{{_OWN}}}[$__rate_interval])", "{{instance}}")],
        "percentunit",
        "Share of one processor; it cannot use more than one. Near 100 %: start a second instance (runbook: "
        "PilotlightBusy).",
        steps=((None, GREEN), (0.7, ORANGE), (0.9, RED)),
        width=8,
        none="Unknown",
    ).graph(
        "Memory",
        [Query(f"process_resident_memory_bytes{{{_OWN}}}", "{{instance}}")],
        "bytes",
        "Resident memory, about 65 MiB at rest; `cache.max_bytes` and requests under way come on top. It should not "
        "climb for days.",
        width=8,
        none="Unknown",
    ).graph(
        "Open files",
        [
            Query(f"process_open_fds{{{_OWN}}}", "{{instance}}"),
            Query(f"min(process_max_fds{{{_OWN}}})", "limit"),
        ],
        "none",
        "Connections are files: two per call under way. Near the limit: raise `nofile` (runbook: PilotlightFiles).",
        colours={"limit": RED},
        logarithmic=True,
        width=8,
        none="Unknown",
    )


def _edge(board: Board) -> None:
    board.graph(
        "Other requests",
        [Query(rate("pilotlight_http_requests_total", INSTANCE, "route, code_class"), "{{route}} {{code_class}}")],
        "reqps",
        "What is no call to a model. Much 4xx: a client asks for what it may not, or what does not exist.",
        stacked=True,
    ).graph(
        "Values without a series",
        [Query(increase("pilotlight_label_overflow_total", INSTANCE, "label"), "{{label}}")],
        "none",
        "Names that are counted as other: models that do not exist, or more than twenty (runbook: "
        "PilotlightLabelOverflow).",
        width=6,
        none="None",
    ).graph(
        "Log lines left out",
        [Query(increase("pilotlight_log_lines_suppressed_total"), "left out")],
        "none",
        "Warnings and errors beyond ten a second. Something fails all the time: read the log.",
        width=6,
        none="None",
    ).graph(
        "Garbage collections",
        [
            Query(
                f"sum by (generation) (rate(python_gc_collections_total{{{_OWN}}}[$__rate_interval]))",
                "generation {{generation}}",
            )
        ],
        "ops",
        "How often Python looks for memory to free. Generation 2 several times a second costs time.",
        width=24,
        none="Unknown",
    )
