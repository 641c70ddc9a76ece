from __future__ import annotations

from typing import Any

import pytest

from proxy.doctor.finding import Basis, Severity, Skipped
from proxy.doctor.memory import capacity, fitting, need, places, spill
from tests.doctor.observed import GIB, codes, described, observed, only, row


def keeping(*models: Any) -> dict[str, Any]:
    return {"models": [{"name": model} if isinstance(model, str) else model for model in models]}


def test_a_model_that_is_partly_in_vram_is_told_with_its_share() -> None:
    finding = only(spill(observed(row("m", 8, 6))))
    assert (finding.code, finding.basis) == ("spilled", Basis.REPORTED)
    assert "6.0 GiB of 8.0 GiB (75%) in VRAM, 2.0 GiB are not" in finding.evidence
    assert finding.figures["vram_share"] == 0.75
    assert codes(spill(observed(row("m", 8)))) == []


def test_a_context_that_would_fit_is_worked_out() -> None:
    models = {"m": described("m", context_bytes=128 * 1024)}
    # 2 GiB are too much: 16,384 tokens of 128 KiB.
    finding = only(spill(observed(row("m", 8, 6, ctx=32_768), models=models)))
    assert "num_ctx 16384 instead of 32768 would fit (estimated" in finding.remedy
    too_large = only(spill(observed(row("m", 8, 2, ctx=16_384), models=models)))
    assert "Context alone does not make it fit" in too_large.remedy
    # Other caches have other sizes.
    other = observed(row("m", 8, 6, ctx=32_768), models=models, environ={"OLLAMA_KV_CACHE_TYPE": "q8_0"})
    assert "estimated" not in only(spill(other)).remedy


def test_a_neighbour_that_takes_the_place_is_named() -> None:
    assert "unload other (`ollama stop other`)" in only(spill(observed(row("m", 8, 6), row("other", 2)))).remedy


def test_a_machine_without_gpu_is_a_notice_and_one_model_without_a_warning() -> None:
    assert only(spill(observed(row("m", 2, 0)))).severity is Severity.NOTICE
    finding = only(spill(observed(row("m", 2, 0), row("other", 2))))
    assert (finding.code, finding.severity, finding.subject) == ("on_processor", Severity.WARNING, "m")


def test_how_much_vram_there_is_is_known_told_or_guessed() -> None:
    assert capacity(observed(row("m", 8))) is None
    assert capacity(observed(row("m", 8, 6), row("n", 1))) == (
        7 * GIB,
        "what the loaded models have of it while one spills",
        True,
    )
    assert capacity(observed(row("m", 8), vram_bytes=12 * GIB)) == (12 * GIB, "as --vram says", False)


def test_what_a_model_needs_is_the_best_that_is_known() -> None:
    models = {"away": described("away", context_bytes=2**20), "dark": described("dark")}
    seen = observed(row("m", 3), models=models, stored=[("m", 2), ("away:latest", 2), ("dark:latest", 2)])
    assert need(seen, "m") == (3 * GIB, "as /api/ps says", False)
    assert need(seen, "away") == (2 * GIB + 4096 * 2**20, "its file and 4096 tokens of context", True)
    assert need(seen, "dark") == (2 * GIB, "its file alone, without context", True)
    assert need(seen, "nowhere") is None


def test_kept_models_that_do_not_fit_together_are_told_by_importance() -> None:
    settings = keeping("first", "second", "third")
    seen = observed(
        row("first", 8),
        settings=settings,
        stored=[("first", 7), ("second", 5), ("third", 2)],
        vram_bytes=12 * GIB,
    )
    finding = only(fitting(seen))
    assert (finding.subject, finding.basis) == ("second", Basis.ESTIMATED)
    assert finding.title == "second does not fit beside first"
    assert "first 8.0 GiB (as /api/ps says) + second 5.0 GiB (its file alone, without context) = 13.0 GiB" in (
        finding.evidence
    )


def test_a_model_that_is_too_large_alone_is_told_so() -> None:
    seen = observed(settings=keeping("huge"), stored=[("huge", 40)], vram_bytes=12 * GIB)
    assert only(fitting(seen)).title == "huge does not fit in VRAM at all"


def test_what_spills_alone_is_told_once_and_all_else_does_not_fit_beside_it() -> None:
    alone = observed(row("m", 8, 6))
    assert (codes(spill(alone)), codes(fitting(alone))) == (["spilled"], [])
    both = observed(row("m", 8, 6), settings=keeping("m", "n"), stored=[("m", 7), ("n", 1)])
    assert only(fitting(both)).title == "n does not fit beside m"


def test_names_of_the_same_weights_need_their_place_once() -> None:
    models = {"a": described("a", "sha256:x"), "b": described("b", "sha256:x")}
    seen = observed(row("a", 8), settings=keeping("a", "b"), models=models, vram_bytes=12 * GIB)
    assert codes(fitting(seen)) == []


def test_what_fits_is_not_judged_without_knowing_the_vram() -> None:
    assert isinstance(fitting(observed(row("m", 8))), Skipped)
    assert isinstance(spill(observed(running=None)), Skipped)


def test_an_embedding_model_is_called_one() -> None:
    models = {"e": described("e", capabilities=frozenset(["embedding"]))}
    seen = observed(row("m", 11), row("e", 2), models=models, vram_bytes=12 * GIB)
    assert only(fitting(seen)).title == "e (embedding model) does not fit beside m"


@pytest.mark.parametrize(
    ("wanted", "told", "found"),
    [(2, "1", "warning"), (2, "2", ""), (3, "", ""), (4, "", "notice"), (4, "0", "notice"), (4, "8", "")],
)
def test_more_models_than_places_are_told(wanted: int, told: str, found: str) -> None:
    settings = keeping(*(f"m{index}" for index in range(wanted)))
    environ = {"OLLAMA_MAX_LOADED_MODELS": told} if told else {}
    outcome = places(observed(settings=settings, environ=environ))
    assert not isinstance(outcome, Skipped)
    assert [finding.severity.value for finding in outcome] == ([found] if found else [])


def test_without_wanted_models_places_are_not_judged() -> None:
    assert isinstance(places(observed()), Skipped)
