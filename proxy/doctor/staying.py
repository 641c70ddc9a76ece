"""Checks of what is loaded: is it there, how long does it stay, and with the options that were meant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proxy.doctor.facts import Observed, ahead_s, expires_in_s, keep_alive_s
from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped, span
from proxy.rewrite.options import runner_options
from proxy.wire.durations import parse_go_duration
from proxy.wire.names import canonical, is_cloud

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.settings import KeptModel
    from proxy.upstream.ollama import RunningModel

_UNASKED = "/api/ps was not answered"
# As measured with a model of 83 MB on Ollama 0.24.0.
_RELOAD_COST = "each such request loads the model anew: 290 ms for one of 83 MB on Ollama 0.24.0, and more the larger"


def resident(observed: Observed) -> Outcome:
    """7. Whether anything is loaded."""
    if observed.running is None:
        return Skipped(_UNASKED)
    if observed.running or _local_kept(observed):
        return []
    return [
        Finding(
            "nothing_resident",
            Severity.NOTICE,
            observed.upstream.url,
            "no model is loaded",
            f"/api/ps lists none; {len(observed.stored or ())} are stored",
            Basis.REPORTED,
            "the first request waits for a load" if not observed.stored else observed.load_cost(""),
            "`pilotlight serve --model NAME` loads it at the start and keeps it.",
        )
    ]


def _local_kept(observed: Observed) -> list[KeptModel]:
    """Kept models that run on the server itself."""
    return [
        model
        for model in observed.settings.models
        if not is_cloud(model.name)
        and not ((found := observed.described.get(canonical(model.name))) and found.facts.remote)
    ]


def kept(observed: Observed) -> Outcome:
    """8. Whether the models that the settings keep are stored, and loaded."""
    if observed.running is None or observed.stored is None:
        return Skipped("/api/ps or /api/tags was not answered")
    if not observed.settings.models:
        return Skipped("the settings keep no model")
    findings = []
    for model in _local_kept(observed):
        if observed.tag(model.name) is None:
            findings.append(
                Finding(
                    "not_stored",
                    Severity.ERROR,
                    model.name,
                    f"{model.name} is to be kept, and Ollama does not have it",
                    f"/api/tags lists {len(observed.stored)} models, and not this one",
                    Basis.REPORTED,
                    "every request for it is answered 404",
                    f"`ollama pull {model.name}`, or residency.pull_missing: true.",
                )
            )
        elif observed.row(model.name) is None:
            findings.append(
                Finding(
                    "not_resident",
                    Severity.WARNING,
                    model.name,
                    f"{model.name} is to be kept, and is not loaded",
                    f"/api/ps lists {_names(observed.running)}",
                    Basis.REPORTED,
                    observed.load_cost(model.name),
                    "Start `pilotlight serve` with these settings; where it runs, /models of its admin port says why.",
                )
            )
    return findings


def _names(rows: Iterable[RunningModel]) -> str:
    return ", ".join(row.name for row in rows) or "none"


def lasting(observed: Observed) -> Outcome:
    """9. Whether what is loaded stays. With kept models in the settings only those are asked for."""
    if observed.running is None:
        return Skipped(_UNASKED)
    wanted = {observed.weights(model.name) for model in observed.settings.models}
    findings = []
    for row in observed.running:
        left = expires_in_s(row, observed.now, ahead_s(observed))
        if left is None or math.isinf(left) or (wanted and observed.weights(row.name) not in wanted):
            continue
        if wanted and _is_meant(observed, row.name):
            continue
        findings.append(_unpinned(observed, row, max(0.0, left)))
    return findings


def _is_meant(observed: Observed, name: str) -> bool:
    """The operator set a ``keep_alive`` that ends, so ending is no surprise."""
    return any(
        not str(model.keep_alive).startswith("-")
        for model in observed.settings.models
        if observed.weights(model.name) == observed.weights(name)
    )


def _unpinned(observed: Observed, row: RunningModel, left: float) -> Finding:
    evidence = f"`expires_at` is {span(left)} from now"
    figures = {"expires_in_s": round(left, 1)}
    stays = keep_alive_s(observed)
    is_streamed = observed.direct is not None and observed.weights(observed.direct.model) == observed.weights(row.name)
    if stays is not None and is_streamed:
        evidence += f"; after our own request it was {span(stays)}, which is its keep_alive"
        figures["keep_alive_s"] = round(stays, 1)
    named = f"`pilotlight serve --model {row.name}` keeps it and puts its own keep_alive in the place of clients'"
    return Finding(
        "unpinned",
        Severity.WARNING,
        row.name,
        f"{row.name} is unloaded when it was not used for a while",
        evidence,
        Basis.MEASURED if stays is not None and is_streamed else Basis.REPORTED,
        f"after that, {observed.load_cost(row.name)}",
        f"{named}; without it, OLLAMA_KEEP_ALIVE=-1 for the server, and no client that sends a shorter one.",
        figures,
    )


def keep_alive(observed: Observed) -> Outcome:
    """10. Whether Ollama is told to unload at once. What it was really started with is not visible from outside."""
    text = observed.environ.get("OLLAMA_KEEP_ALIVE", "")
    if not text:
        return Skipped("OLLAMA_KEEP_ALIVE is not in this environment")
    try:
        stays = parse_go_duration(text)
    except ValueError:
        try:
            stays = float(int(text))
        except ValueError:
            return [_unreadable(text)]
    if stays != 0:
        return []
    return [
        Finding(
            "keep_alive_zero",
            Severity.WARNING,
            "OLLAMA_KEEP_ALIVE",
            "OLLAMA_KEEP_ALIVE=0: every model is unloaded as soon as it is idle",
            "the variable is 0 in this process's environment; Ollama's own may differ",
            Basis.REPORTED,
            "every request that says nothing else waits for a load",
            "OLLAMA_KEEP_ALIVE=-1, or `10m` and the like, for the server.",
        )
    ]


def _unreadable(text: str) -> Finding:
    return Finding(
        "keep_alive_unread",
        Severity.NOTICE,
        "OLLAMA_KEEP_ALIVE",
        "OLLAMA_KEEP_ALIVE is neither a duration nor a number, so Ollama stays with five minutes",
        f"the variable is {text!r} in this process's environment; Ollama's own may differ",
        Basis.REPORTED,
        "models are unloaded after five idle minutes",
        "Write `24h`, a number of seconds, or -1 for ever.",
    )


def options(observed: Observed) -> Outcome:
    """11. Whether kept models run with the context that the settings give them."""
    if observed.running is None:
        return Skipped(_UNASKED)
    meant = {observed.weights(model.name): model for model in reversed(observed.settings.models)}
    findings = []
    for row in observed.running:
        model = meant.get(observed.weights(row.name))
        num_ctx = None if model is None else model.options.get("num_ctx")
        if model is None or num_ctx is None or not row.context_length:
            continue
        found = observed.described.get(canonical(model.name))
        trained = found.facts.trained_num_ctx if found is not None else None
        expected = min(num_ctx, trained or num_ctx)
        grown = model.max_num_ctx or trained or row.context_length
        if row.context_length == expected or (expected < row.context_length <= grown and _keeps(observed)):
            continue
        findings.append(
            Finding(
                "context_drift",
                Severity.WARNING,
                row.name,
                f"{row.name} runs with another context than its settings say",
                f"/api/ps says {row.context_length} tokens, options.num_ctx is {num_ctx}"
                + (f", cut to the {trained} that it was trained with" if trained and trained < num_ctx else ""),
                Basis.REPORTED,
                f"the next request with the settings' options reloads it, the next without them perhaps again; "
                f"{_RELOAD_COST}",
                "Let every client come through Pilotlight, which gives all of them one set of options; find the one "
                "that does not (`OLLAMA_HOST`, or `pilotlight doctor --watch 60`).",
                {"context_length": row.context_length, "num_ctx": num_ctx},
            )
        )
    return findings


def _keeps(observed: Observed) -> bool:
    """A proxy of ours is there, with one set of options for each model, which grows for a client as it should."""
    return (
        observed.admin is not None and observed.admin.is_there and observed.settings.rewrite.client_options == "merge"
    )


def names(observed: Observed) -> Outcome:
    """12. Whether several names of the same weights have runner options that differ."""
    if not observed.described:
        return Skipped("no model was described")
    kept_names = {canonical(model.name) for model in observed.settings.models}
    by_weights: dict[str, dict[str, dict[str, object]]] = {}
    for name, found in sorted(observed.described.items()):
        if found.facts.weights.startswith("name:"):
            continue
        by_weights.setdefault(found.facts.weights, {})[name] = runner_options(found.facts.parameters)
    findings = []
    for group in by_weights.values():
        differing = _differing(list(group.values()))
        if not differing:
            continue
        told = "; ".join(f"{name}: {_values(own, differing)}" for name, own in group.items())
        first, *others = group
        is_wanted = any(observed.row(name) is not None or name in kept_names for name in group)
        through = f"(`pilotlight serve --model {first}`)" if not _keeps(observed) else "(it runs: who goes past it?)"
        findings.append(
            Finding(
                "shared_weights",
                Severity.WARNING if is_wanted and not _keeps(observed) else Severity.NOTICE,
                first,
                f"{' and '.join(group)} share one runner, and their Modelfiles want it with different options",
                told,
                Basis.REPORTED,
                f"each change from one name to the other is a reload; {_RELOAD_COST}",
                f"Give both the same PARAMETER {' and '.join(differing)}; or let clients come through Pilotlight, "
                f"which keeps one set for the weights {through}.",
                {"names": len(others) + 1},
            )
        )
    return findings


def _values(own: dict[str, object], options: list[str]) -> str:
    return ", ".join(f"{option} {own.get(option, 'not set')}" for option in options)


def _differing(sets: list[dict[str, object]]) -> list[str]:
    """Options that make Ollama reload. One that is not set is the server's default, which counts as different.

    An unset ``num_gpu`` never does (v0.24.0, server/sched.go, ``needsReload``).
    """
    found = []
    for option in sorted({name for own in sets for name in own}):
        values = [own.get(option) for own in sets if option != "num_gpu" or option in own]
        if any(value != values[0] for value in values):
            found.append(option)
    return found
