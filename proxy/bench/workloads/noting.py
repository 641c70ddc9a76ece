"""What is noted of a measured call. Pure.

Parts of the first token come from Ollama's final record, which every side passes on, and from ``Server-Timing`` where
a proxy sends it. Both are measured by other processes, so each part is cut to what is left of the time that the client
saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.bench.results import Parts, Sample
from proxy.observe.timeline import COLD_LOAD_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.bench.first_token import Measured

# Why a call is in no figure.
WARM_UP: Final = "warm-up"
PREPARATION: Final = "preparation"
BACKGROUND: Final = "background"
LEAVES: Final = "leaves while the model loads"
LEFT: Final = "cut off when the measured call was over"

# Calls that waited for the same load see its end within this share of its time from each other. Two loads cannot end
# nearer to each other than what counts as a load at all.
_SAME_LOAD_SHARE: Final = 0.1


def parts_of(measured: Measured) -> Parts | None:
    """Where the first token's time went.

    Returns:
        ``None`` where nothing tells. ``queue_s`` and ``proxy_s`` only where ``Server-Timing`` has them.
    """
    load_s = measured.duration_s("load_duration")
    timing = measured.timing
    if load_s is None and "queue" not in timing:
        return None
    left = measured.first_token_s

    def take(seconds: float) -> float:
        nonlocal left
        taken = min(max(0.0, seconds), left)
        left -= taken
        return taken

    queue_s = take(timing["queue"]) if "queue" in timing else None
    load = take((load_s or 0.0) + timing.get("load", 0.0))
    prompt_s = measured.duration_s("prompt_eval_duration")
    prompt = None if prompt_s is None else take(prompt_s)
    proxy_s = take(timing["proxy"]) if "proxy" in timing else None
    return Parts(queue_s=queue_s, load_s=load, prompt_s=prompt, proxy_s=proxy_s, other_s=left)


def sample_of(measured: Measured, *, run: int, call: int, t_start_s: float, excluded: str = "") -> Sample:
    """A call that was answered."""
    parts = parts_of(measured)
    tokens = measured.record.get("eval_count")
    prompt_tokens = measured.record.get("prompt_eval_count")
    return Sample(
        run=run,
        call=call,
        t_start_s=t_start_s,
        ttft_s=measured.first_token_s,
        total_s=measured.total_s,
        # Without a count: a frame is a token, in all but rare cases.
        tokens=tokens if isinstance(tokens, int) else len(measured.arrivals_s),
        prompt_tokens=prompt_tokens if isinstance(prompt_tokens, int) else None,
        parts=parts,
        cold=parts is not None and parts.load_s is not None and parts.load_s > COLD_LOAD_S,
        excluded=excluded,
    )


def failed_sample(error: str | None, *, run: int, call: int, t_start_s: float, excluded: str = "") -> Sample:
    """A call that was not answered, or not wholly; without an error it was we who left."""
    return Sample(
        run=run,
        call=call,
        t_start_s=t_start_s,
        ttft_s=None,
        total_s=None,
        tokens=0,
        prompt_tokens=None,
        excluded=excluded,
        error=error,
    )


def count_loads(samples: Iterable[Sample]) -> int:
    """How many loads the cold calls had to wait for, those of preparation left out.

    Calls that wait for the same load all tell of it, so loads that end at the same moment are one. The moment is that
    of the part ``load``: what lies before it is the queue.
    """
    ends: list[tuple[float, float]] = []
    for sample in samples:
        if not sample.cold or sample.excluded in (WARM_UP, PREPARATION) or sample.parts is None:
            continue
        load_s = sample.parts.load_s or 0.0
        ends.append((sample.t_start_s + (sample.parts.queue_s or 0.0) + load_s, load_s))
    ends.sort()
    loads = 0
    last = float("-inf")
    for end, load_s in ends:
        if end - last > max(COLD_LOAD_S, _SAME_LOAD_SHARE * load_s):
            loads += 1
        last = end
    return loads
