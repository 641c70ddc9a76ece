"""The client libraries of ``docs/clients.md``, each with its real package: the same through the proxy as directly."""

from __future__ import annotations

import pytest

from tests.clients.matrix import CALLS, CLIENTS, Client, outcomes, row, written_rows

FAILING = ("error", "model not found")
# What a library has no call for.
LACKS = {"anthropic": ("embeddings",), "llama-index-llms-ollama": ("list", "embeddings")}
# LangChain's call for the list is one that fails when a model is not on it.
RAISING = {"langchain-ollama": (*FAILING, "list")}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.driver.rpartition("/")[2])
async def test_a_client_gets_the_same_through_the_proxy_as_directly(client: Client) -> None:
    if client.missing:
        pytest.skip(client.missing)
    told = await outcomes(client)
    direct, proxied = told["direct"], told["proxied"]
    assert list(direct) == [name for name in CALLS if name not in LACKS.get(client.package, ())]
    for name, outcome in direct.items():
        assert proxied[name] == outcome, name
        assert ("raised" in outcome) is (name in RAISING.get(client.package, FAILING)), (name, outcome)
    assert direct["cancel"] == {"ok": {"the server noticed": True}}
    assert row(client, told) in written_rows()


def test_the_page_has_a_row_for_each_client_and_no_other() -> None:
    titles = [line.split("|")[1].strip() for line in written_rows()]
    assert titles == [f"{client.title} {client.version()}" for client in CLIENTS]
