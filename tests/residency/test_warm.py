from __future__ import annotations

from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from proxy.residency.runner import Runner
from proxy.residency.warm import prompt_body, token_body
from proxy.rewrite.facts import ModelFacts
from proxy.settings import KeptModel

if TYPE_CHECKING:
    from collections.abc import Callable

    Opens = Callable[..., Any]

TOOL = {"type": "function", "function": {"name": "weather"}}


def runner(**model: Any) -> Runner:
    kept = KeptModel.model_validate({"name": "one", **model})
    facts = ModelFacts("one:latest", "", "sha256:w")
    return Runner("sha256:w", facts, {"one:latest"}, kept, 0, current={"num_ctx": 2048})


def test_a_warm_up_carries_the_options_and_keep_alive_of_every_request() -> None:
    body = token_body(runner(keep_alive="1h"))
    assert body["options"] == {"num_ctx": 2048, "num_predict": 1}
    assert body["keep_alive"] == "1h"
    assert body["model"] == "one:latest"


def test_a_warm_prompt_is_the_system_text_and_the_tools_before_any_question() -> None:
    model = runner(warm=[{"system": "be brief", "tools": [TOOL]}])
    assert model.kept is not None
    body = prompt_body(model, model.kept.warm[0])
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["tools"] == [TOOL]


def test_an_entry_of_tools_alone_has_no_system_message() -> None:
    model = runner(warm=[{"tools": [TOOL]}])
    assert model.kept is not None
    assert [message["role"] for message in prompt_body(model, model.kept.warm[0])["messages"]] == ["user"]


async def test_a_warming_that_fails_is_told_and_not_repeated_at_once(scene: Opens) -> None:
    with capture_logs() as logs:
        async with scene({"name": "one", "warm": [{"system": "be brief"}]}) as s:
            s.server.fail("status", status=500, text="no luck", path="/api/chat", times=-1)
            s.catalogue.on_version("0.24.0")
            await s.settle()
            await s.settle()
    assert [line["reason"] for line in logs if line["event"] == "warming failed"] == ["no luck"]


async def test_an_embedding_only_model_is_warmed_with_an_embedding(scene: Opens) -> None:
    async with scene({"name": "embedder"}) as s:
        await s.settle()
        assert [b"input" in request.body for request in s.server.requests_for("/api/embed")] == [False, True]
