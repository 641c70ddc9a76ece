from __future__ import annotations

import pytest

from proxy.wire.routes import Family, Kind, classify


@pytest.mark.parametrize(
    ("method", "target", "endpoint", "kind"),
    [
        ("POST", "/api/generate", "api_generate", Kind.GENERATE),
        ("POST", "/api/generate?ts=1", "api_generate", Kind.GENERATE),
        ("POST", "/api/embeddings", "api_embed", Kind.EMBED),
        ("POST", "/v1/messages", "v1_messages", Kind.V1),
        ("GET", "/api/generate", "", Kind.OTHER),
        ("POST", "/api/generate/", "", Kind.OTHER),
        ("POST", "//api/generate", "", Kind.OTHER),
        ("DELETE", "/api/delete", "", Kind.MANAGE),
        ("GET", "/api/tags", "", Kind.OTHER),
    ],
)
def test_a_request_goes_the_way_of_its_route(method: str, target: str, endpoint: str, kind: Kind) -> None:
    route = classify(method, target)
    assert (route.endpoint, route.kind) == (endpoint, kind)


@pytest.mark.parametrize("target", ["/secret/prompt", "/api/blobs/sha256:1234", "/v1/models/my-model", "/api/x?key=1"])
def test_a_template_never_holds_the_callers_own_text(target: str) -> None:
    assert classify("GET", target).template in {"unknown", "/api/blobs/*", "/v1/models/*"}


@pytest.mark.parametrize(
    ("target", "family"),
    [
        ("/api/nope", Family.API),
        ("/", Family.API),
        ("/v1/nope", Family.OPENAI),
        ("/v1/messages/count_tokens", Family.ANTHROPIC),
        ("/v1/responses", Family.RESPONSES),
    ],
)
def test_errors_take_the_shape_of_the_api_that_was_called(target: str, family: Family) -> None:
    assert classify("POST", target).family is family
