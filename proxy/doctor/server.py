"""Checks of the server itself: does it answer, is it Ollama, which version, open to whom, and what time is it there."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from proxy.doctor.facts import Contact, Observed, Reached, clock_offset, version_of
from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped, span
from proxy.settings.address import is_loopback

# Below these: CVE-2026-7482 (memory of others is read by create and carried out by push; CVSS 9.1).
_MENDED: Final = (0, 17, 1)
# v0.10.0, api/types.go: the first with ``context_length`` in /api/ps.
_SHOWS_CONTEXT: Final = (0, 10, 0)
# v0.11.5, api/types.go: the first with ``_debug_render_only``.
_RENDERS: Final = (0, 11, 5)
# Measured on this one: a token of ``context`` beyond the vocabulary ends the whole server. Others were not tried.
_ENDED_BY_CONTEXT: Final = (0, 24, 0)
# Expiry is believed up to a second past its time; what is less cannot be told from the cut seconds of ``Date``.
_SKEW_S: Final = 2.0

_WHY_UNREACHED: Final = {
    Reached.NO_NAME: "Mend the host's name in upstream.url (--upstream); in compose it is the service's name.",
    Reached.REFUSED: "Start Ollama (`ollama serve`), or name the port it listens on (--upstream). In a container "
    "127.0.0.1 is the container itself.",
    Reached.NO_ROUTE: "Mend the host in upstream.url (--upstream), or the network between here and there.",
    Reached.TIMED_OUT: "Mend the host in upstream.url (--upstream), or let a firewall pass the port.",
    Reached.SILENT: "Something accepts connections and says nothing: look at Ollama's log, or restart it.",
    Reached.TLS: "Use http:// where Ollama itself listens: it speaks no TLS. Else mend the certificate.",
    Reached.BROKEN: "Look at Ollama's log; a server that speaks TLS needs https:// in upstream.url.",
}


def reachable(observed: Observed) -> Outcome:
    """1. Whether the upstream answers at all, and if not, how far it came."""
    return _unreached(observed.upstream, "unreachable", "Ollama")


def via_reachable(observed: Observed) -> Outcome:
    """2. The same for what stands in front."""
    if observed.via is None:
        return Skipped("no --via URL was given")
    if observed.via.reached is Reached.ANSWERED and observed.via.status >= 400:
        return [_refused(observed.via, "via_refuses", "what stands in front")]
    return _unreached(observed.via, "via_unreachable", "what stands in front")


def _unreached(contact: Contact, code: str, what: str) -> Outcome:
    if contact.reached is Reached.ANSWERED:
        return []
    return [
        Finding(
            code,
            Severity.ERROR,
            contact.url,
            f"{what} cannot be reached: {contact.reached.value}",
            f"{contact.url}: {contact.text or contact.reached.value} after {span(contact.took_s)}",
            Basis.MEASURED,
            "no request is answered",
            _WHY_UNREACHED[contact.reached],
            {"took_s": round(contact.took_s, 3)},
        )
    ]


def is_ollama(observed: Observed) -> Outcome:
    """3. Whether what answers is Ollama, and lets us ask."""
    contact = observed.upstream
    if contact.reached is not Reached.ANSWERED:
        return Skipped("no answer")
    if contact.status in (401, 403, 407, 421, 429):
        return [_refused(contact, "refused", "the server")]
    if not observed.is_ollama:
        server = f" by {contact.server}" if contact.server else ""
        return [
            Finding(
                "not_ollama",
                Severity.ERROR,
                contact.url,
                "what answers is not Ollama",
                f"{contact.url} was answered{server} with status {contact.status}: {contact.text[:80]!r}",
                Basis.MEASURED,
                "no request is answered as clients expect",
                "Name the port that Ollama listens on (--upstream); 11434 by default.",
                {"status": contact.status},
            )
        ]
    return [
        Finding(
            "broken_api",
            Severity.ERROR,
            path,
            f"Ollama does not answer {path} as it should",
            text,
            Basis.MEASURED,
            "Pilotlight cannot know what is loaded, and so cannot keep it",
            "Look at Ollama's log; where something stands in front of it, let it pass this path.",
        )
        for path, text in observed.troubles.items()
    ]


def _refused(contact: Contact, code: str, who: str) -> Finding:
    if contact.status in (401, 407):
        remedy = "Give a key: --header 'Authorization: Bearer KEY', or --header 'X-API-Key: KEY'."
    elif contact.status in (403, 421):
        remedy = (
            "The name by which it was called is not one of its own: call it by address or as localhost, add the name "
            "(edge.hosts for Pilotlight), or let what stands in front send Ollama's own Host."
        )
    else:
        remedy = "Look at the log of what answers there."
    return Finding(
        code,
        Severity.ERROR,
        contact.url,
        f"{who} answers {contact.status}",
        f"{contact.url} was answered with status {contact.status}: {contact.text[:80]!r}",
        Basis.MEASURED,
        "no request is answered",
        remedy,
        {"status": contact.status},
    )


def version(observed: Observed) -> Outcome:
    """4. Whether the version is one that is known to be bad, or lacks what Pilotlight works with."""
    if not observed.is_ollama:
        return Skipped("not known to be Ollama")
    found = version_of(observed.version)
    if found is None:
        return Skipped(f"{observed.version!r} is no release")
    said = f"/api/version says {observed.version}"
    findings = []

    def add(code: str, severity: Severity, title: str, cost: str, remedy: str) -> None:
        findings.append(Finding(code, severity, observed.version, title, said, Basis.REPORTED, cost, remedy))

    if found < _MENDED:
        add(
            "vulnerable_version",
            Severity.WARNING,
            f"Ollama {observed.version} has a known hole: CVE-2026-7482",
            "whoever may create and push models reads memory of the server, other people's prompts in it",
            "Update Ollama to 0.17.1 or later; until then let nobody else reach it (Pilotlight refuses these calls to "
            "strangers: docs/security.md).",
        )
    if found < _SHOWS_CONTEXT:
        add(
            "old_version",
            Severity.WARNING,
            f"Ollama {observed.version} does not say with which context a model is loaded",
            "a reload that somebody else's num_ctx caused stays unseen, and is not put right; each costs a load",
            "Update Ollama to 0.10.0 or later.",
        )
    elif found < _RENDERS:
        add(
            "old_version",
            Severity.NOTICE,
            f"Ollama {observed.version} cannot show how it renders a prompt",
            "/api/generate is never sent as /api/chat, because that the prompt is the same cannot be proved",
            "Update Ollama to 0.11.5 or later.",
        )
    if found == _ENDED_BY_CONTEXT and _is_open(observed):
        add(
            "crashing_version",
            Severity.WARNING,
            f"Ollama {observed.version} is ended by a single bad request, and others can reach it",
            "a `context` with a number beyond the vocabulary ends the server; every model has to be loaded again",
            "Let clients reach it through Pilotlight only, which refuses such requests: OLLAMA_HOST=127.0.0.1:11434 "
            "for the server.",
        )
    return findings


def _is_open(observed: Observed) -> bool:
    foreign = observed.foreign_host
    return foreign is not None and foreign.status == 200


def openness(observed: Observed) -> Outcome:
    """5. Whether Ollama answers to anyone.

    Bound to loopback it refuses a ``Host`` that is not its own (403), bound to all addresses it takes any, and it has
    no keys of its own (v0.24.0, server/routes.go, ``allowedHostsMiddleware``; the 403 was recorded).
    """
    foreign = observed.foreign_host
    if foreign is None or foreign.reached is not Reached.ANSWERED:
        return Skipped("not asked with another Host")
    if not _is_open(observed):
        return []
    host = urlsplit(observed.upstream.url).hostname or ""
    where = "on this machine's own addresses too, or in a container" if is_loopback(host) else f"on {host}"
    if foreign.server:
        # Ollama names no server, so this is not Ollama's own answer and says nothing of where Ollama listens.
        meaning = f"It calls itself {foreign.server}: what stands in front of Ollama passes any name on"
    else:
        meaning = f"Bound to loopback Ollama answers 403, so it listens {where}"
    return [
        Finding(
            "open_to_all",
            Severity.WARNING,
            observed.upstream.url,
            "anyone who reaches the upstream's port is let in",
            f"asked with `Host: {FOREIGN_HOST}` and no key it answered {foreign.status}. {meaning}",
            Basis.MEASURED,
            "whoever reaches the port can delete models, unload them (the next request waits for a load) and queue in "
            "front of everyone; a web page can too, by a name of its own that leads here",
            "Set OLLAMA_HOST=127.0.0.1:11434 for the server and let clients come through Pilotlight (edge.hosts, keys: "
            "docs/security.md). In compose publish no port of Ollama's.",
            {"status": foreign.status},
        )
    ]


FOREIGN_HOST: Final = "doctor.invalid"
"""A name that nobody has (RFC 2606, section 2)."""


def clock(observed: Observed) -> Outcome:
    """6. Whether the server's clock agrees with ours, by which Pilotlight judges ``expires_at``."""
    bounds = clock_offset(observed.stamps)
    if bounds is None:
        return Skipped("no answer had a Date")
    least, most = bounds
    if least <= _SKEW_S and most >= -_SKEW_S:
        return []
    ahead = least > 0
    off_s = least if ahead else -most
    misjudged = (
        f"loaded {span(off_s)} too long, so that a request waits for a load that nobody expects"
        if ahead
        else f"gone {span(off_s)} too early, and is loaded for nothing"
    )
    return [
        Finding(
            "clock_skew",
            Severity.WARNING,
            observed.upstream.url,
            f"the server's clock is {span(off_s)} {'ahead of' if ahead else 'behind'} this machine's",
            f"`Date` of {len(observed.stamps)} answers, round trips taken off: {least:+.1f} s to {most:+.1f} s",
            Basis.MEASURED,
            f"`expires_at` of /api/ps is misjudged by as much: a model counts as {misjudged}",
            "Let both machines keep time (`timedatectl set-ntp true`, or chrony).",
            {"least_s": round(least, 2), "most_s": round(most, 2)},
        )
    ]
