"""Checks of memory: what is in VRAM, what fits beside what, and how many models may be loaded.

How much VRAM there is cannot be asked of Ollama. It is known where the operator says so (``--vram``), and can be
estimated where a model spilled: then what all loaded models have in VRAM together is what there was to have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from proxy.doctor.facts import DEFAULT_NUM_CTX, Observed
from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped, amount
from proxy.wire.names import canonical

if TYPE_CHECKING:
    from proxy.upstream.ollama import RunningModel

_UNASKED = "/api/ps was not answered"
# v0.24.0, server/sched.go, ``defaultModelsPerGPU``; on a machine without a GPU it is 3 as well.
_DEFAULT_MODELS_PER_GPU = 3
_ONLY_BENCH = "how much slower is not measured here: `pilotlight bench --models` does"


class Need(NamedTuple):
    """Memory that one model takes, and how that is known."""

    size_bytes: int
    how: str
    is_estimated: bool


def capacity(observed: Observed) -> tuple[int, str, bool] | None:
    """VRAM that models can have, how that is known, and whether it is a guess; ``None`` where nothing is known."""
    if observed.vram_bytes is not None:
        return observed.vram_bytes, "as --vram says", False
    rows = observed.running or ()
    if any(0 < row.vram_bytes < row.size_bytes for row in rows):
        return sum(row.vram_bytes for row in rows), "what the loaded models have of it while one spills", True
    return None


def need(observed: Observed, name: str) -> Need | None:
    """Memory that a model takes, or would; ``None`` where it is not stored."""
    row = observed.row(name)
    if row is not None:
        return Need(row.size_bytes, "as /api/ps says", is_estimated=False)
    entry = observed.tag(name)
    if entry is None:
        return None
    found = observed.described.get(canonical(name))
    if found is None or found.context_bytes is None:
        return Need(entry.size_bytes, "its file alone, without context", is_estimated=True)
    num_ctx = _num_ctx(observed, name)
    size = entry.size_bytes + num_ctx * found.context_bytes
    return Need(size, f"its file and {num_ctx} tokens of context", is_estimated=True)


def _num_ctx(observed: Observed, name: str) -> int:
    """The context that it would be loaded with, as far as that can be seen from here."""
    found = observed.described.get(canonical(name))
    kept = next((m.options.get("num_ctx") for m in observed.settings.models if canonical(m.name) == canonical(name)), 0)
    own = found.facts.parameters.get("num_ctx") if found is not None else None
    told = observed.environ.get("OLLAMA_CONTEXT_LENGTH", "")
    wanted = kept or (own if isinstance(own, int) else 0) or (int(told) if told.isdigit() else 0) or DEFAULT_NUM_CTX
    trained = found.facts.trained_num_ctx if found is not None else None
    return min(wanted, trained or wanted)


def spill(observed: Observed) -> Outcome:
    """13. Whether loaded models are in VRAM whole."""
    if observed.running is None:
        return Skipped(_UNASKED)
    findings = [_spilled(observed, row) for row in observed.running if 0 < row.vram_bytes < row.size_bytes]
    outside = [row for row in observed.running if not row.vram_bytes and row.size_bytes]
    for row in outside:
        others = len(outside) < len(observed.running)
        findings.append(
            Finding(
                "on_processor",
                Severity.WARNING if others else Severity.NOTICE,
                row.name,
                f"{observed.called(row.name)} runs on the processor, not on a GPU",
                f"/api/ps: {amount(row.size_bytes)}, of which 0 in VRAM"
                + (", while other models have some" if others else ", and no other model has any"),
                Basis.REPORTED,
                f"prompts are read and tokens written at the processor's speed; {_ONLY_BENCH}",
                "Unload what is in VRAM and not needed (`ollama stop NAME`), or take a smaller model."
                if others
                else "If this machine has a GPU: see in Ollama's log whether it was found, and set no num_gpu 0. If "
                "not: `--ignore on_processor`.",
                {"size_bytes": row.size_bytes, "vram_bytes": 0},
            )
        )
    return findings


def _spilled(observed: Observed, row: RunningModel) -> Finding:
    out = row.size_bytes - row.vram_bytes
    share = row.vram_bytes / row.size_bytes
    return Finding(
        "spilled",
        Severity.WARNING,
        row.name,
        f"{row.name} is only partly in VRAM",
        f"/api/ps: {amount(row.vram_bytes)} of {amount(row.size_bytes)} ({share:.0%}) in VRAM, {amount(out)} are not"
        + (f"; {row.context_length} tokens of context" if row.context_length else ""),
        Basis.REPORTED,
        f"the layers outside run on the processor, for each prompt and each token; {_ONLY_BENCH}",
        _smaller(observed, row),
        {"size_bytes": row.size_bytes, "vram_bytes": row.vram_bytes, "vram_share": round(share, 3)},
    )


def _smaller(observed: Observed, row: RunningModel) -> str:
    """What to change so that it fits: a smaller context, where that is enough."""
    others = [other.name for other in observed.running or () if other.vram_bytes and other is not row]
    more = f"; or unload {' and '.join(others)} (`ollama stop {others[0]}`)" if others else ""
    found = observed.described.get(canonical(row.name))
    is_plain = observed.environ.get("OLLAMA_KV_CACHE_TYPE", "f16") in ("", "f16")
    if found is not None and found.context_bytes and row.context_length and is_plain:
        fits = row.context_length - -(-(row.size_bytes - row.vram_bytes) // found.context_bytes)
        if fits >= 1024:
            fits = fits // 1024 * 1024
            return (
                f"num_ctx {fits} instead of {row.context_length} would fit (estimated: a token of context takes "
                f"{found.context_bytes // 1024} KiB), as options of the model in Pilotlight's settings{more}."
            )
        return f"Context alone does not make it fit: take a smaller quantization or a smaller model{more}."
    return f"A smaller num_ctx, a smaller quantization or a smaller model{more}."


def fitting(observed: Observed) -> Outcome:
    """14. Whether the models that are wanted fit beside each other; most important first."""
    if observed.running is None or observed.stored is None:
        return Skipped("/api/ps or /api/tags was not answered")
    known = capacity(observed)
    if known is None:
        return Skipped("how much VRAM there is cannot be seen from outside (--vram GIB says it)")
    vram, whence, is_guess = known
    wanted = [model.name for model in observed.settings.models] or [row.name for row in observed.running]
    beside: dict[str, tuple[str, Need]] = {}
    findings = []
    for name in wanted:
        needs = need(observed, name)
        if needs is None or observed.weights(name) in beside:
            continue
        used = sum(other.size_bytes for _, other in beside.values())
        row = observed.row(name)
        # What spills alone is told by that; what is wanted beside it does not fit either.
        is_told = not beside and row is not None and 0 < row.vram_bytes < row.size_bytes
        if is_told or used + needs.size_bytes <= vram:
            beside[observed.weights(name)] = (name, needs)
            continue
        others = " beside " + " and ".join(observed.called(other) for other, _ in beside.values()) if beside else ""
        told = [*(f"{other} {amount(n.size_bytes)} ({n.how})" for other, n in beside.values())]
        told.append(f"{name} {amount(needs.size_bytes)} ({needs.how})")
        guessed = is_guess or needs.is_estimated or any(n.is_estimated for _, n in beside.values())
        findings.append(
            Finding(
                "does_not_fit",
                Severity.WARNING,
                name,
                f"{observed.called(name)} does not fit{others or ' in VRAM at all'}",
                f"{' + '.join(told)} = {amount(used + needs.size_bytes)}, of {amount(vram)} VRAM ({whence})",
                Basis.ESTIMATED if guessed else Basis.REPORTED,
                f"each loads by pushing another out, or runs partly on the processor; {observed.load_cost(name)}",
                "A smaller num_ctx or quantization for one of them; or keep the others only, and let this one be "
                "loaded on demand.",
                {"needed_bytes": used + needs.size_bytes, "vram_bytes": vram},
            )
        )
    return findings


def places(observed: Observed) -> Outcome:
    """15. Whether as many models may be loaded as are wanted."""
    wanted = {observed.weights(model.name): model.name for model in reversed(observed.settings.models)}
    if not wanted:
        wanted = {observed.weights(row.name): row.name for row in observed.running or ()}
    told = observed.environ.get("OLLAMA_MAX_LOADED_MODELS", "")
    most = int(told) if told.isdigit() else 0
    is_told = most > 0
    if is_told:
        said = f"OLLAMA_MAX_LOADED_MODELS is {most} in this process's environment; Ollama's own may differ"
    elif len(wanted) > _DEFAULT_MODELS_PER_GPU:
        most = _DEFAULT_MODELS_PER_GPU
        said = f"OLLAMA_MAX_LOADED_MODELS is not set here; Ollama's default is {most} for each GPU, or without one"
    else:
        return [] if wanted else Skipped("no model is kept or loaded")
    if len(wanted) <= most:
        return []
    listed = [observed.called(name) for name in reversed(wanted.values())]
    return [
        Finding(
            "too_few_places",
            Severity.WARNING if is_told else Severity.NOTICE,
            "OLLAMA_MAX_LOADED_MODELS",
            f"{len(wanted)} models are wanted, and Ollama loads {most} at a time",
            f"wanted: {', '.join(listed)}; {said}",
            Basis.REPORTED if is_told else Basis.ESTIMATED,
            "they push each other out in turn, an embedding model its chat model with every question; "
            f"{observed.load_cost(next(iter(wanted.values())))}",
            f"OLLAMA_MAX_LOADED_MODELS={len(wanted)} for the server, if memory allows.",
            {"wanted": len(wanted), "most": most},
        )
    ]
