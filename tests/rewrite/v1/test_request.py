"""Requests of OpenAI's API as native ones, judged by what the simulated Ollama makes of the same bodies."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.rewrite.fields import KNOWN_NAMES, fits
from proxy.rewrite.v1.dialect import Dialect
from proxy.rewrite.v1.request import Translated, translate
from proxy.simulator.api.requests import CHAT, GENERATE
from proxy.simulator.api.v1 import CHAT_COMPLETION, COMPLETION
from proxy.simulator.golang.jsonbind import Struct, unmarshal_struct
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes.v1.convert import chat_request, completion_request
from proxy.wire.gojson import read_object
from tests.rewrite.v1.bodies import PNG, chats, completions, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHAT_PATH, COMPLETION_PATH = "/v1/chat/completions", "/v1/completions"
OLDER, NEWER = Dialect(), Dialect(is_read=False)

# Path to: the request that came, what Ollama makes of it, the request that goes on.
OLLAMAS: Mapping[str, tuple[Struct, Callable[[Any], bytes], Struct]] = {
    CHAT_PATH: (CHAT_COMPLETION, chat_request, CHAT),
    COMPLETION_PATH: (COMPLETION, completion_request, GENERATE),
}
CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION_BODY: dict[str, Any] = {"model": "m", "prompt": "hi"}


def translated(path: str, body: bytes, dialect: Dialect = OLDER) -> Translated | None:
    obj = read_object(body)
    return None if obj is None else translate(path, obj, dialect)


def native(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The native request for a chat or a completion."""
    path = CHAT_PATH if "messages" in body else COMPLETION_PATH
    found = translated(path, json.dumps({**body, **more}).encode())
    assert found is not None
    read: dict[str, Any] = json.loads(found.body)
    return read


def is_relayed(body: dict[str, Any], dialect: Dialect = OLDER, **more: Any) -> bool:
    path = CHAT_PATH if "messages" in body else COMPLETION_PATH
    return translated(path, json.dumps({**body, **more}).encode(), dialect) is None


def ollamas(path: str, body: bytes) -> dict[str, object] | None:
    """The native request as Ollama's own handler reads it; ``None`` where its middleware refuses the body."""
    came, convert, goes = OLLAMAS[path]
    try:
        return as_run(unmarshal_struct(convert(unmarshal_struct(body, came)), goes))
    except GoError:
        return None


def as_run(request: dict[str, object]) -> dict[str, object]:
    """A native request with its options as the runner has them: 32-bit floats, and null is absent."""
    options = request["options"]
    assert isinstance(options, dict)
    return {**request, "options": {name: _as_run(value) for name, value in options.items() if value is not None}}


def _as_run(value: object) -> object:
    if isinstance(value, float):
        try:
            return struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            return float("inf")
    return value


# --- any request


@given(requests(st.sampled_from(["m", ""])))
@example((CHAT_PATH, b"[]"))
@example(
    (CHAT_PATH, b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":5,"type":"function"}]}')
)
@example((CHAT_PATH, b'{"model":"m","messages":[{"role":"user","content":[]}]}'))
@example((CHAT_PATH, b'{"model":"\xff","messages":[{"role":"user","content":"\xff\\ud800"}],"stop":["\\udc00"]}'))
@example(
    (
        CHAT_PATH,
        b'{"model":"m","messages":[{"role":"system","content":"x"},{"role":"user","content":[],'
        b'"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}',
    )
)
@example((COMPLETION_PATH, b'{"model":"m","prompt":"x","top_p":1e-50,"stop":1e400}'))
def test_any_request_is_what_ollama_makes_of_it_or_relayed(request: tuple[str, bytes]) -> None:
    path, body = request
    found = translated(path, body)
    if found is None:
        return
    theirs = ollamas(path, body)
    assert theirs is not None, "Ollama refuses it, so its own words were due"
    ours = unmarshal_struct(found.body, OLLAMAS[path][2])
    assert as_run(ours) == theirs
    obj = read_object(found.body)
    assert obj is not None
    assert not obj.odd_for(KNOWN_NAMES[found.path])
    assert fits(found.path, obj)


@pytest.mark.parametrize(("path", "bodies"), [(CHAT_PATH, chats), (COMPLETION_PATH, completions)])
def test_hardly_any_right_request_is_relayed(path: str, bodies: Callable[..., st.SearchStrategy[Any]]) -> None:
    """The property above would hold if nothing was ever translated."""
    counts = {True: 0, False: 0}

    @settings(max_examples=60)
    @given(bodies(st.just("m")))
    def count(body: dict[str, Any]) -> None:
        counts[translated(path, json.dumps(body).encode()) is not None] += 1

    count()
    assert counts[True] > 4 * counts[False], counts


# --- what becomes of a chat


def test_a_chat_gets_the_defaults_of_ollamas_middleware() -> None:
    assert native(CHAT_BODY) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"temperature": 1, "top_p": 1},
        "stream": False,
    }


def test_options_keep_the_numbers_as_the_client_wrote_them() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":0.70,"seed":7,"top_p":1e-1}'
    found = translated(CHAT_PATH, body)
    assert found is not None
    assert b'"temperature":0.70' in found.body
    assert b'"top_p":1e-1' in found.body


def test_limits_and_penalties_get_ollamas_names() -> None:
    given = {"max_tokens": 5, "seed": 3, "frequency_penalty": 0.5, "presence_penalty": -0.5, "stop": "END"}
    assert native(CHAT_BODY, **given)["options"] == {
        "temperature": 1,
        "top_p": 1,
        "num_predict": 5,
        "seed": 3,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "stop": ["END"],
    }


def test_a_chats_stop_passes_over_what_is_no_text_and_a_completions_does_not() -> None:
    assert native(CHAT_BODY, stop=["a", 5, None])["options"]["stop"] == ["a"]
    assert is_relayed(COMPLETION_BODY, stop=["a", 5])
    assert "stop" not in native(CHAT_BODY, stop=[5])["options"]


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": " JSON_OBJECT "}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"b": 1, "a": 2}}}, {"b": 1, "a": 2}),
        ({"type": "text"}, None),
        ({"type": "json_schema"}, None),
        (None, None),
    ],
)
def test_a_response_format_becomes_a_format(given: object, form: object) -> None:
    assert native(CHAT_BODY, response_format=given).get("format") == form


def test_a_schema_keeps_the_order_of_its_members_and_its_numbers() -> None:
    schema = b'{ "z" : {"multipleOf": 1.50}, "a": "<b>" }'
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema",'
    found = translated(CHAT_PATH, body + b'"json_schema":{"schema":' + schema + b"}}}")
    assert found is not None
    assert b'"format":{"z":{"multipleOf":1.50},"a":"\\u003cb\\u003e"}' in found.body


@pytest.mark.parametrize(
    ("given", "think"),
    [
        ({"reasoning_effort": "high"}, "high"),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, "low"),
        ({"reasoning": {}, "reasoning_effort": "high"}, None),
        ({"reasoning_effort": ""}, None),
    ],
)
def test_an_effort_becomes_think(given: dict[str, Any], think: object) -> None:
    assert native(CHAT_BODY, **given).get("think") == think


def test_an_effort_that_only_later_versions_know_is_relayed() -> None:
    assert is_relayed(CHAT_BODY, reasoning_effort="xhigh")


def test_options_and_keep_alive_are_ignored_as_ollamas_v1_does() -> None:
    given = {"options": {"num_ctx": 9}, "keep_alive": 0, "n": 2, "user": "u", "max_completion_tokens": 3}
    assert native(CHAT_BODY, **given) == native(CHAT_BODY)


def test_what_a_server_newer_than_any_that_was_read_may_know_is_relayed() -> None:
    assert not is_relayed(CHAT_BODY, NEWER, user="u", keep_alive="1m", options={}, n=None)
    assert is_relayed(CHAT_BODY, NEWER, max_completion_tokens=3)
    assert is_relayed({**CHAT_BODY, "messages": [{"role": "user", "content": "x", "audio": {"id": "a"}}]}, NEWER)
    assert not is_relayed({**CHAT_BODY, "messages": [{"role": "user", "content": "x", "audio": None}]}, NEWER)


# --- and of a completion


def test_a_completion_gets_more_defaults() -> None:
    assert native(COMPLETION_BODY) == {
        "model": "m",
        "prompt": "hi",
        "options": {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0},
        "stream": False,
    }


def test_a_completions_top_p_of_zero_is_none_at_all() -> None:
    assert native(COMPLETION_BODY, top_p=0)["options"]["top_p"] == 1
    assert native(COMPLETION_BODY, top_p=1e-60)["options"]["top_p"] == 1
    assert native(CHAT_BODY, top_p=0)["options"]["top_p"] == 0


def test_a_completions_logprobs_are_a_number() -> None:
    assert native(COMPLETION_BODY, logprobs=2) | {"logprobs": True, "top_logprobs": 2} == native(
        COMPLETION_BODY, logprobs=2
    )
    assert "logprobs" not in native(COMPLETION_BODY, logprobs=0)
    assert is_relayed(COMPLETION_BODY, logprobs=True)
    assert is_relayed(COMPLETION_BODY, logprobs=21)


# --- what is relayed


@pytest.mark.parametrize(
    "more",
    [
        {"model": ""},
        {"messages": []},
        {"messages": None},
        {"messages": [None]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": 5, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/x.png"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,!"}]}]},
        {"messages": [{"role": "user", "content": "x", "Role": "system"}]},
        {"max_tokens": 1.5},
        {"temperature": "hot"},
        {"stream": "yes"},
        {"stream_options": {"include_usage": 1}},
        {"top_logprobs": 21},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"enum": 5}}}}}]},
        {"tools": {}},
        {"Temperature": 0},
        {"response_format": {"type": "json_schema", "json_schema": 5}},
    ],
)
def test_what_ollama_refuses_or_reads_in_its_own_way_is_relayed(more: dict[str, Any]) -> None:
    assert is_relayed(CHAT_BODY, **more)


def test_other_routes_are_relayed() -> None:
    obj = read_object(json.dumps(CHAT_BODY).encode())
    assert obj is not None
    for path in ("/v1/responses", "/v1/messages", "/v1/embeddings", "/api/chat"):
        assert translate(path, obj, Dialect()) is None


def test_a_picture_goes_on_as_it_came() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]
    assert native({**CHAT_BODY, "messages": messages})["messages"] == [
        {"role": "user", "content": "see"},
        {"role": "user", "content": "", "images": [PNG]},
    ]
