from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from proxy.observe.logs import ErrorLimit, open_log
from proxy.observe.metrics import Metrics
from proxy.observe.observer import Observer
from proxy.observe.recent import Recent
from proxy.observe.stats import Stats
from proxy.observe.timeline import Outcome, Phase, Timeline
from proxy.wire.routes import Family

if TYPE_CHECKING:
    from collections.abc import Callable


class Observed:
    def __init__(self, later: Callable[[float, Callable[[], None]], object] | None = None) -> None:
        self.stream = io.BytesIO()
        self.metrics = Metrics(["llama3.2"])
        self.recent = Recent()
        self.stats = Stats()
        log = open_log(self.stream, "json", "info", ErrorLimit())
        self.observer = Observer(self.metrics, self.recent, self.stats, log, later=later)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def page(self) -> str:
        return self.metrics.encode()[0].decode()


def call(**marks: Any) -> Timeline:
    values = {"model": "llama3.2", "status": 200, "sent": 0.25, "first_token": 1.0, "finished": 2.0, **marks}
    return Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 0.0, **values)


def test_one_finished_call_is_one_of_everything() -> None:
    observed = Observed()
    t = call()

    observed.observer.start(t)
    assert 'llm_calls_in_progress{endpoint="api_chat"} 1.0' in observed.page()
    observed.observer.finish(t)

    assert 'llm_calls_in_progress{endpoint="api_chat"} 0.0' in observed.page()
    assert 'llm_calls_total{endpoint="api_chat",model="llama3.2:latest",status="ok"} 1.0' in observed.page()
    assert "pilotlight_http_requests_total{" not in observed.page()
    assert observed.stats.snapshot()["models"]["llama3.2:latest"]["calls"] == 1
    (row,), (line,) = observed.recent.rows(), observed.lines()
    assert line["event"] == "request"
    assert {key: line[key] for key in row if key != "finished_at"} == {
        key: value for key, value in row.items() if key != "finished_at"
    }
    assert row["ttft_ms"] == 1000.0


def test_a_client_that_left_is_counted_by_phase() -> None:
    observed = Observed()
    t = call(outcome=Outcome.CANCELLED, status=499, first_token=None, client_disconnect_phase=Phase.WAITING)

    observed.observer.start(t)
    observed.observer.finish(t)

    assert 'pilotlight_client_disconnects_total{phase="waiting"} 1.0' in observed.page()
    assert observed.lines()[0]["client_left"] == "waiting"


def test_a_request_that_is_no_call_is_counted_apart() -> None:
    observed = Observed()
    t = Timeline("id", "", Family.API, "/api/tags", "GET", 0.0, finished=0.5, status=200)

    observed.observer.start(t)
    observed.observer.finish(t)

    assert 'pilotlight_http_requests_total{code_class="2xx",method="GET",route="/api/tags"} 1.0' in observed.page()
    assert observed.stats.snapshot()["models"] == {}
    assert len(observed.lines()) == 1


def test_models_that_do_not_exist_share_one_window_of_statistics() -> None:
    observed = Observed()

    for n in range(100):
        t = call(model=f"ghost{n}\r\n", status=404, outcome=Outcome.CLIENT_ERROR, first_token=None)
        observed.observer.start(t)
        observed.observer.finish(t)

    assert list(observed.stats.snapshot()["models"]) == ["other"]
    assert len(observed.lines()) == 100


def test_requests_that_end_together_are_told_of_together_and_with_their_own_time() -> None:
    timers: list[tuple[float, Callable[[], None]]] = []
    observed = Observed(later=lambda delay_s, call: timers.append((delay_s, call)))

    for _ in range(3):
        t = call()
        observed.observer.start(t)
        observed.observer.finish(t)
    ((delay_s, settle),) = timers

    assert 0 < delay_s <= 0.1
    assert observed.lines() == []
    settle()
    assert len(observed.lines()) == len(observed.recent.rows()) == 3
    observed.observer.finish(call())
    assert len(timers) == 2


def test_many_requests_that_end_together_do_not_pile_up() -> None:
    observed = Observed(later=lambda delay_s, call: None)

    for _ in range(100):
        observed.observer.finish(call())

    assert len(observed.lines()) == 64
    observed.observer.settle()
    assert len(observed.lines()) == 100
