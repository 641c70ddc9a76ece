from __future__ import annotations

import pytest

from proxy.errors import BadRequest, MethodNotAllowed, MisdirectedLoop, NotImplementedHere, VersionNotSupported
from proxy.relay.target import Target, parse_target, refuse_loop, refuse_unfit


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/", Target("/")),
        ("/a?b=/c", Target("/a?b=/c")),
        ("*", Target("*")),
        ("http://h:1/p?q", Target("/p?q", "h:1")),
        ("HTTP://h", Target("/", "h")),
        ("https://h?q", Target("/?q", "h")),
    ],
)
def test_each_form_of_a_target_is_read(raw: str, target: Target) -> None:
    assert parse_target(raw) == target


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "a",
        "ftp://h/p",
        "http:///p",
        "http://u@h/p",
        "http://?q",
        "h:80",
        "javascript://x/",
        "//evil.example/p",
        "//",
    ],
)
def test_what_is_no_target_of_a_server_is_refused(raw: str) -> None:
    with pytest.raises(BadRequest):
        parse_target(raw)


def test_what_cannot_be_relayed_without_changing_it_is_refused() -> None:
    with pytest.raises(MethodNotAllowed):
        refuse_unfit("CONNECT", (1, 1), [])
    for version in ((0, 9), (1, 2), (2, 0)):
        with pytest.raises(VersionNotSupported):
            refuse_unfit("GET", version, [])
    for coding in (b"gzip, chunked", b"gzip", b"identity", b"chunked, chunked"):
        with pytest.raises(NotImplementedHere):
            refuse_unfit("POST", (1, 1), [(b"TRANSFER-ENCODING", coding)])
    with pytest.raises(BadRequest):
        refuse_unfit("GET", (1, 1), [(b"X", b"\xe9")])


def test_what_can_be_relayed_is_not_refused() -> None:
    fields = [(b"Transfer-Encoding", b" Chunked "), (b"X", "\u00e9".encode())]
    refuse_unfit("POST", (1, 1), fields)
    refuse_unfit("BREW", (1, 0), [])


def test_only_our_own_name_in_via_is_a_loop() -> None:
    refuse_loop([(b"Via", b"1.1 pilotlight-other, 1.0 nginx"), (b"X", b"1.1 me")], b"me")
    with pytest.raises(MisdirectedLoop):
        refuse_loop([(b"vIA", b"1.0 nginx, 1.1 me")], b"me")
