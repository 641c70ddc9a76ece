"""Checks of the way between client and model: does a hop hold tokens back, and how many run at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.bench.first_token import Measured
    from proxy.doctor.facts import Observed, Stream

# As for requests that come through the proxy: a load that took longer was a real one.
_COLD_S = 0.1
_NGINX = (
    'In nginx: `proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";` in the location (and no '
    "gzip). Or put Pilotlight behind it, which sends `X-Accel-Buffering: no` on streams; nginx obeys."
)
_OTHER = (
    "Switch response buffering and compression off there, for application/x-ndjson and text/event-stream. Pilotlight "
    "behind it sends `X-Accel-Buffering: no` and `Cache-Control: no-transform`, which several obey."
)


def held_s(measured: Measured) -> float | None:
    """How long the first token was held back, judged by the last one and by how fast tokens were made.

    The tokens between the first and the last took ``(n - 1) x eval_duration / eval_count`` to make; where they arrived
    within less, the first one waited for the rest. ``None`` where Ollama does not say how fast it was.
    """
    made_s, count = measured.duration_s("eval_duration"), measured.record.get("eval_count")
    if made_s is None or not isinstance(count, int) or count < 2 or len(measured.arrivals_s) < 2:
        return None
    spread_s = measured.arrivals_s[-1] - measured.arrivals_s[0]
    return max(0.0, made_s / count * (len(measured.arrivals_s) - 1) - spread_s)


def buffering(observed: Observed) -> Outcome:
    """17. Whether tokens arrive one by one, as they are made."""
    if observed.direct is None and observed.through is None:
        return Skipped(observed.why_no_stream or "nothing was streamed")
    findings: list[Finding] = []
    direct, through = observed.direct, observed.through
    is_direct_held = direct is not None and direct.measured is not None and bool(direct.measured.is_held_back)
    if is_direct_held and direct is not None:
        findings.append(_held(observed, direct, "upstream_buffers", "what stands in front of Ollama"))
    if through is not None and through.measured is not None and through.measured.is_held_back:
        findings.append(_held(observed, through, "hop_buffers", "a hop in between"))
    findings += [_failed(stream) for stream in (direct, through) if stream is not None and stream.measured is None]
    if direct is not None and direct.measured is not None:
        findings += _hidden(observed, direct.model, direct.measured)
    judged = [s.measured.is_held_back for s in (direct, through) if s is not None and s.measured is not None]
    if not findings and judged and all(verdict is None for verdict in judged):
        return Skipped("too few tokens, or made too fast, to tell (--tokens N asks for more)")
    return findings


def _held(observed: Observed, stream: Stream, code: str, who: str) -> Finding:
    measured = stream.measured
    assert measured is not None  # noqa: S101 - the caller looked
    arrivals = measured.arrivals_s
    held = held_s(measured) or 0.0
    made = measured.duration_s("eval_duration") or 0.0
    evidence = (
        f"{len(arrivals)} tokens, which Ollama says it made within {span(made)}, arrived within "
        f"{span(arrivals[-1] - arrivals[0])}; first token after {span(measured.first_token_s)}"
    )
    figures = {
        "tokens": len(arrivals),
        "made_s": round(made, 3),
        "arrived_within_s": round(arrivals[-1] - arrivals[0], 3),
        "held_s": round(held, 3),
        "first_token_s": round(measured.first_token_s, 3),
    }
    other = observed.direct
    if other is not None and other is not stream and other.measured is not None:
        evidence += f", directly {span(other.measured.first_token_s)}"
        figures["direct_first_token_s"] = round(other.measured.first_token_s, 3)
    contact = observed.via if stream is observed.through else observed.upstream
    is_nginx = contact is not None and "nginx" in contact.server.lower()
    return Finding(
        code,
        Severity.WARNING,
        stream.url,
        f"{who} holds tokens back",
        evidence + (f". It calls itself {contact.server}" if contact is not None and contact.server else ""),
        Basis.MEASURED,
        f"the first token came {span(held)} late in a reply of {len(arrivals)} tokens; the longer the reply, the later",
        _NGINX if is_nginx else _OTHER,
        figures,
    )


def _hidden(observed: Observed, model: str, measured: Measured) -> list[Finding]:
    """A request with the context that ``/api/ps`` shows made Ollama load a loaded model anew."""
    load_s = measured.duration_s("load_duration") or 0.0
    row = observed.row(model)
    if row is None or not observed.was_loaded or load_s < _COLD_S:
        return []
    return [
        Finding(
            "hidden_options",
            Severity.WARNING,
            model,
            f"{model} was loaded anew for our plain request: it had runner options that a plain one has not",
            f"it was loaded with {row.context_length} tokens of context and our request asked for the same; "
            f"`load_duration` was {span(load_s)}. So num_batch, num_thread, use_mmap or main_gpu differed, or it had "
            "just been unloaded",
            Basis.MEASURED,
            f"each change between plain requests and those with these options costs a load of {span(load_s)}",
            "Find the client that sends these options, or let all come through Pilotlight, which keeps one set.",
            {"load_s": round(load_s, 3)},
        )
    ]


def _failed(stream: Stream) -> Finding:
    return Finding(
        "stream_failed",
        Severity.ERROR,
        stream.url,
        f"a short stream of {stream.model} failed",
        stream.error,
        Basis.MEASURED,
        "requests like it are not answered",
        "See what the error says; a key is given by --header, another model by --model.",
    )


def at_once(spans: Sequence[tuple[float, float]]) -> int:
    """How many streams were under way at the same time, at most: between the first token and the last but one of each.

    The last token does not count, so that the end of one and the beginning of the next, seen in either order, are not
    taken for two at once.
    """
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    most = running = 0
    for _, step in edges:
        running += step
        most = max(most, running)
    return most


def parallel(observed: Observed) -> Outcome:
    """18. Whether Pilotlight would send as many calls at once as Ollama runs."""
    ours = observed.settings.scheduler.parallel
    if len(observed.spans) < 2:
        return Skipped("not measured (--measure)")
    seen = at_once(observed.spans)
    is_least = seen == observed.asked_at_once
    evidence = (
        f"of {observed.asked_at_once} streams sent at once {seen} ran at the same time; "
        f"scheduler.parallel is {ours} here"
    )
    figures = {"seen": seen, "asked": observed.asked_at_once, "parallel": ours}
    if seen > ours:
        more = f"{seen} or more" if is_least else str(seen)
        return [
            Finding(
                "parallel_unused",
                Severity.NOTICE,
                "scheduler.parallel",
                f"Ollama runs {more} calls at once, Pilotlight would send {ours}",
                evidence,
                Basis.MEASURED,
                "calls wait in Pilotlight's queue while Ollama has a free place",
                f"scheduler.parallel: {seen}, or OLLAMA_NUM_PARALLEL={seen} in Pilotlight's environment.",
                figures,
            )
        ]
    if seen < ours and not is_least:
        return [
            Finding(
                "parallel_exceeded",
                Severity.WARNING,
                "scheduler.parallel",
                f"Pilotlight would send {ours} calls at once, Ollama runs {seen}",
                evidence,
                Basis.MEASURED,
                "the surplus waits in Ollama in the order of arrival, where an urgent one cannot be put first: behind "
                "eight batch calls it waited 21.6 s on Ollama 0.24.0 with a small model on two processors",
                f"scheduler.parallel: {seen}, or OLLAMA_NUM_PARALLEL={ours} for the server if memory allows (each "
                "place takes as much context again).",
                figures,
            )
        ]
    return []
