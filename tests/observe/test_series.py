from __future__ import annotations

from prometheus_client import CollectorRegistry

from proxy.observe.families import Families
from proxy.observe.series import ModelSeries
from proxy.observe.timeline import Outcome, Start


def test_children_are_looked_up_once() -> None:
    series = ModelSeries(Families(CollectorRegistry()), "a:latest")

    assert series.call("api_chat", Outcome.OK) is series.call("api_chat", Outcome.OK)
    assert series.first_token(Start.COLD) is series.first_token(Start.COLD)
    assert series.call("api_chat", Outcome.OK) is not series.call("api_chat", Outcome.TIMEOUT)


def test_a_configured_model_has_zeros_before_its_first_call() -> None:
    registry = CollectorRegistry()
    ModelSeries(Families(registry), "a:latest").precreate()

    assert (
        registry.get_sample_value(
            "llm_calls_total", {"model": "a:latest", "endpoint": "v1_messages", "status": "timeout"}
        )
        == 0
    )
    assert (
        registry.get_sample_value("llm_time_to_first_token_seconds_count", {"model": "a:latest", "start": "cold"}) == 0
    )
    assert registry.get_sample_value("pilotlight_model_reloads_total", {"model": "a:latest", "cause": "evicted"}) == 0
