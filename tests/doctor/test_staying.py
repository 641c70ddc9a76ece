from __future__ import annotations

from typing import Any

import pytest

from proxy.doctor.facts import Admin, Snapshot
from proxy.doctor.finding import Basis, Severity, Skipped
from proxy.doctor.staying import keep_alive, kept, lasting, names, options, resident
from tests.doctor.observed import NOW, answer, codes, described, observed, only, row, stream


def keeping(*models: Any) -> dict[str, Any]:
    return {"models": [{"name": model} if isinstance(model, str) else model for model in models]}


def test_an_ollama_without_a_loaded_model_is_told() -> None:
    assert codes(resident(observed())) == ["nothing_resident"]
    assert codes(resident(observed(row("m")))) == []
    # Then each of the kept ones is told by itself.
    assert codes(resident(observed(settings=keeping("m")))) == []
    assert isinstance(resident(observed(running=None)), Skipped)


def test_a_kept_model_has_to_be_stored_and_loaded() -> None:
    settings = keeping("here", "away", "nowhere")
    seen = observed(row("here:latest"), settings=settings, stored=[("here:latest", 1), ("away:latest", 1)])
    outcome = kept(seen)
    assert codes(outcome) == ["not_resident", "not_stored"]
    assert isinstance(kept(observed()), Skipped)


def test_a_kept_model_of_the_cloud_needs_no_memory() -> None:
    assert codes(kept(observed(settings=keeping("big:120b-cloud"), stored=[]))) == []
    remote = {"r": described("r", remote=True)}
    assert codes(kept(observed(settings=keeping("r"), models=remote, stored=[("r", 0)]))) == []


def test_another_name_of_the_same_weights_is_as_good() -> None:
    models = {"a": described("a", "sha256:x"), "b": described("b", "sha256:x")}
    assert codes(kept(observed(row("b:latest"), settings=keeping("a"), models=models))) == []


def test_a_model_that_ends_is_told_with_how_long_it_stays() -> None:
    finding = only(lasting(observed(row("m", expires=NOW + 252), row("pinned"))))
    assert (finding.code, finding.subject, finding.basis) == ("unpinned", "m", Basis.REPORTED)
    assert "4 min 12 s" in finding.evidence
    assert finding.figures == {"expires_in_s": 252}


def test_the_keep_alive_that_was_measured_is_told() -> None:
    seen = observed(
        row("m", expires=NOW + 10), direct=stream(0.1, 0.2), after=Snapshot(NOW + 1, (row("m", expires=NOW + 301),))
    )
    finding = only(lasting(seen))
    assert finding.basis is Basis.MEASURED
    assert finding.figures == {"expires_in_s": 10, "keep_alive_s": 300}


def test_with_kept_models_only_those_have_to_stay() -> None:
    ends = [row("a", expires=NOW + 60), row("b", expires=NOW + 60)]
    assert [f.subject for f in [only(lasting(observed(*ends, settings=keeping("a"))))]] == ["a"]
    assert codes(lasting(observed(*ends, settings=keeping({"name": "a", "keep_alive": "10m"})))) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [("0", ["keep_alive_zero"]), ("0s", ["keep_alive_zero"]), ("10m", []), ("-1", []), ("soon", ["keep_alive_unread"])],
)
def test_a_keep_alive_of_nothing_is_told(value: str, found: list[str]) -> None:
    assert codes(keep_alive(observed(environ={"OLLAMA_KEEP_ALIVE": value}))) == found
    assert isinstance(keep_alive(observed()), Skipped)


@pytest.mark.parametrize(
    ("shown", "num_ctx", "found"),
    [(8192, 8192, []), (4096, 8192, ["context_drift"]), (131_072, 200_000, []), (0, 8192, []), (4096, None, [])],
)
def test_another_context_than_the_settings_say_is_drift(shown: int, num_ctx: int | None, found: list[str]) -> None:
    settings = keeping({"name": "m", "options": {} if num_ctx is None else {"num_ctx": num_ctx}})
    assert codes(options(observed(row("m", ctx=shown), settings=settings))) == found


def test_a_context_that_a_running_proxy_let_grow_is_no_drift() -> None:
    settings = keeping({"name": "m", "options": {"num_ctx": 4096}, "max_num_ctx": 16_384})
    admin = Admin(answer(body={"status": "ready"}))
    assert codes(options(observed(row("m", ctx=8192), settings=settings))) == ["context_drift"]
    assert codes(options(observed(row("m", ctx=8192), settings=settings, admin=admin))) == []
    assert codes(options(observed(row("m", ctx=32_768), settings=settings, admin=admin))) == ["context_drift"]


def test_two_names_that_reload_each_other_are_told() -> None:
    models = {
        "a": described("a", "sha256:x", parameters={"temperature": 1}),
        "b": described("b", "sha256:x", parameters={"num_ctx": 8192}),
        "c": described("c", "sha256:y", parameters={"num_ctx": 2048}),
    }
    finding = only(names(observed(row("a:latest"), models=models)))
    assert (finding.code, finding.severity) == ("shared_weights", Severity.WARNING)
    assert finding.evidence == "a:latest: num_ctx not set; b:latest: num_ctx 8192"
    # Nobody uses them at the moment.
    assert only(names(observed(models=models))).severity is Severity.NOTICE
    # Who comes through Pilotlight causes none of these reloads: what it advises is done.
    admin = Admin(answer(body={"status": "ready"}))
    assert only(names(observed(row("a:latest"), models=models, admin=admin))).severity is Severity.NOTICE


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"num_ctx": 8192}, {"num_ctx": 8192}, []),
        ({"num_gpu": 99}, {}, []),
        ({"num_gpu": 99}, {"num_gpu": 10}, ["shared_weights"]),
        ({"temperature": 0}, {"temperature": 1}, []),
        ({"num_thread": 4}, {}, ["shared_weights"]),
    ],
)
def test_only_options_that_reload_count(one: dict[str, Any], other: dict[str, Any], found: list[str]) -> None:
    models = {
        "a": described("a", "sha256:x", parameters=one),
        "b": described("b", "sha256:x", parameters=other),
    }
    assert codes(names(observed(models=models))) == found


def test_models_that_ollama_did_not_describe_share_nothing() -> None:
    models = {"a": described("a", "name:a"), "b": described("b", "name:b")}
    assert codes(names(observed(models=models))) == []
    assert isinstance(names(observed()), Skipped)
