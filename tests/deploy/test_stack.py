"""Proxy, simulated Ollama, nginx and Prometheus for real, with the committed configuration, under load."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from proxy.edge.keys import new_key
from proxy.observe.families import Families
from tests.deploy.load import Load, chat
from tests.deploy.panels import BOARDS, UNEXECUTED, choices, filled, queries
from tests.deploy.prepared import needs_openssl
from tests.deploy.stack import KEYS, PROMETHEUS, WITHIN_S, Stack, started
from tests.nginx import needs_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed"),
    *needs_nginx,
    needs_openssl,
    pytest.mark.asyncio(loop_scope="module"),
    # Starting all of it and waiting for alerts takes half a minute, and longer on a busy machine.
    pytest.mark.timeout(240),
]

# What the performance guide asks for, word for word but for the window.
GUIDE = (
    "rate(llm_calls_total[1m])",
    "histogram_quantile(0.95, sum by (le) (rate(llm_call_duration_seconds_bucket[1m])))",
    "100 * sum(rate(cache_hits_total[1m])) / (sum(rate(cache_hits_total[1m])) + sum(rate(cache_misses_total[1m])))",
    "batch_processor_queue_size",
)
# Metrics that this load leaves at zero or without a series: what they tell of does not happen in it.
STILL = {
    "pilotlight_log_lines_suppressed_total",
    "pilotlight_model_failed",
}
# Only there while an alert fires; the test of alerts asks for these.
WHILE_FIRING = {'ALERTS{alertname=~"Pilotlight.*", alertstate="firing"}'}


class Loaded:
    """A stack that has served its load, and when that was."""

    def __init__(self, stack: Stack, statuses: dict[int, int], began: float, ended: float) -> None:
        self.stack, self.statuses, self.began, self.ended = stack, statuses, began, ended


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Loaded]:
    began = time.time()
    async with started(tmp_path_factory.mktemp("stack")) as stack:
        await stack.until(lambda: is_ready(stack), "the proxy is ready")
        load = Load(stack)
        await load.run()
        await stack.until(lambda: is_ready(stack), "the proxy is ready again")
        ended = time.time()

        async def is_scraped() -> bool:
            age = await stack.query(f'timestamp(up{{instance="{stack.admin}"}})')
            return bool(age) and float(age[0]["value"][1]) > ended

        async def is_listed() -> bool:
            # Ready is said after the load; what Ollama lists is only told once it has been asked again.
            found = await stack.query("count(pilotlight_model_expires_timestamp_seconds)")
            return bool(found)

        await stack.until(is_scraped, "the load is scraped")
        await stack.until(is_listed, "the models are listed again")
        yield Loaded(stack, load.statuses, began, ended + 2)


async def is_ready(stack: Stack) -> bool:
    async with stack.session.get(f"http://{stack.admin}/readyz") as reply:
        return reply.status == 200


def has_data(series: list[dict[str, Any]]) -> bool:
    """Whether there is a number among the values; what divides nothing by nothing is none."""
    values = [value for one in series for _, value in one.get("values", [one.get("value")])]
    return any(math.isfinite(float(value)) for value in values)


async def test_the_load_meets_success_limits_and_failures(loaded: Loaded) -> None:
    assert {200, 404, 429, 503} <= set(loaded.statuses)
    assert loaded.statuses[200] > sum(loaded.statuses.values()) / 2


async def test_the_load_moves_every_metric(loaded: Loaded) -> None:
    still = set()
    for family in Families(CollectorRegistry()).listing:
        name = f"{family.name}_count" if family.kind == "histogram" else family.name
        found = await loaded.stack.query(f"sum(max_over_time({name}[1h])) > 0")
        if not found:
            still.add(family.name)
    assert still <= STILL


async def test_prometheus_gets_metrics_with_the_key_from_its_file_and_nobody_with_a_wrong_one(loaded: Loaded) -> None:
    stack = loaded.stack
    (target,) = [row for row in await targets(stack) if row["labels"]["job"] == "pilotlight"]
    assert (target["health"], target["lastError"]) == ("up", "")
    wrong = {"Authorization": f"Bearer {new_key(bytes([99] * 32))}"}
    async with stack.session.get(f"http://{stack.admin}/metrics", headers=wrong) as reply:
        assert reply.status == 401


async def targets(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await stack.get(stack.prometheus, "/api/v1/targets"))["data"]["activeTargets"]
    return found


async def test_through_nginx_each_token_arrives_before_the_next_is_made(loaded: Loaded) -> None:
    stack = loaded.stack
    await stack.simulate("gate", close=True)
    body = chat("keeper", "word by word", num_predict=4)
    url = f"{stack.front_url}/api/chat"
    try:
        await stack.simulate("gate", let=1)
        async with (
            asyncio.timeout(WITHIN_S),
            stack.session.post(url, json=body, headers={"X-API-Key": KEYS["app"]}, ssl=stack.tls) as reply,
        ):
            assert reply.status == 200
            for _ in range(3):
                # The next token is not made before the gate lets it.
                frame = json.loads(await reply.content.readline())
                assert (bool(frame["message"]["content"]), frame["done"]) == (True, False)
                await stack.simulate("gate", let=1)
    finally:
        await stack.simulate("gate", open=True)


@pytest.mark.parametrize("uid", [uid for uid in BOARDS if uid not in UNEXECUTED])
async def test_every_query_of_a_dashboard_returns_data(loaded: Loaded, uid: str) -> None:
    empty = []
    for asked in queries(BOARDS[uid]):
        if asked.expr in WHILE_FIRING:
            continue
        expr = filled(asked.expr)
        if asked.instant:
            found = await loaded.stack.query(expr)
        else:
            found = await loaded.stack.query_range(expr, loaded.began, loaded.ended, 1)
        if not has_data(found):
            empty.append(f"{asked.where}: {expr}")
    assert empty == []


@pytest.mark.parametrize("uid", [uid for uid in BOARDS if uid not in UNEXECUTED])
async def test_every_variable_has_values_to_choose_from(loaded: Loaded, uid: str) -> None:
    stack = loaded.stack
    for label, series in choices(BOARDS[uid]):
        answer = await stack.get(stack.prometheus, f"/api/v1/label/{label}/values", **{"match[]": filled(series)})
        assert answer["data"], (label, series)


@pytest.mark.parametrize("expr", GUIDE)
async def test_the_queries_of_the_performance_guide_return_data(loaded: Loaded, expr: str) -> None:
    assert has_data(await loaded.stack.query(expr))


async def test_every_recording_rule_has_values(loaded: Loaded) -> None:
    stack = loaded.stack
    groups = (await stack.get(stack.prometheus, "/api/v1/rules", type="record"))["data"]["groups"]
    names = [rule["name"] for group in groups for rule in group["rules"]]
    assert len(names) == 10
    for name in names:
        assert has_data(await stack.query_range(name, loaded.began, loaded.ended, 1)), name


async def test_no_rule_failed(loaded: Loaded) -> None:
    groups = (await loaded.stack.get(loaded.stack.prometheus, "/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


async def test_alerts_fire_when_a_model_is_lost_and_when_ollama_is_gone_and_cease_when_it_is_back(
    loaded: Loaded,
) -> None:
    stack = loaded.stack

    async def fires(name: str, **labels: str) -> list[dict[str, Any]]:
        found = (await stack.alerts()).get(name, [])
        return [alert for alert in found if labels.items() <= alert["labels"].items()]

    async def is_silent(name: str) -> bool:
        return not await fires(name)

    for name in ("PilotlightMissing", "PilotlightUpstreamDown", "PilotlightModelLost"):
        await stack.until(lambda name=name: is_silent(name), f"{name} is over")  # type: ignore[misc]

    # A new Ollama whose load of one model does not end.
    await stack.simulate("faults", kind="load_stall", model="second:latest", times=-1)
    await stack.simulate("restart")
    (lost,) = await stack.until(lambda: fires("PilotlightModelLost", model="second:latest"), "PilotlightModelLost")
    assert lost["annotations"]["runbook_url"] == "docs/runbook.md#pilotlightmodellost"
    for expr in WHILE_FIRING:
        assert has_data(await stack.query(filled(expr)))

    await stack.stop("simulator")
    (down,) = await stack.until(lambda: fires("PilotlightUpstreamDown"), "PilotlightUpstreamDown")
    assert down["labels"] == {
        "alertname": "PilotlightUpstreamDown",
        "severity": "critical",
        "job": "pilotlight",
        "instance": stack.admin,
    }
    assert await stack.until(lambda: is_silent("PilotlightModelLost"), "a model is not lost while Ollama is away")

    await stack.start_simulator()
    assert await stack.until(lambda: is_silent("PilotlightUpstreamDown"), "the alert ends")
    assert await stack.until(lambda: is_ready(stack), "models are back")
    assert await stack.until(lambda: is_silent("PilotlightModelLost"), "nothing is lost any more")

    await stack.stop("proxy")
    (missing,) = await stack.until(lambda: fires("PilotlightMissing"), "PilotlightMissing")
    assert missing["labels"]["instance"] == stack.admin
