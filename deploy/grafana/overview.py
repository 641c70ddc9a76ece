"""The first look: is it up, is it fast, is it warm. One number each, then the three questions over time."""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import COLD, GOALS, GREEN, ORANGE, RED, SHARE_FAILED, SHARE_MET, WARM
from deploy.grafana.promql import INSTANCE, MODEL, RANGE, increase, quantile, rate, share, total, within
from deploy.grafana.series import PARTS, PRIORITIES, STATE_OF_KEPT, STATES, STATUSES, parts_per_call
from deploy.grafana.sources import Query

TTFT: Final = "llm_time_to_first_token_seconds"
_WARM: Final = f'{MODEL}, start="warm"'
_COLD: Final = f'{MODEL}, start="cold"'
_FAILED: Final = f'{MODEL}, status=~"upstream_error|timeout|rejected"'


def overview() -> Board:
    """The dashboard that opens first."""
    board = Board(
        "pilotlight-overview", "Pilotlight / Overview", "Is it up, is it fast, is it warm. The others go into detail."
    )
    _now(board.row("Is it up, is it warm, is it fast"))
    _work(board)
    _fast(board.row("Is it fast"))
    _warm(board.row("Is it warm"))
    _busy(board.row("Is it up, and what does it do"))
    return board


def _now(board: Board) -> None:
    board.tile(
        "Ollama",
        f"min(pilotlight_upstream_up{{{INSTANCE}}})",
        "none",
        "Whether Ollama answers each of the chosen instances. Down: look at Ollama's own log first "
        "(runbook: PilotlightUpstreamDown).",
        steps=((None, RED), (1, GREEN)),
        words={1: ("Up", GREEN), 0: ("Down", RED)},
        none="Unknown",
        now=True,
    ).tile(
        "Kept models loaded",
        share(total("pilotlight_model_state", f'{MODEL}, state="resident"'), total("pilotlight_model_state", MODEL)),
        "percentunit",
        "Share of the models under `models` in the settings that are resident now. Less than all: the timeline below "
        "says which one is missing and since when.",
        steps=((None, RED), (0.5, ORANGE), (1, GREEN)),
        none="None kept",
        now=True,
        decimals=0,
    ).tile(
        "Alerts",
        'count(ALERTS{alertname=~"Pilotlight.*", alertstate="firing"}) or vector(0)',
        "none",
        "Alerts that fire now. The table at the end of this page names them; docs/runbook.md says what to do.",
        steps=((None, GREEN), (1, RED)),
        none="Unknown",
        now=True,
    ).tile(
        "Warm first token, P95",
        quantile(0.95, TTFT, _WARM, window=RANGE),
        "s",
        "95 % of the first tokens of loaded models came sooner, over all that is shown. The goal is 500 ms. Above it: "
        "the parts below say whether it is the queue, the prompt or Ollama.",
        steps=WARM,
    ).tile(
        "Cold first token, P95",
        quantile(0.95, TTFT, _COLD, window=RANGE),
        "s",
        "The same of calls that had to wait for their model. The goal is 2 s; a large model on a slow disk needs "
        "longer, so better keep it (`models`).",
        steps=COLD,
        none="No cold start",
    ).tile(
        "Warm within 500 ms",
        within("0.5", TTFT, _WARM, window=RANGE),
        "percentunit",
        "Share of the warm first tokens that met the goal; exact, because a bucket ends at 0.5 s.",
        steps=SHARE_MET,
        decimals=1,
    ).tile(
        "Calls that fail",
        share(rate("llm_calls_total", _FAILED, window=RANGE), rate("llm_calls_total", MODEL, window=RANGE)),
        "percentunit",
        "Share of the calls that failed at Ollama, timed out or were turned away. What clients did wrong or gave up "
        "is not in it. More than 5 %: see Pilotlight / Itself and its errors.",
        steps=SHARE_FAILED,
        decimals=1,
    ).tile(
        "Waiting",
        total("batch_processor_queue_size"),
        "none",
        "Calls that wait for a place at this moment. Rising for minutes: more arrives than Ollama can do "
        "(runbook: PilotlightQueueFull).",
        steps=((None, GREEN), (10, ORANGE), (100, RED)),
        none="Unknown",
        now=True,
    )


def _work(board: Board) -> None:
    board.tile(
        "Calls",
        rate("llm_calls_total", MODEL),
        "reqps",
        "Calls to models per second, as they ended.",
        now=True,
        decimals=2,
    ).tile(
        "Tokens written",
        rate("llm_tokens_total", f'{MODEL}, type="output"'),
        "suffix: tok/s",
        "Tokens that Ollama generated per second, of all calls together.",
        now=True,
        decimals=0,
    ).tile(
        "Warm first token, P50",
        quantile(0.5, TTFT, _WARM, window=RANGE),
        "s",
        "What a usual call waits for its first token. Far below P95: a few calls are slow, mostly by long prompts or "
        "by waiting.",
        steps=WARM,
    ).tile(
        "Added by Pilotlight, P99",
        quantile(0.99, "pilotlight_overhead_seconds", window=RANGE),
        "s",
        "Time of Pilotlight's own in a call, each way. More than a few milliseconds: the processor is taken, see "
        "Pilotlight / Itself.",
        steps=((None, GREEN), (0.01, ORANGE), (0.05, RED)),
    ).tile(
        "Reloads seen",
        increase("pilotlight_model_reloads_total", MODEL, window=RANGE),
        "none",
        "Loads of a model that had been loaded before, over all that is shown. Each is a slow first token for "
        "somebody. The causes are on Pilotlight / Models.",
        steps=((None, GREEN), (1, ORANGE), (10, RED)),
        none="None",
        decimals=0,
    ).tile(
        "Reloads avoided",
        increase("pilotlight_reloads_avoided_total", MODEL, window=RANGE),
        "none",
        "Calls whose options would have made Ollama load the model again, and did not.",
        none="None",
        decimals=0,
    ).tile(
        "Answered from cache",
        share(
            increase("cache_hits_total", f'{INSTANCE}, cache="response"', window=RANGE),
            f"({increase('cache_hits_total', _RESPONSES, window=RANGE)}"
            f" + {increase('cache_misses_total', _RESPONSES, window=RANGE)})",
        ),
        "percentunit",
        "Share of the answers that were asked of the cache and found. Off by default (`cache.mode`).",
        none="Not used",
        decimals=0,
    ).tile(
        "Running since",
        f"time() - max(process_start_time_seconds{{{_OWN}}})",
        "dtdurations",
        "Time since the youngest of the chosen instances was started. Always short: it is restarted again and again "
        "(runbook: PilotlightRestarts).",
        none="Unknown",
        now=True,
        decimals=0,
    )


_RESPONSES: Final = f'{INSTANCE}, cache="response"'
_OWN: Final = f'{INSTANCE}, job="pilotlight"'


def _fast(board: Board) -> None:
    board.graph(
        "First token, warm and cold",
        [
            Query(quantile(0.5, TTFT, _WARM), "warm P50"),
            Query(quantile(0.95, TTFT, _WARM), "warm P95"),
            Query(quantile(0.5, TTFT, _COLD), "cold P50"),
            Query(quantile(0.95, TTFT, _COLD), "cold P95"),
        ],
        "s",
        "From the first byte of a request to its first token at the client. The dashed lines are the goals, 500 ms "
        "warm and 2 s cold. Details: Pilotlight / First token.",
        steps=GOALS,
        colours={
            "warm P50": "light-green",
            "warm P95": "dark-green",
            "cold P50": "light-blue",
            "cold P95": "dark-blue",
        },
    ).graph(
        "Where the first token's time goes",
        [Query(parts_per_call(), "{{part}}")],
        "s",
        "The mean first token, cut into its parts. queue: too many calls at once; load: the model was not there; "
        "prompt: long prompts; proxy: Pilotlight itself; other: Ollama's own queue, its first decode and the network.",
        stacked=True,
        colours=PARTS,
    )


def _warm(board: Board) -> None:
    board.timeline(
        "Kept models",
        Query(STATE_OF_KEPT, "{{model}}  {{instance}}"),
        "The state of each model under `models`. Lost or loading for long: see the log line `model lost`, which has "
        "the reason, and the runbook (PilotlightModelLost, PilotlightModelFailed).",
        STATES,
        none="None kept",
    ).graph(
        "Reloads seen and avoided",
        [
            Query(increase("pilotlight_model_reloads_total", MODEL, "cause"), "seen: {{cause}}"),
            Query(increase("pilotlight_reloads_avoided_total", MODEL), "avoided"),
        ],
        "none",
        "Loads of models that had been loaded before, by cause, and calls whose options would have caused one. "
        "Seen ones are what makes warm calls cold: evicted means that models do not fit beside each other, options "
        "that clients disagree (runbook: PilotlightReloads).",
        colours={"avoided": GREEN, "seen: evicted": RED, "seen: options": ORANGE},
    )


def _busy(board: Board) -> None:
    board.graph(
        "Calls by outcome",
        [Query(rate("llm_calls_total", MODEL, "status"), "{{status}}")],
        "reqps",
        "Calls to models per second by how they ended. upstream_error, timeout and rejected are failures of ours; "
        "client_error and cancelled are the clients'.",
        stacked=True,
        colours=STATUSES,
        width=8,
    ).graph(
        "Tokens written, by model",
        [Query(rate("llm_tokens_total", f'{MODEL}, type="output"', "model"), "{{model}}")],
        "suffix: tok/s",
        "Tokens generated per second and model. Flat while calls wait: Ollama is at its limit.",
        stacked=True,
        width=8,
    ).graph(
        "Waiting calls",
        [Query(total("batch_processor_queue_size", by="priority"), "{{priority}}")],
        "none",
        "Calls that wait for a place, by class. interactive above 0 for long: see Pilotlight / Traffic.",
        stacked=True,
        colours=PRIORITIES,
        width=8,
        none="Unknown",
    ).table(
        "Alerts that fire",
        'ALERTS{alertname=~"Pilotlight.*", alertstate="firing"}',
        "Each alert has its paragraph in docs/runbook.md: what it means, where to look first, what helps.",
        hidden=["__name__", "alertstate", "job"],
        width=24,
        none="None",
    )
