"""The first token: percentiles, its parts, cold against warm, how it is spread."""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import COLD, GOALS, GREY, SHARE_MET, WARM
from deploy.grafana.promql import INSTANCE, MODEL, RANGE, quantile, rate, share, within
from deploy.grafana.series import PARTS, parts_per_call
from deploy.grafana.sources import Query

TTFT: Final = "llm_time_to_first_token_seconds"
PART: Final = "llm_time_to_first_token_part_seconds"
_WARM: Final = f'{MODEL}, start="warm"'
_COLD: Final = f'{MODEL}, start="cold"'
_PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99)


def first_token() -> Board:
    board = Board("pilotlight-first-token", "Pilotlight / First token", "When the first token comes, and why late.")
    _percentiles(board.row("Cold against warm"))
    _parts(board.row("Its parts"))
    _models(board.row("By model and way"))
    return board


def _percentiles(board: Board) -> None:
    board.graph(
        "Warm",
        [Query(quantile(q, TTFT, _WARM), f"P{q * 100:g}") for q in _PERCENTILES],
        "s",
        "First tokens of models that were loaded; the goal is 500 ms (dashed). P99 alone is high: single long prompts "
        "or waits. All are high: see the parts below.",
        steps=WARM,
    ).graph(
        "Cold",
        [Query(quantile(q, TTFT, _COLD), f"P{q * 100:g}") for q in _PERCENTILES],
        "s",
        "First tokens that waited for a load; the goal is 2 s (dashed). Keep the model (`models`), use a smaller "
        "quantization, or a faster disk.",
        steps=COLD,
        none="No cold start",
    ).graph(
        "Within the goal",
        [Query(within("0.5", TTFT, _WARM), "warm within 500 ms"), Query(within("2.0", TTFT, _COLD), "cold within 2 s")],
        "percentunit",
        "Share of the first tokens that met their goal; exact, because buckets end there. Below 95 % for long: the "
        "alerts PilotlightWarmFirstTokenSlow and PilotlightColdFirstTokenSlow.",
        steps=SHARE_MET,
        top=1,
    ).graph(
        "Cold and warm starts",
        [Query(rate(f"{TTFT}_count", MODEL, "start"), "{{start}}")],
        "reqps",
        "Calls with a first token per second. Many cold ones: see Pilotlight / Models. unknown are replies that tell "
        "nothing, mostly of /v1 without usage.",
        stacked=True,
        colours={"warm": "green", "cold": "blue", "unknown": GREY},
    ).heat(
        "How first tokens are spread",
        f"sum by (le) (increase({TTFT}_bucket{{{MODEL}}}[$__rate_interval]))",
        "s",
        "How many first tokens fell into each bucket. Two bands: warm and cold, or two kinds of prompts. A band that "
        "climbs: a queue that grows.",
    )


def _parts(board: Board) -> None:
    board.graph(
        "Mean first token by its parts",
        [Query(parts_per_call(), "{{part}}")],
        "s",
        "The parts sum to the whole. queue: raise `scheduler.parallel` together with OLLAMA_NUM_PARALLEL, or send "
        "batches as `batch`; load: keep the model; prompt: shorter prompts, or `warm` ones; other: Ollama's own queue.",
        stacked=True,
        colours=PARTS,
    ).graph(
        "P95 of each part",
        [Query(quantile(0.95, PART, MODEL, "part"), "{{part}}")],
        "s",
        "What 95 % of the calls stay below in each part. These do not add up: different calls are slow in different "
        "parts.",
        colours=PARTS,
    ).graph(
        "Load",
        [Query(quantile(0.95, "llm_load_duration_seconds", MODEL, "model"), "{{model}}")],
        "s",
        "P95 of Ollama's load_duration. A few milliseconds: the model was there. Seconds: it was loaded again behind "
        "our back, see the reloads on Pilotlight / Models.",
    ).graph(
        "Reading the prompt",
        [Query(quantile(0.95, "llm_prompt_eval_duration_seconds", MODEL, "model"), "{{model}}")],
        "s",
        "P95 of Ollama's prompt_eval_duration. High with long prompts; put prompts that come again under `warm`, and "
        "keep what changes at their end.",
    )


def _models(board: Board) -> None:
    board.bars(
        "Warm P95 by model",
        Query(quantile(0.95, TTFT, _WARM, "model", RANGE), "{{model}}"),
        "s",
        "Over all that is shown. Red: misses the goal of 500 ms.",
        steps=WARM,
    ).bars(
        "Cold P95 by model",
        Query(quantile(0.95, TTFT, _COLD, "model", RANGE), "{{model}}"),
        "s",
        "Over all that is shown. Red: misses the goal of 2 s. Worth keeping first.",
        steps=COLD,
        none="No cold start",
    ).graph(
        "P95 by model",
        [Query(quantile(0.95, TTFT, MODEL, "model"), "{{model}}")],
        "s",
        "Warm and cold together. One model alone is slow: its size, its num_ctx, or it spills out of VRAM.",
        steps=GOALS,
    ).graph(
        "First byte by route",
        [Query(quantile(0.95, "llm_time_to_first_byte_seconds", INSTANCE, "endpoint"), "{{endpoint}}")],
        "s",
        "P95 of the time to the first byte of the reply's body. On routes without a stream it is the whole reply.",
    ).graph(
        "Variation of the first token",
        [Query(share(quantile(0.95, TTFT, _WARM), quantile(0.5, TTFT, _WARM)), "warm P95 / P50")],
        "none",
        "How much worse than usual the bad first tokens are. 1: all alike. Above 3: waits, or prompts of very "
        "different lengths.",
        width=24,
    )
