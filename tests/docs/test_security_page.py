"""``docs/security.md`` says what the edge does: its tables are asked of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.edge.guard import Guard
from proxy.edge.hosts import Hosts
from proxy.edge.keys import hash_key, new_key
from proxy.edge.origins import Origins
from proxy.edge.scopes import Scope, routes, scope_of
from proxy.errors import PilotlightError
from proxy.relay.call import BODY_TIMEOUT_S, PIECE_TIMEOUT_S
from proxy.server.listen import HEAD_TIMEOUT_S, KEEPALIVE_TIMEOUT_S
from proxy.settings import Settings
from tests.e2e.browser import COLUMNS, attempts, table_rows

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
KEY = new_key(bytes(32))
LOCAL, STRANGER, MANAGER = "127.0.0.1", "203.0.113.9", "10.0.0.5"
ASKED = {
    "live": ("GET", "/api/version"),
    "read": ("GET", "/api/tags"),
    "infer": ("POST", "/api/chat"),
    "manage": ("DELETE", "/api/delete"),
    "unknown route": ("GET", "/debug/pprof"),
    "unload a kept model": ("POST", "/api/generate"),
}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def caller(title: str) -> tuple[Settings, str, list[tuple[bytes, bytes]]]:
    """The settings, the peer and the fields that a row of the table is about."""
    edge: dict[str, Any] = {"manage_from": ["127.0.0.0/8", "10.0.0.0/8"]}
    edge |= {"manage_from": []} if "`manage_from: []`" in title else {}
    edge |= {"allow_anonymous": True} if "allow_anonymous" in title else {}
    scopes = quoted(title) if title.startswith("key with") else ["read", "infer", "manage"]
    expires = {"expires": "2020-01-01"} if "expired" in title else {}
    keys = [{"name": "one", "hash": hash_key(KEY), "scopes": scopes, **expires}]
    peer = LOCAL if title.startswith("local") else MANAGER if title.startswith("in `manage_from`") else STRANGER
    fields = [(b"Host", b"localhost"), *([(b"X-API-Key", KEY.encode())] if title.startswith("key") else [])]
    return Settings.model_validate({"keys": keys, "edge": edge}), peer, fields


def decided(title: str, asked: str, peer: str | None = None, more: tuple[tuple[bytes, bytes], ...] = ()) -> str:
    settings, usual, fields = caller(title)
    guard = Guard(settings, own_names=(), authority=b"127.0.0.1:11434", secret=bytes(32))
    try:
        admitted = guard.admit(*ASKED[asked], [*fields, *more], peer=peer or usual, local=LOCAL, now_unix=1_795_564_800)
    except PilotlightError as error:
        return str(error.status)
    return "yes" if asked != "unload a kept model" or admitted.may_manage else "403"


CALLERS = table_rows(PAGE, "| caller |")


@pytest.mark.parametrize("row", CALLERS[1:], ids=lambda row: row[0])
def test_each_caller_may_do_what_the_table_says(row: list[str]) -> None:
    assert CALLERS[0][1:] == list(ASKED)
    assert {asked: decided(row[0], asked) for asked in ASKED} == dict(zip(ASKED, row[1:], strict=True))


@pytest.mark.parametrize("field", [b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Real-IP"])
@pytest.mark.parametrize("peer", [LOCAL, MANAGER])
def test_a_forwarding_field_makes_anyone_a_stranger(field: bytes, peer: str) -> None:
    (row,) = [row for row in CALLERS if row[0] == "stranger"]
    found = [decided("local, without a key", asked, peer, ((field, b"198.51.100.7"),)) for asked in ASKED]
    assert found == row[1:]


def test_the_routes_of_each_scope_are_those_of_the_code() -> None:
    written = {row[0]: quoted(row[1]) for row in table_rows(PAGE, "| scope |")[1:]}
    assert written["live"].pop() == "OPTIONS *"
    known = {f"{method} {path}": scope.value for (method, path), scope in routes().items()}
    assert {route: scope for scope, listed in written.items() for route in listed} == known
    assert set(written) == {scope.value for scope in Scope}


def test_spellings_that_are_called_unknown_are() -> None:
    (sentence,) = re.findall(r"already as sent: (.*?)are unknown routes", PAGE, re.DOTALL)
    assert [scope_of("GET", path) for path in quoted(sentence)] == [None] * 4


@pytest.mark.parametrize("row", table_rows(PAGE, "| `Host` |")[1:], ids=lambda row: row[0])
def test_each_host_is_answered_or_not_as_the_table_says(row: list[str]) -> None:
    hosts = Hosts(["models.example", "*.lan.example"], ["workstation"])
    names, _, _ = row[0].partition(", in `edge.hosts`")
    for name in quoted(names):
        assert hosts.allows(name.encode(), "192.168.1.10") is (row[1] == "yes"), name


@pytest.mark.parametrize("row", table_rows(PAGE, "| `Origin` |")[1:], ids=lambda row: row[0])
def test_each_origin_may_call_or_not_as_the_table_says(row: list[str]) -> None:
    origins = Origins(["https://app.example"], any_origin=True)
    names, _, _ = row[0].partition(", in `edge.origins`")
    for origin in quoted(names) or [""]:
        verdict = origins.verdict(origin.encode() or None, b"127.0.0.1:11435", None, "POST")
        assert verdict.allowed is (row[1] == "yes"), origin
        assert verdict.echo == (origin.encode() if origin and verdict.allowed else None)


def test_the_table_of_pages_has_what_is_tried_in_a_browser() -> None:
    heading, *rows = table_rows(PAGE, "| a page |")
    assert tuple(heading[1:]) == COLUMNS
    assert [row[0] for row in rows] == list(attempts())
    assert {cell for row in rows for cell in row[1:]} == {"served", "refused"}


def test_deadlines_are_those_of_the_code() -> None:
    rows = {row[0]: row[1] for row in table_rows(PAGE, "| what | limit |")[1:]}
    assert rows["head of a request, from its first byte"] == f"{HEAD_TIMEOUT_S:g} s"
    assert rows["silence before the first request and between two"] == f"{KEEPALIVE_TIMEOUT_S:g} s"
    assert rows["body of a call to a model"].startswith(f"{BODY_TIMEOUT_S:g} s")
    assert rows["pause within an upload"] == f"{PIECE_TIMEOUT_S:g} s"


def test_settings_that_are_named_exist() -> None:
    settings: Any = Settings()
    names = set(re.findall(r"`((?:edge|relay|scheduler|rate_limit)\.\w+)(?:: \w+)?`", PAGE))
    assert len(names) > 8
    for name in names:
        group, _, field = name.partition(".")
        assert field in type(getattr(settings, group)).model_fields, name


def test_the_settings_for_nginx_are_settings() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    settings = Settings.model_validate(yaml.safe_load(example))
    assert settings.edge.hosts == ("models.example",)
    assert settings.edge.trusted_proxies == ("127.0.0.1/32",)
