"""Bodies of OpenAI's API as Hypothesis makes them: right ones, and the same with one thing wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Mapping

    Values = st.SearchStrategy[Any]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

TEXT = st.text(st.sampled_from('ab <>&"\\\n\u2028é漢😀\ufffd'), max_size=6)
NUMBER = st.one_of(st.integers(-3, 40), st.floats(-2, 2), st.sampled_from([0, 0.0, 1e-50, 1e39, 10**18, 10**20]))
JUNK: Values = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBER, TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(TEXT, inner, max_size=2)),
    max_leaves=4,
)


def struct(required: Mapping[str, Values], optional: Mapping[str, Values] | None = None) -> Values:
    """An object; none of the optional members most of the time."""
    return st.fixed_dictionaries({}, optional=dict(optional or {})).flatmap(
        lambda some: st.fixed_dictionaries(dict(required)).map(lambda given: {**given, **some})
    )


def few(optional: Mapping[str, Values], most: int = 4) -> Values:
    """An object with some of the members."""
    names = st.lists(st.sampled_from(sorted(optional)), max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: optional[name] for name in chosen}))


ARGUMENTS = st.one_of(
    st.dictionaries(TEXT, JUNK, max_size=3).map(json.dumps),
    st.just(' {"b": 1.50, "a": {"d": 1e21, "c": 12345678901234567890}} '),
)
CALL = struct(
    {
        "id": st.sampled_from(["call_1", "call_2", ""]),
        "function": struct({"name": TEXT, "arguments": ARGUMENTS}),
    },
    {"type": st.just("function"), "index": st.integers(0, 3)},
)
PART = st.one_of(
    struct({"type": st.just("text"), "text": TEXT}),
    struct({"type": st.just("text"), "text": TEXT}),
    st.sampled_from(
        [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            {"type": "image_url", "image_url": f"data:;base64,{PNG}"},
            {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
        ]
    ),
)
MESSAGE = struct(
    {
        "role": st.sampled_from(["user", "user", "assistant", "system", "tool", "Tool", "developer"]),
        "content": st.one_of(TEXT, TEXT, TEXT, st.lists(PART, min_size=1, max_size=3)),
    },
    {
        "tool_calls": st.lists(CALL, max_size=2),
        "tool_call_id": st.sampled_from(["call_1", "call_2", "call_9"]),
        "name": TEXT,
        "reasoning": TEXT,
        "refusal": st.none(),
    },
)
PROPERTY = struct({"type": st.one_of(st.just("string"), st.just(["string", "null"]))}, {"description": TEXT})
TOOL = struct(
    {
        "type": st.just("function"),
        "function": struct(
            {
                "name": st.sampled_from(["get_weather", "a<b"]),
                "parameters": struct(
                    {"type": st.just("object"), "properties": st.dictionaries(TEXT, PROPERTY, max_size=2)},
                    {"required": st.lists(TEXT, max_size=2), "additionalProperties": st.just(False)},
                ),
            },
            {"description": TEXT, "strict": st.booleans()},
        ),
    }
)
SCHEMA = st.sampled_from(
    [
        {"type": "object", "properties": {"z": {"type": "integer"}, "a<": {"type": "string"}}, "required": ["z"]},
        {},
        None,
        "x",
    ]
)
FORMAT = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": " JSON_Object\n"}, {"type": "json_schema"}]),
    SCHEMA.map(lambda schema: {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}),
)
EFFORT = st.sampled_from(["low", "medium", "high", "max", "none", ""])
SHARED: dict[str, Values] = {
    "stream_options": struct({"include_usage": st.booleans()}),
    "seed": st.integers(-1, 9),
    "stop": st.one_of(TEXT, st.lists(TEXT, max_size=3)),
    "temperature": NUMBER,
    "top_p": NUMBER,
    "frequency_penalty": NUMBER,
    "presence_penalty": NUMBER,
    "_debug_render_only": st.booleans(),
    # Not known to 0.24.
    "n": st.integers(1, 2),
    "user": TEXT,
    "max_completion_tokens": st.integers(1, 9),
    "keep_alive": st.sampled_from([0, "1s", -1]),
    "options": st.just({"num_ctx": 16384}),
}
CHAT: dict[str, Values] = {
    **SHARED,
    "tools": st.lists(TOOL, max_size=2),
    "response_format": FORMAT,
    "reasoning": struct({"effort": EFFORT}),
    "reasoning_effort": EFFORT,
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
    "tool_choice": st.just("auto"),
}
COMPLETION: dict[str, Values] = {
    **SHARED,
    "suffix": TEXT,
    "logprobs": st.integers(0, 20),
    "echo": st.booleans(),
}


# Few tokens, or enough for a call of a tool.
LIMIT = st.one_of(st.integers(1, 6), st.just(80))

# What takes the place of something right.
WRONG = st.one_of(
    JUNK,
    st.sampled_from(
        [
            "https://example.com/a.png",
            "data:image/gif;base64,R0lG",
            "data:image/png;base64,=!",
            "minimal",
            "{",
            "{}x",
            "null",
            [],
            {},
            -1,
            21,
        ]
    ),
)


def chats(models: Values) -> Values:
    """Bodies for ``/v1/chat/completions``; short answers."""
    base = {"model": models, "messages": st.lists(MESSAGE, min_size=1, max_size=3), "stream": st.booleans()}
    return st.tuples(struct({**base, "max_tokens": LIMIT}), few(CHAT)).map(_joined)


def completions(models: Values) -> Values:
    """Bodies for ``/v1/completions``; short answers."""
    base = {"model": models, "prompt": TEXT, "stream": st.booleans(), "max_tokens": LIMIT}
    return st.tuples(struct(base), few(COMPLETION)).map(_joined)


def _joined(parts: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside of a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [(*above, key) for key, _ in inner]
    for way in tuple(found):
        found += _places(value[way[-1]], way)
    return found


def _spoiled(body: dict[str, Any], way: tuple[Any, ...], kind: str, wrong: Any) -> dict[str, Any]:
    """The body with one value replaced or gone, or one name spelt in capitals."""
    copied: dict[str, Any] = json.loads(json.dumps(body))
    inner: Any = copied
    for key in way[:-1]:
        inner = inner[key]
    if kind == "replaced" or isinstance(inner, list):
        inner[way[-1]] = wrong
    elif kind == "gone":
        del inner[way[-1]]
    else:
        inner[way[-1].upper()] = inner.pop(way[-1])
    return copied


def spoiled(body: dict[str, Any]) -> Values:
    """The same body with one thing wrong."""
    kinds = st.sampled_from(["replaced", "replaced", "gone", "capitals"])
    return st.builds(_spoiled, st.just(body), st.sampled_from(_places(body)), kinds, WRONG)


def requests(models: Values) -> st.SearchStrategy[tuple[str, bytes]]:
    """Path and body; escaped as some clients write it, or as others do."""
    rights = st.one_of(
        st.tuples(st.just("/v1/chat/completions"), chats(models)),
        st.tuples(st.just("/v1/completions"), completions(models)),
    )
    bodies = rights.flatmap(lambda right: st.tuples(st.just(right[0]), st.one_of(st.just(right[1]), spoiled(right[1]))))
    return st.builds(
        lambda asked, is_escaped: (asked[0], json.dumps(asked[1], ensure_ascii=is_escaped).encode()),
        bodies,
        st.booleans(),
    )
