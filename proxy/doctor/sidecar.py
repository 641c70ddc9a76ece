"""Checks of Pilotlight itself, where it runs, and of whether clients go through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.facts import Observed, Reached
from proxy.doctor.finding import Basis, Finding, Outcome, Severity, Skipped
from proxy.settings.address import Address, is_every_interface, is_same_place, parse_address
from proxy.settings.rules import upstream_address

if TYPE_CHECKING:
    from collections.abc import Mapping

_PORT: Final = 11434
_NOT_THERE = "Pilotlight's admin port does not answer"


def ollama_host(text: str) -> Address | None:
    """Where a client of Ollama's goes by ``OLLAMA_HOST``; ``None`` for what cannot be read.

    Source: v0.24.0, envconfig/config.go, ``Host``: the scheme and the port may be left out, the port is then the
    scheme's own, or 11434 without a scheme.
    """
    scheme, mark, rest = text.strip().partition("://")
    if not mark:
        scheme, rest = "", text.strip()
    place = rest.partition("/")[0]
    port = {"http": 80, "https": 443}.get(scheme, _PORT)
    bare = place.strip("[]")
    if not place:
        place = f"127.0.0.1:{port}"
    elif ":" in bare and place.count(":") > 1 and "]" not in place:
        place = f"[{bare}]:{port}"
    elif place.endswith("]") or ":" not in place:
        place = f"{place}:{port}"
    elif place.startswith(":"):
        place = f"127.0.0.1{place}"
    try:
        return parse_address(place)
    except ValueError:
        return None


def bypass(observed: Observed) -> Outcome:
    """19. Whether clients that are started in this environment go past the proxy."""
    text = observed.environ.get("OLLAMA_HOST", "")
    if not text:
        return Skipped("OLLAMA_HOST is not in this environment")
    via, admin = observed.via, observed.admin
    if via is None and not (admin is not None and admin.is_there):
        return Skipped("no proxy is known (--via, or a running Pilotlight)")
    host = ollama_host(text)
    if (
        host is None
        or is_every_interface(host.host)
        or not is_same_place(host, upstream_address(observed.upstream.url))
    ):
        # With every interface it is meant for the server, which listens where it says.
        return []
    proxy = upstream_address(via.url) if via is not None else parse_address(observed.settings.listen)
    if is_same_place(proxy, upstream_address(observed.upstream.url)):
        return Skipped("--via is the upstream itself")
    return [
        Finding(
            "client_bypasses",
            Severity.WARNING,
            "OLLAMA_HOST",
            "clients started in this environment talk to Ollama itself, past the proxy",
            f"OLLAMA_HOST is {text!r}, which is the upstream; the proxy is at {proxy}",
            Basis.REPORTED,
            "such a client waits in no queue, is not in the figures, and its num_ctx and keep_alive reload and unpin "
            "models for all others",
            f"OLLAMA_HOST={proxy} for clients (and the same in base URLs of OpenAI clients: http://{proxy}/v1).",
        )
    ]


def admin_reachable(observed: Observed) -> Outcome:
    """20. Whether the admin port answers, where the operator named it."""
    admin = observed.admin
    if admin is None or not observed.admin_is_asked:
        return Skipped("no admin port was named (--admin)")
    if admin.is_there:
        return []
    contact = admin.contact
    said = (
        f"status {contact.status}: {contact.text[:80]!r}" if contact.status else contact.text or contact.reached.value
    )
    return [
        Finding(
            "admin_unreachable",
            Severity.WARNING,
            contact.url,
            "the admin port does not answer"
            if contact.reached is not Reached.ANSWERED
            else "what answers on the admin port is not Pilotlight, or asks for a key",
            f"{contact.url}: {said}",
            Basis.MEASURED,
            "what Pilotlight knows (states of models, reloads, load times) is missing here",
            "Start `pilotlight serve`, name its admin port (--admin), or give a key (--header).",
        )
    ]


def ready(observed: Observed) -> Outcome:
    """21. Whether Pilotlight has everything loaded."""
    admin = observed.admin
    if admin is None or not admin.is_there:
        return Skipped(_NOT_THERE)
    findings = []
    if admin.contact.status != 200:
        waiting = [str(row.get("name")) for row in admin.models if row.get("kept") and row.get("state") != "resident"]
        findings.append(
            Finding(
                "not_ready",
                Severity.WARNING,
                admin.contact.url,
                "Pilotlight is not ready",
                f"/readyz answers {admin.contact.status}; not resident: {', '.join(waiting) or 'unknown'}",
                Basis.REPORTED,
                "requests for these models wait for a load",
                "Wait for it, or see in its log what it waits for.",
                {"status": admin.contact.status},
            )
        )
    return findings + [finding for row in admin.models if (finding := _unkept(observed, row)) is not None]


def _unkept(observed: Observed, row: Mapping[str, Any]) -> Finding | None:
    name, state = str(row.get("name")), row.get("state")
    if not row.get("kept") or state not in ("failed", "lost", "released"):
        return None
    reason = str(row.get("reason") or row.get("loss") or "")
    if state == "failed":
        title, remedy = (
            f"Pilotlight could not keep {name}: {reason}",
            "Make room for it (smaller num_ctx, smaller quantization), or keep fewer models."
            if reason.startswith("does not fit")
            else "See what the reason says; Ollama's log has more.",
        )
    elif state == "lost":
        title = f"{name} is not loaded at the moment: {reason}"
        remedy = "It comes back by itself, as docs/residency.md says; find what pushes it out (--watch 60)."
    else:
        title = f"{name} was unloaded by somebody (`ollama stop`), and stays so until the next request"
        remedy = f"Any request for {name} loads it and has it kept again."
    return Finding(
        f"model_{state}",
        Severity.NOTICE if state == "released" else Severity.WARNING,
        name,
        title,
        f"/models: state {state}" + (f", {reason}" if reason else ""),
        Basis.REPORTED,
        observed.load_cost(name),
        remedy,
    )


def reloads(observed: Observed) -> Outcome:
    """22. Whether loaded models had to be loaded again since Pilotlight was started, and why."""
    admin = observed.admin
    if admin is None or not admin.is_there:
        return Skipped(_NOT_THERE)
    by_model: dict[str, dict[str, float]] = {}
    for (model, cause), count in admin.reloads.items():
        if count:
            by_model.setdefault(model, {})[cause] = count
    findings = []
    for model, causes in by_model.items():
        told = ", ".join(f"{count:.0f} by {cause}" for cause, count in sorted(causes.items()))
        total = sum(causes.values())
        findings.append(
            Finding(
                "reloads",
                Severity.NOTICE,
                model,
                f"{model} was loaded again {total:.0f} times since Pilotlight was started",
                f"pilotlight_model_reloads_total: {told}",
                Basis.REPORTED,
                observed.load_cost(model),
                "What each cause means, and what ends it, is in docs/metrics.md and docs/residency.md.",
                {"reloads": total},
            )
        )
    return findings
