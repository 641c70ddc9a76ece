from __future__ import annotations

from typing import Any

import pytest

from proxy.doctor.facts import Admin, Contact, Reached
from proxy.doctor.finding import Severity, Skipped
from proxy.doctor.sidecar import admin_reachable, bypass, ollama_host, ready, reloads
from tests.doctor.observed import answer, codes, observed, only

ADMIN = "http://127.0.0.1:11436/readyz"


def admin(status: int = 200, **more: Any) -> Admin:
    return Admin(answer(status, url=ADMIN, body={"status": "ready" if status == 200 else "not ready"}), **more)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", "127.0.0.1:11434"),
        ("example.org", "example.org:11434"),
        (":8080", "127.0.0.1:8080"),
        ("0.0.0.0:1234", "0.0.0.0:1234"),
        ("http://a", "a:80"),
        ("https://a/", "a:443"),
        ("http://a:5000/ollama", "a:5000"),
        ("::1", "[::1]:11434"),
        ("[::1]", "[::1]:11434"),
        ("[::1]:9", "[::1]:9"),
        (" 127.0.0.1:11435 ", "127.0.0.1:11435"),
        ("a b", "None"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, address: str) -> None:
    assert str(ollama_host(text)) == address


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("127.0.0.1:11434", ["client_bypasses"]),
        ("http://localhost:11434", ["client_bypasses"]),
        ("127.0.0.1", ["client_bypasses"]),
        ("127.0.0.1:11435", []),
        ("0.0.0.0:11434", []),
        ("a b", []),
    ],
)
def test_clients_that_go_past_a_running_proxy_are_told(host: str, found: list[str]) -> None:
    seen = observed(environ={"OLLAMA_HOST": host}, admin=admin())
    outcome = bypass(seen)
    assert codes(outcome) == found
    if found:
        assert "OLLAMA_HOST=127.0.0.1:11435" in only(outcome).remedy


def test_where_there_is_no_proxy_nothing_is_passed_by() -> None:
    environ = {"OLLAMA_HOST": "127.0.0.1:11434"}
    assert isinstance(bypass(observed(environ=environ)), Skipped)
    assert isinstance(bypass(observed(admin=admin())), Skipped)
    assert isinstance(bypass(observed(environ=environ, via=answer())), Skipped)
    via = answer(url="http://127.0.0.1:8080/api/version")
    assert "OLLAMA_HOST=127.0.0.1:8080" in only(bypass(observed(environ=environ, via=via))).remedy


def test_an_admin_port_has_to_be_there_only_where_it_was_named() -> None:
    gone = Admin(Contact(ADMIN, Reached.REFUSED, text="refused"))
    assert isinstance(admin_reachable(observed(admin=gone)), Skipped)
    assert codes(admin_reachable(observed(admin=gone, admin_is_asked=True))) == ["admin_unreachable"]
    other = Admin(answer(404, url=ADMIN, text="no such page"))
    assert "not Pilotlight" in only(admin_reachable(observed(admin=other, admin_is_asked=True))).title
    assert codes(admin_reachable(observed(admin=admin(503), admin_is_asked=True))) == []
    assert isinstance(ready(observed(admin=gone)), Skipped)
    assert isinstance(reloads(observed(admin=gone)), Skipped)


def test_a_proxy_that_is_not_ready_says_what_it_waits_for() -> None:
    models = [{"name": "a", "kept": True, "state": "loading"}, {"name": "b", "kept": False, "state": "absent"}]
    finding = only(ready(observed(admin=admin(503, models=models))))
    assert finding.code == "not_ready"
    assert finding.evidence == "/readyz answers 503; not resident: a"
    assert codes(ready(observed(admin=admin()))) == []


@pytest.mark.parametrize(
    ("row", "found", "said"),
    [
        ({"state": "resident"}, [], ""),
        ({"state": "failed", "reason": "does not fit beside b"}, ["model_failed"], "does not fit beside b"),
        ({"state": "lost", "reason": "", "loss": "displaced"}, ["model_lost"], "displaced"),
        ({"state": "released"}, ["model_released"], "ollama stop"),
        ({"state": "failed", "reason": "x", "kept": False}, [], ""),
    ],
)
def test_kept_models_that_are_not_loaded_are_told_with_the_reason(
    row: dict[str, Any], found: list[str], said: str
) -> None:
    outcome = ready(observed(admin=admin(models=[{"name": "a", "kept": True, **row}])))
    assert codes(outcome) == found
    if found:
        finding = only(outcome)
        assert said in finding.title
        assert (finding.severity is Severity.NOTICE) == (found == ["model_released"])


def test_reloads_are_told_by_their_causes() -> None:
    counted = {("a", "options"): 3.0, ("a", "restart"): 1.0, ("b", "options"): 0.0}
    finding = only(reloads(observed(admin=admin(reloads=counted))))
    assert finding.title == "a was loaded again 4 times since Pilotlight was started"
    assert finding.evidence == "pilotlight_model_reloads_total: 3 by options, 1 by restart"
