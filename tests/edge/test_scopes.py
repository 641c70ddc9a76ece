"""S3, S5: every route of Ollama's has the scope that the guard asks for, and no other spelling has a weaker one."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.edge.scopes import Scope, routes, scope_of
from proxy.wire.routes import Kind, classify, table

# Ollama v0.24.0, server/routes.go, GenerateRoutes: all of them, in its order.
OLLAMA = {
    ("HEAD", "/"): Scope.LIVE,
    ("GET", "/"): Scope.LIVE,
    ("HEAD", "/api/version"): Scope.LIVE,
    ("GET", "/api/version"): Scope.LIVE,
    ("GET", "/api/status"): Scope.READ,
    ("POST", "/api/pull"): Scope.MANAGE,
    ("POST", "/api/push"): Scope.MANAGE,
    ("HEAD", "/api/tags"): Scope.READ,
    ("GET", "/api/tags"): Scope.READ,
    ("POST", "/api/show"): Scope.READ,
    ("DELETE", "/api/delete"): Scope.MANAGE,
    ("POST", "/api/me"): Scope.MANAGE,
    ("POST", "/api/signout"): Scope.MANAGE,
    ("DELETE", "/api/user/keys/*"): Scope.MANAGE,
    ("POST", "/api/create"): Scope.MANAGE,
    ("POST", "/api/blobs/*"): Scope.MANAGE,
    ("HEAD", "/api/blobs/*"): Scope.MANAGE,
    ("POST", "/api/copy"): Scope.MANAGE,
    ("POST", "/api/experimental/web_search"): Scope.MANAGE,
    ("POST", "/api/experimental/web_fetch"): Scope.MANAGE,
    ("GET", "/api/experimental/model-recommendations"): Scope.READ,
    ("GET", "/api/ps"): Scope.READ,
    ("POST", "/api/generate"): Scope.INFER,
    ("POST", "/api/chat"): Scope.INFER,
    ("POST", "/api/embed"): Scope.INFER,
    ("POST", "/api/embeddings"): Scope.INFER,
    ("POST", "/v1/chat/completions"): Scope.INFER,
    ("POST", "/v1/completions"): Scope.INFER,
    ("POST", "/v1/embeddings"): Scope.INFER,
    ("GET", "/v1/models"): Scope.READ,
    ("GET", "/v1/models/*"): Scope.READ,
    ("POST", "/v1/responses"): Scope.INFER,
    ("POST", "/v1/images/generations"): Scope.INFER,
    ("POST", "/v1/images/edits"): Scope.INFER,
    ("POST", "/v1/audio/transcriptions"): Scope.INFER,
    ("POST", "/v1/messages"): Scope.INFER,
}
OWN = "sha256:0a-b.c_d"
PLAIN = {(method, path.replace("*", OWN)): scope for (method, path), scope in OLLAMA.items()}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "Post", ""]


def test_the_table_has_ollamas_routes_and_no_others() -> None:
    assert routes() == OLLAMA


@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_a_route_has_its_scope_whatever_its_query_is(method: str, path: str) -> None:
    scope = PLAIN[method, path]
    for query in ("", "?", "?a=b", "?/api/delete", "?%2f%zz//\\", "?é"):
        assert scope_of(method, path + query) is scope


@pytest.mark.parametrize(("method", "path"), table())
def test_each_route_of_the_relays_table_has_a_fitting_scope(method: str, path: str) -> None:
    route = classify(method, path)
    assert scope_of(method, path) is (Scope.MANAGE if route.kind is Kind.MANAGE else Scope.INFER)
    assert route.is_inference is (route.kind is not Kind.MANAGE)


@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_the_relay_knows_each_route_too(method: str, path: str) -> None:
    assert classify(method, path).template != "unknown"


@pytest.mark.parametrize("path", sorted({path for _, path in PLAIN}))
def test_another_method_is_another_route(path: str) -> None:
    for method in METHODS:
        assert scope_of(method, path) is PLAIN.get((method, path))


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "api/delete",
        "//api/delete",
        "/api//delete",
        "/api/delete/",
        "/api/delete//",
        "/api/./delete",
        "/api/../api/delete",
        "/./api/delete",
        "/x/../api/delete",
        "/api/x/%2e%2e/delete",
        "/api/%2e/delete",
        "/api%2fdelete",
        "/api%2Fdelete",
        "%2fapi/delete",
        "/api/delete%2f",
        "/api%5cdelete",
        "/api\\delete",
        "/API/delete",
        "/api/Delete",
        "/api/DELETE",
        "/api/%44elete",
        "/api/delete%00",
        "/api/delete\0",
        "/api/delete%0d%0a",
        "/api/delete\r\n",
        "/api/delete%20",
        "/api/delete ",
        "/api/delete%3f",
        "/api/delete%23",
        "/api/delete#",
        "/api/delete;x",
        "/api/delete%",
        "/api/delete%zz",
        "/api/%2564elete",
        "/api/%c4%8felete",
        "/api/deleté",
        "/api/\udc64elete",
        "/api/user/keys/",
        "/api/user/keys",
        "/api/user/keys/a/b",
        "/api/user/keys/*",
        "/api/user/keys/.",
        "/api/user/keys/..",
        "/api/user/keys/%2e%2e",
        "/api/user/keys/a%2fb",
        "/api/user/keys/a%5cb",
        "/api/user/keys/a%00",
        "/api/user/keys/a%25",
        "/api/user/keys/a%20b",
        "/debug/pprof/",
        "/debug/pprof/heap",
        "/metrics",
        "/ws/chat",
        "http://evil.example/api/delete",
        "@evil.example/api/delete",
        "//evil.example/api/delete",
        "/\\evil.example/api/delete",
        "/.evil.example/",
        "/http://evil.example/",
    ],
)
def test_an_odd_spelling_is_no_route(target: str) -> None:
    for method in METHODS:
        assert scope_of(method, target) is None


def test_a_plain_letter_may_be_encoded() -> None:
    assert scope_of("DELETE", "/api/%64elete") is Scope.MANAGE
    assert scope_of("DELETE", "/%61pi/delete") is Scope.MANAGE
    assert scope_of("POST", "/api/blobs/sha256%3Aabc") is Scope.MANAGE
    assert scope_of("GET", "/v1/models/llama3.2%3A3b") is Scope.READ


@pytest.mark.parametrize("path", sorted(path for (_, path), scope in PLAIN.items() if scope is Scope.INFER))
def test_a_call_to_a_model_has_one_spelling(path: str) -> None:
    # Its body is judged only on the way that the relay's table finds.
    assert scope_of("POST", f"{path[:-1]}%{ord(path[-1]):x}") is None
    assert scope_of("POST", f"/%{ord(path[1]):x}{path[2:]}") is None


def test_a_digest_that_climbs_is_no_route() -> None:
    # CVE-2026-7020.
    assert scope_of("HEAD", "/api/blobs/sha256:..%2f..%2fetc") is None
    assert scope_of("HEAD", "/api/blobs/..") is None


def respelt(path: str, choices: list[int]) -> str:
    """A path with some of its characters encoded, once or twice, in another case, or with something put between."""
    ways = [
        lambda c: c,
        lambda c: f"%{ord(c):02x}",
        lambda c: f"%{ord(c):02X}",
        lambda c: f"%25{ord(c):02x}",
        str.upper,
        lambda c: f"{c}/",
        lambda c: f"/.{c}",
        lambda c: f"/x/..{c}",
        lambda c: f"{c}%00",
        lambda c: f"{c}\\",
    ]
    return "".join(
        ways[choice % len(ways)](char) for char, choice in zip(path, choices + [0] * len(path), strict=False)
    )


# Mostly as it is and encoded, so that many of them are the route to a server that decodes.
CHOICES = st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]), max_size=30)


@given(st.sampled_from(sorted(PLAIN)), CHOICES)
@example(("DELETE", "/api/delete"), [0, 0, 0, 0, 1])
def test_however_a_route_is_spelt_it_never_has_another_scope(route: tuple[str, str], choices: list[int]) -> None:
    method, path = route
    spelling = respelt(path, choices)
    assume(unquote(spelling) == path)
    assert scope_of(method, spelling) in (PLAIN[route], None)


@given(st.sampled_from(sorted(PLAIN)), CHOICES)
def test_a_spelling_that_a_server_could_clean_into_a_managing_route_is_managing_or_none(
    route: tuple[str, str], choices: list[int]
) -> None:
    method, path = route
    assume(PLAIN[route] is Scope.MANAGE)
    assert scope_of(method, respelt(path, choices)) in (Scope.MANAGE, None)


@given(
    st.sampled_from(METHODS), st.text(max_size=40) | st.from_regex(r"/(api|v1)/[a-z%0-9/.\\#;]{0,20}", fullmatch=True)
)
def test_what_has_a_scope_decodes_to_the_plain_spelling_of_a_route(method: str, target: str) -> None:
    if scope_of(method, target) is None:
        return
    path = unquote(target.partition("?")[0])
    parent = path.rpartition("/")[0]
    assert (method, path) in OLLAMA or (method, f"{parent}/*") in OLLAMA
    assert path.isascii()
    assert path.isprintable()
    assert not {"%", "\\", "#", "?", " "} & {*path}


@pytest.mark.parametrize("name", ["infer", "read", "manage"])
def test_a_scope_has_the_name_that_the_settings_use(name: str) -> None:
    assert Scope(name).value == name
