"""What a doctor may have seen, made by hand: everything is well where nothing else is said."""

from __future__ import annotations

from typing import Any

from proxy.bench.first_token import Measured
from proxy.doctor.facts import Contact, Described, Observed, Reached, Stream
from proxy.doctor.finding import Finding, Outcome, Skipped
from proxy.rewrite.facts import ModelFacts
from proxy.settings import Settings
from proxy.upstream.ollama import RunningModel, TagEntry
from proxy.wire.names import canonical

URL = "http://127.0.0.1:11434/api/version"
NOW = 1_800_000_000.0
GIB = 2**30
FOREVER = NOW + 290 * 365 * 86_400


def answer(status: int = 200, *, url: str = URL, body: Any = None, text: str = "", server: str = "") -> Contact:
    return Contact(url, Reached.ANSWERED, status, body, text, server, 0.001)


def ollama(version: str = "0.30.0") -> Contact:
    return answer(body={"version": version})


def row(
    name: str, size: float = 2, vram: float | None = None, *, expires: float | None = FOREVER, ctx: int = 4096
) -> Any:
    """A row of /api/ps; sizes in GiB."""
    in_vram = size if vram is None else vram
    return RunningModel(f"{name}", "", int(size * GIB), int(in_vram * GIB), expires, ctx)


def described(name: str, weights: str = "", *, context_bytes: int | None = None, **facts: Any) -> Described:
    given = {"capabilities": frozenset(["completion"]), "trained_num_ctx": 131_072, **facts}
    return Described(ModelFacts(canonical(name), "", weights or f"sha256:{name}", **given), context_bytes)


def observed(
    *rows: RunningModel,
    settings: dict[str, Any] | None = None,
    models: dict[str, Described] | None = None,
    stored: list[tuple[str, float]] | None = None,
    **more: Any,
) -> Observed:
    """Everything that was seen; ``stored`` has names and GiB."""
    names = {canonical(entry.name): described(entry.name) for entry in rows}
    kept = Settings.model_validate(settings or {})
    entries = [(model.name, 2.0) for model in kept.models] + [(entry.name, 2.0) for entry in rows]
    files = dict(stored if stored is not None else entries)
    given: dict[str, Any] = {
        "environ": {},
        "upstream": ollama(),
        "now": NOW,
        "running": tuple(rows),
        "stored": tuple(TagEntry(name, "", int(size * GIB)) for name, size in files.items()),
        "described": {**names, **{canonical(name): found for name, found in (models or {}).items()}},
        **more,
    }
    return Observed(kept, **given)


def stream(
    *arrivals_s: float, made_s: float | None = None, load_s: float = 0.001, url: str = "http://a/api/chat"
) -> Stream:
    """A stream of the model ``m`` whose tokens arrived at these times and were made within ``made_s``."""
    record: dict[str, Any] = {"done": True, "eval_count": len(arrivals_s), "load_duration": int(load_s * 1e9)}
    if made_s is not None:
        record["eval_duration"] = int(made_s * 1e9)
    return Stream(url, "m", Measured(arrivals_s[0], arrivals_s[-1] + 0.01, arrivals_s, record))


def codes(outcome: Outcome) -> list[str]:
    """The codes of the findings; a check that was skipped is none of them."""
    assert not isinstance(outcome, Skipped), outcome.why
    return [finding.code for finding in outcome]


def only(outcome: Outcome) -> Finding:
    assert not isinstance(outcome, Skipped), outcome.why
    (finding,) = outcome
    return finding
