"""Models: which are loaded, how much of them is in VRAM, what was loaded again and what was not."""

from __future__ import annotations

from typing import Final

from deploy.grafana.board import Board
from deploy.grafana.looks import GREEN, ORANGE, RED
from deploy.grafana.promql import INSTANCE, MODEL, RANGE, increase, rate, share, total
from deploy.grafana.series import LOADED, STATE_OF_KEPT, STATES
from deploy.grafana.sources import Query

_NAMED: Final = f'{MODEL}, model!="other"'
_EXPIRES: Final = f"pilotlight_model_expires_timestamp_seconds{{{_NAMED}}}"


def residency() -> Board:
    board = Board("pilotlight-models", "Pilotlight / Models", "Which are loaded, and what it costs when one is not.")
    _loaded(board.row("Residency"))
    _memory(board.row("Memory"))
    _reloads(board.row("Reloads"))
    return board


def _loaded(board: Board) -> None:
    board.timeline(
        "Kept models",
        Query(STATE_OF_KEPT, "{{model}}  {{instance}}"),
        "The state of each model under `models`. Lost: the log line `model lost` has the cause. Failed: "
        "/models on the admin port has Ollama's reason. Released: somebody unloaded it, and the next call loads it.",
        STATES,
        none="None kept",
    ).timeline(
        "Loaded models",
        Query(f"max by (instance, model) (pilotlight_model_loaded{{{_NAMED}}})", "{{model}}  {{instance}}"),
        "Everything that Ollama's /api/ps lists, kept or not. Two that take turns do not fit beside each other "
        "(runbook: PilotlightEvictionWar).",
        LOADED,
        none="None",
    ).bars(
        "Until unloaded",
        Query(
            f"clamp_max(min by (instance, model) ({_EXPIRES}) - time(), 86400)",
            "{{model}}",
        ),
        "s",
        "When Ollama will unload an idle model; a day stands for a day or longer, so for ever too. Kept models should "
        "have that.",
        none="None loaded",
    ).graph(
        "Loads by Pilotlight",
        [Query(increase("pilotlight_preloads_total", MODEL, "model, result"), "{{model}} {{result}}")],
        "none",
        "Loads at the start and to put models back. failed: /models on the admin port has Ollama's reason (runbook: "
        "PilotlightModelFailed).",
        none="None",
    )


def _memory(board: Board) -> None:
    size = f"pilotlight_model_size_bytes{{{_NAMED}}}"
    vram = f"pilotlight_model_vram_bytes{{{_NAMED}}}"
    board.graph(
        "Memory of loaded models",
        [
            Query(f"sum by (model) ({vram})", "{{model}} in VRAM"),
            Query(f"sum by (model) ({size} - {vram})", "{{model}} beside it"),
        ],
        "bytes",
        "What each model takes in VRAM, and what of it is in main memory because it did not fit. The upper edge is "
        "what all loaded models need.",
        stacked=True,
        none="None loaded",
    ).bars(
        "In VRAM",
        Query(share(f"sum by (model) ({vram})", f"sum by (model) ({size})"), "{{model}}"),
        "percentunit",
        "Less than all of a model in VRAM makes every token slow (runbook: PilotlightModelSpills): a smaller "
        "quantization, a smaller num_ctx, or fewer models at once. 0 % on a machine without a GPU.",
        steps=((None, RED), (0.5, ORANGE), (0.99, GREEN)),
        none="None loaded",
    )


def _reloads(board: Board) -> None:
    board.graph(
        "Reloads seen",
        [Query(increase("pilotlight_model_reloads_total", MODEL, "model, cause"), "{{model}}: {{cause}}")],
        "none",
        "Loads of models that had been loaded before. options: clients disagree, set `options` for the model; "
        "evicted: it does not fit beside others; restart: Ollama was started anew (runbook: PilotlightReloads).",
        none="None",
    ).graph(
        "Reloads avoided",
        [Query(increase("pilotlight_reloads_avoided_total", MODEL, "option"), "{{option}}")],
        "none",
        "Calls whose option would have made Ollama load the model again. X-Pilotlight-Options told their clients.",
        stacked=True,
        none="None",
    ).bars(
        "Reloads by cause",
        Query(increase("pilotlight_model_reloads_total", MODEL, "cause", RANGE), "{{cause}}"),
        "none",
        "Over all that is shown.",
        steps=((None, GREEN), (1, ORANGE), (10, RED)),
        none="None",
        width=8,
    ).bars(
        "Avoided by model",
        Query(increase("pilotlight_reloads_avoided_total", MODEL, "model", RANGE), "{{model}}"),
        "none",
        "Over all that is shown; each would have been a slow first token.",
        none="None",
        width=8,
    ).graph(
        "Prompts that were cut",
        [Query(increase("pilotlight_prompts_cut_total", MODEL, "model"), "{{model}}")],
        "none",
        "Prompts longer than the context, of models with `long_prompts: tell`. Raise `num_ctx`, or let it grow.",
        none="None",
        width=8,
    ).graph(
        "What is put into requests",
        [Query(rate("pilotlight_rewrites_total", f'{INSTANCE}, action="applied"', "rule"), "{{rule}}")],
        "reqps",
        "keep_alive and options: put in or overridden; generate_9: generate sent as chat. The other rules are reasons "
        "against that (docs/rewriting.md).",
    ).graph(
        "Models that failed",
        [Query(f"{total('pilotlight_model_state', _FAILED)}", "failed now")],
        "none",
        "Kept models that cannot be resident at this moment. Above 0: /models on the admin port has the reasons.",
        none="None kept",
    )


_FAILED: Final = f'{MODEL}, state="failed"'
