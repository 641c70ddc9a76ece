"""S4: exactly Ollama's list of web pages and what is configured may call, and the browser is told by us alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import proxy
from proxy.edge.hosts import Hosts
from proxy.edge.origins import Origins, Verdict, preflight, refusal, reply_fields

HERE = b"ollama.example.org:11435"
PAGE = b"http://localhost:3000"
PLAIN = Origins([], any_origin=False)
ASKS = [(b"Origin", PAGE), (b"access-control-request-method", b"POST")]

YES, NO = True, False

# Origin, Host, Sec-Fetch-Site, method, allowed, echoed.
COMBINATIONS: list[tuple[bytes | None, bytes | None, bytes | None, str, bool, bool]] = [
    # No page, or a browser that only reads.
    (None, HERE, None, "GET", YES, NO),
    (None, HERE, None, "POST", YES, NO),
    (None, HERE, None, "DELETE", YES, NO),
    (None, None, None, "POST", YES, NO),
    (b"", HERE, None, "POST", YES, NO),
    (None, HERE, b"none", "GET", YES, NO),
    (None, HERE, b"same-origin", "POST", YES, NO),
    (None, HERE, b"same-site", "POST", YES, NO),
    (None, HERE, b"cross-site", "GET", YES, NO),
    (None, HERE, b"cross-site", "HEAD", YES, NO),
    (None, HERE, b"cross-site", "OPTIONS", YES, NO),
    (None, HERE, b"cross-site", "POST", NO, NO),
    (b"", HERE, b"cross-site", "POST", NO, NO),
    (None, HERE, b"cross-site", "DELETE", NO, NO),
    (None, HERE, b" Cross-Site ", "PUT", NO, NO),
    (None, HERE, b"cross-site", "post", NO, NO),
    # Ollama's list.
    (b"http://localhost", HERE, b"cross-site", "POST", YES, YES),
    (b"https://localhost", HERE, None, "POST", YES, YES),
    (b"http://localhost:3000", HERE, b"same-site", "POST", YES, YES),
    (b"https://localhost:1", HERE, None, "GET", YES, YES),
    (b"http://127.0.0.1", HERE, None, "DELETE", YES, YES),
    (b"https://127.0.0.1:8443", HERE, None, "POST", YES, YES),
    (b"http://0.0.0.0", HERE, None, "POST", YES, YES),
    (b"http://0.0.0.0:8080", HERE, None, "OPTIONS", YES, YES),
    (b"app://obsidian.md", HERE, b"cross-site", "POST", YES, YES),
    (b"file://", HERE, None, "POST", YES, YES),
    (b"tauri://localhost", HERE, None, "POST", YES, YES),
    (b"vscode-webview://1abc", HERE, None, "POST", YES, YES),
    (b"vscode-file://vscode-app", HERE, None, "POST", YES, YES),
    # The page is ours, under the name that the client used.
    (b"http://ollama.example.org:11435", HERE, b"same-origin", "POST", YES, NO),
    (b"https://ollama.example.org:11435", HERE, b"same-origin", "POST", YES, NO),
    (b"https://ollama.example.org", b"ollama.example.org", None, "POST", YES, NO),
    (b"https://ollama.example.org", b"Ollama.Example.ORG:443", None, "DELETE", YES, NO),
    (b"http://ollama.example.org", b"ollama.example.org:80", None, "POST", YES, NO),
    (b"http://[fd00::1]:11435", b"[fd00:0::1]:11435", None, "POST", YES, NO),
    (b"http://localhost:11435", b"localhost:11435", None, "POST", YES, NO),
    # Nearly ours.
    (b"http://ollama.example.org", HERE, None, "POST", NO, NO),
    (b"http://ollama.example.org", b"ollama.example.org:443", None, "POST", NO, NO),
    (b"https://ollama.example.org:80", b"ollama.example.org", None, "POST", NO, NO),
    (b"http://ollama.example.org:11434", HERE, None, "POST", NO, NO),
    (b"ws://ollama.example.org:11435", HERE, None, "GET", NO, NO),
    (b"http://ollama.example.org:11435", None, None, "POST", NO, NO),
    # Strangers: a text/plain POST, a read, a preflight, a handshake of a WebSocket (a GET).
    (b"http://evil.example", HERE, b"cross-site", "POST", NO, NO),
    (b"http://evil.example", HERE, b"cross-site", "GET", NO, NO),
    (b"http://evil.example", HERE, b"cross-site", "OPTIONS", NO, NO),
    (b"http://evil.example", HERE, None, "DELETE", NO, NO),
    (b"null", HERE, b"cross-site", "POST", NO, NO),
    (b"null", HERE, None, "GET", NO, NO),
    (b"http://localhost.evil.example", HERE, None, "POST", NO, NO),
    (b"http://localhost:3000.evil.example", HERE, None, "POST", NO, NO),
    (b"http://localhost:3000@evil.example", HERE, None, "POST", NO, NO),
    (b"http://127.0.0.1.nip.io", HERE, None, "POST", NO, NO),
    (b"http://127.0.0.2:3000", HERE, None, "POST", NO, NO),
    (b"http://[::1]:3000", HERE, None, "POST", NO, NO),
    (b"http://192.168.1.10", HERE, None, "POST", NO, NO),
    (b"ftp://localhost", HERE, None, "POST", NO, NO),
    (b"chrome-extension://abcdefgh", HERE, None, "POST", NO, NO),
    (b"http://localhost, http://evil.example", HERE, None, "POST", NO, NO),
    (b"http://localhost:3000/", HERE, None, "POST", NO, NO),
    (b"localhost:3000", HERE, None, "POST", NO, NO),
    (b"*", HERE, None, "POST", NO, NO),
    # Under a rebound name the page is same-origin: it is the Host that is refused.
    (b"http://evil.example:11435", b"evil.example:11435", b"same-origin", "POST", YES, NO),
]


def test_there_are_sixty_combinations_and_more() -> None:
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) >= 60


@pytest.mark.parametrize(("origin", "host", "site", "method", "allowed", "echoed"), COMBINATIONS)
def test_the_verdict(
    origin: bytes | None, host: bytes | None, site: bytes | None, method: str, allowed: bool, echoed: bool
) -> None:
    assert PLAIN.verdict(origin, host, site, method) == Verdict(allowed, origin if echoed else None)


def test_a_page_under_a_rebound_name_is_refused_for_its_host() -> None:
    assert PLAIN.verdict(b"http://evil.example", b"evil.example", None, "POST").allowed
    assert not Hosts([], []).allows(b"evil.example", "127.0.0.1")


@pytest.mark.parametrize(
    ("entry", "matching", "other"),
    [
        ("https://chat.example.org", b"https://chat.example.org", b"https://chat.example.org:444"),
        ("https://Chat.example.org ", b"https://chat.example.org", b"http://chat.example.org"),
        ("http://10.0.0.7:3000", b"http://10.0.0.7:3000", b"http://10.0.0.7:30000"),
        ("https://*.example.org", b"https://a.b.example.org", b"https://example.org"),
        ("http://10.0.0.7:*", b"http://10.0.0.7:3000", b"http://10.0.0.7"),
        ("http://10.0.0.*", b"http://10.0.0.9:3000", b"http://10.0.1.9"),
        ("*://chat.example.org", b"https://chat.example.org", b"https://chat.example.org:1"),
        ("*.example.org", b"http://a.example.org", b"http://a.example.com"),
        ("http://a*a", b"http://aba", b"http://a"),
        ("chrome-extension://*", b"chrome-extension://abcdef", b"moz-extension://abcdef"),
        ("moz-extension://1-2", b"moz-extension://1-2", b"moz-extension://1-3"),
        ("null", b"null", b"nul"),
    ],
)
def test_configured_origins_match_as_ollamas_do(entry: str, matching: bytes, other: bytes) -> None:
    origins = Origins([entry], any_origin=False)
    assert origins.verdict(matching, HERE, b"cross-site", "POST") == Verdict(True, matching)
    assert origins.verdict(other, HERE, b"cross-site", "POST") == Verdict(False, None)
    assert PLAIN.verdict(matching, HERE, None, "POST") == Verdict(False, None)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "example.org",
        "https://example.org/",
        "https://example.org/*",
        "https://*.example.*",
        "https://exa mple.org",
        "https://a,https://b",
        "https://*,https://b",
        "https://löwe.example",
        "https://*.löwe.example",
        "https://user@example.org",
        "https://example.org:x",
    ],
)
def test_a_setting_that_matches_no_origin_is_refused_at_start(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(entry))):
        Origins([entry], any_origin=True)


def test_any_origin_counts_only_where_keys_are_mandatory() -> None:
    for origin in (b"http://evil.example", b"null", b"app-x://y"):
        assert Origins(["*"], any_origin=True).verdict(origin, HERE, b"cross-site", "POST") == Verdict(
            True, origin, True
        )
        assert Origins(["*"], any_origin=False).verdict(origin, HERE, None, "POST") == Verdict(False, None)
        assert Origins([], any_origin=True).verdict(origin, HERE, None, "POST") == Verdict(False, None)
    assert not Origins(["*"], any_origin=True).verdict(b"http://a, http://b", HERE, None, "POST").allowed


@pytest.mark.parametrize("origin", [None, PAGE, b"http://" + HERE, b"https://chat.example.org", b"null"])
def test_only_a_page_that_nothing_else_lets_in_needs_a_key(origin: bytes | None) -> None:
    open_to_all = Origins(["*", "https://chat.example.org", "null"], any_origin=True)
    assert not open_to_all.verdict(origin, HERE, None, "POST").needs_key
    assert open_to_all.verdict(b"https://evil.example", HERE, None, "POST").needs_key


@given(
    st.binary(max_size=40) | st.from_regex(rb"(http|https|app|null|\*)[:/a-z0-9.,@*\[\] -]{0,30}", fullmatch=True),
    st.none() | st.binary(max_size=20),
)
@example(b"http://localhost\r\nX: y", None)
def test_what_is_echoed_is_the_origin_and_has_nothing_that_a_header_must_not_have(
    origin: bytes, host: bytes | None
) -> None:
    allowed, echo, _ = Origins(["*"], any_origin=True).verdict(origin, host, None, "POST")
    if echo is not None:
        assert allowed
        assert echo == origin != b"*"
        assert re.fullmatch(rb"null|[a-z][a-z0-9+.-]*://[A-Za-z0-9._~%:\[\]-]*", echo)


def recorded(name: str) -> dict[str, object]:
    exchanges = Path(__file__).parent.parent / "data" / "exchanges.json"
    (found,) = [entry for entry in json.loads(exchanges.read_text(encoding="utf-8")) if entry.get("name") == name]
    return {name.lower(): value for name, value in found["reply"]["headers"]}


def test_a_preflight_is_answered_as_ollama_does_and_with_our_own_fields() -> None:
    fields = preflight("OPTIONS", ASKS, PAGE)
    assert fields is not None
    assert [value for name, value in fields if name == b"Vary"] == [
        b"Origin",
        b"Access-Control-Request-Method",
        b"Access-Control-Request-Headers",
    ]
    ours = {name: value for name, value in fields if name != b"Vary"}
    allowed = ours.pop(b"Access-Control-Allow-Headers").split(b",")
    assert ours == {
        b"Access-Control-Allow-Origin": PAGE,
        b"Access-Control-Allow-Methods": b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
        b"Access-Control-Max-Age": b"43200",
    }
    assert {b"Authorization", b"Content-Type", b"X-API-Key", b"X-Priority", b"X-Request-ID"} < {*allowed}
    assert {b"traceparent", b"tracestate"} < {*allowed}


def test_what_the_recorded_preflight_allows_is_allowed_here() -> None:
    theirs = recorded("cors preflight allowed")
    fields = {name.decode().lower(): value.decode() for name, value in preflight("OPTIONS", ASKS, PAGE) or ()}
    for name in ("access-control-allow-methods", "access-control-allow-origin", "access-control-max-age"):
        assert fields[name] == theirs[name]
    assert fields["access-control-allow-headers"].startswith(f"{theirs['access-control-allow-headers']},")


@pytest.mark.parametrize("echo", [PAGE, b"null", None])
def test_no_reply_lets_a_page_use_what_the_user_is_logged_in_with(echo: bytes | None) -> None:
    theirs = [(b"Access-Control-Allow-Origin", b"*"), (b"ACCESS-CONTROL-Allow-Credentials", b"true")]
    for fields in (preflight("OPTIONS", ASKS, echo), reply_fields(theirs, echo)):
        assert fields is not None
        assert not [name for name, _ in fields if name.lower() == b"access-control-allow-credentials"]
        told = [value for name, value in fields if name.lower() == b"access-control-allow-origin"]
        assert told == ([] if echo is None else [echo])


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("POST", ASKS),
        ("options", ASKS),
        ("OPTIONS", ASKS[:1]),
        ("OPTIONS", ASKS[1:]),
        ("OPTIONS", [(b"Origin", b""), ASKS[1]]),
        ("OPTIONS", []),
    ],
)
def test_other_requests_are_no_preflight(method: str, fields: list[tuple[bytes, bytes]]) -> None:
    assert preflight(method, fields, PAGE) is None


def test_the_upstreams_word_about_cors_is_replaced_by_ours() -> None:
    theirs = [
        (b"Content-Type", b"application/json"),
        (b"access-control-allow-origin", b"http://else"),
        (b"Access-Control-Expose-Headers", b"X"),
        (b"Accept-Ranges", b"none"),
    ]
    fields = reply_fields(theirs, PAGE)
    assert fields[:3] == [theirs[0], theirs[3], (b"Access-Control-Allow-Origin", PAGE)]
    assert fields[3][0] == b"Access-Control-Expose-Headers"
    assert fields[4:] == [(b"Vary", b"Origin")]
    assert reply_fields(theirs, None) == [theirs[0], theirs[3]]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ([], [b"Origin"]),
        ([b"Accept-Encoding"], [b"Accept-Encoding, Origin"]),
        ([b"Accept-Encoding", b"X-A"], [b"Accept-Encoding", b"X-A, Origin"]),
        ([b"accept, oRIGIN"], [b"accept, oRIGIN"]),
        ([b"Origin", b"Accept"], [b"Origin", b"Accept"]),
        ([b"*"], [b"*"]),
        ([b""], [b"Origin"]),
    ],
)
def test_vary_names_the_origin_once(theirs: list[bytes], ours: list[bytes]) -> None:
    fields = reply_fields([(b"vary", value) for value in theirs], PAGE)
    assert [value for name, value in fields if name.lower() == b"vary"] == ours


def test_a_page_may_read_every_field_of_our_own() -> None:
    exposed = {name.lower() for name in dict(reply_fields([], PAGE))[b"Access-Control-Expose-Headers"].split(b",")}
    root = Path(proxy.__file__).parent
    sources = b"".join(path.read_bytes() for path in root.rglob("*.py") if path.parent.name != "edge")
    ours = {name.lower() for name in re.findall(rb'b"(X-Pilotlight-[A-Za-z-]*[a-z])"', sources)}
    assert ours
    assert ours | {b"x-request-id", b"server-timing", b"x-cache", b"retry-after"} <= exposed


def test_the_refusal_does_not_repeat_the_value() -> None:
    assert (refusal().status, refusal().code) == (403, "origin_refused")
