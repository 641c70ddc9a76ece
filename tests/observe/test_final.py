from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.final import TAIL_BYTES, FinalRecord, Tail, read_final
from proxy.observe.timeline import Timeline
from proxy.wire.routes import Family

MEASURED = {
    "total_duration": 282845804,
    "load_duration": 276928421,
    "prompt_eval_count": 11,
    "prompt_eval_duration": 1007379,
    "eval_count": 6,
    "eval_duration": 3932960,
}
CHAT_TOKEN = b'{"model":"tiny","message":{"role":"assistant","content":" taeli"},"done":false}\n'


def line(**values: Any) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def data(**values: Any) -> bytes:
    return b"data: " + json.dumps(values, separators=(",", ":")).encode() + b"\n\n"


def chunk(content: str, *, model: str = "tiny", finish: str | None = None) -> bytes:
    return data(model=model, choices=[{"index": 0, "delta": {"content": content}, "finish_reason": finish}])


def native(record: FinalRecord | None) -> None:
    assert record is not None
    assert record.complete
    assert not record.failed
    assert record.load_duration_s == pytest.approx(0.276928421)
    assert record.prompt_eval_duration_s == pytest.approx(0.001007379)
    assert record.eval_duration_s == pytest.approx(0.00393296)
    assert (record.prompt_eval_count, record.eval_count) == (11, 6)


@pytest.mark.parametrize("family", [Family.API])
def test_the_last_line_of_a_native_stream_is_read(family: Family) -> None:
    end = line(model="tiny", message={"role": "assistant", "content": ""}, done=True, done_reason="length", **MEASURED)

    record = read_final(CHAT_TOKEN * 3 + end, family)

    native(record)
    assert record is not None
    assert record.done_reason == "length"


def test_a_final_record_longer_than_the_tail_is_read_from_its_end() -> None:
    end = line(model="tiny", response="", done=True, done_reason="stop", context=list(range(5000)), **MEASURED)

    native(read_final(end, Family.API))


def test_an_image_longer_than_the_tail_is_a_complete_reply() -> None:
    end = line(model="tiny", response="", done=True, **MEASURED, image="iVBORw0KGgo" * 1000)

    record = read_final(end, Family.API)

    assert record is not None
    assert record.complete


def test_a_long_frame_in_mid_stream_is_no_end() -> None:
    assert read_final(line(model="tiny", response="x" * 9000, done=False), Family.API) is None


@given(cut=st.integers(min_value=0))
def test_a_native_stream_cut_anywhere_is_not_complete(cut: int) -> None:
    stream = CHAT_TOKEN * 2 + line(model="tiny", message={"content": ""}, done=True, done_reason="stop", **MEASURED)

    assert read_final(stream[: cut % len(stream)], Family.API) is None


def test_a_load_has_an_end_but_no_figures() -> None:
    record = read_final(line(model="tiny", response="", done=True, done_reason="load"), Family.API)

    assert record == FinalRecord(complete=True, done_reason="load")


def test_a_duration_of_zero_is_left_out_by_go_and_known_all_the_same() -> None:
    record = read_final(line(message={}, done=True, total_duration=5, eval_count=2), Family.API)

    assert record is not None
    assert record.load_duration_s == 0.0
    assert record.prompt_eval_count == 0


def test_an_error_line_is_a_failure_with_its_text() -> None:
    text = "an error was encountered while running the model: unexpected EOF"

    record = read_final(CHAT_TOKEN + line(error=text), Family.API)

    assert record == FinalRecord(complete=False, failed=True, error=text)


def test_a_pull_ends_with_success_or_an_error() -> None:
    assert read_final(line(status="pulling") + line(status="success"), Family.API) == FinalRecord(complete=True)
    assert read_final(line(status="pulling"), Family.API) is None
    failed = read_final(line(status="pulling") + line(error="pull model manifest: file does not exist"), Family.API)
    assert failed is not None
    assert failed.failed


def test_a_v1_stream_is_complete_with_done_and_its_finish_reason_is_kept() -> None:
    record = read_final(chunk(" taeli") + chunk("", finish="length") + b"data: [DONE]\n\n", Family.OPENAI)

    assert record == FinalRecord(complete=True, done_reason="length")


def test_usage_of_a_v1_stream_is_read_where_the_client_asked_for_it() -> None:
    usage = data(model="tiny", choices=[], usage={"prompt_tokens": 11, "completion_tokens": 6, "total_tokens": 17})

    record = read_final(chunk("", finish="stop") + usage + b"data: [DONE]\n\n", Family.OPENAI)

    assert record == FinalRecord(complete=True, done_reason="stop", prompt_eval_count=11, eval_count=6)


def test_an_empty_model_at_the_end_of_a_v1_stream_is_a_dead_runner() -> None:
    record = read_final(chunk(" taeli") + chunk("", model=""), Family.OPENAI)

    assert record == FinalRecord(complete=False, failed=True)


def test_an_error_event_of_a_v1_stream_is_a_failure() -> None:
    record = read_final(chunk(" taeli") + data(error={"message": "boom", "type": "api_error"}), Family.OPENAI)

    assert record == FinalRecord(complete=False, failed=True, error="boom")


@pytest.mark.parametrize("family", [Family.OPENAI, Family.ANTHROPIC, Family.RESPONSES])
def test_a_stream_of_events_without_its_end_is_not_complete(family: Family) -> None:
    assert read_final(chunk(" taeli"), family) is None
    assert read_final(chunk(" taeli")[:-5], family) is None
    assert read_final(b"", family) is None


def test_messages_end_with_message_stop_and_tell_usage_before() -> None:
    stream = (
        b"event: message_delta\n"
        + data(
            type="message_delta", delta={"stop_reason": "max_tokens"}, usage={"input_tokens": 11, "output_tokens": 4}
        )
        + b"event: message_stop\n"
        + data(type="message_stop")
    )

    expected = FinalRecord(complete=True, done_reason="length", prompt_eval_count=11, eval_count=4)
    assert read_final(stream, Family.ANTHROPIC) == expected


def test_an_error_event_of_messages_is_a_failure() -> None:
    stream = b"event: error\n" + data(type="error", error={"type": "api_error", "message": "boom"})

    assert read_final(stream, Family.ANTHROPIC) == FinalRecord(complete=False, failed=True, error="boom")


def test_a_failed_event_of_responses_is_a_failure_with_the_error_in_it() -> None:
    response = {"status": "failed", "error": {"code": "server_error", "message": "boom"}}
    for more in ({}, {"error": {"message": "boom"}}):
        stream = b"event: response.failed\n" + data(type="response.failed", response=response, **more)
        assert read_final(stream, Family.RESPONSES) == FinalRecord(complete=False, failed=True, error="boom")


@pytest.mark.parametrize("length", [10, 10_000])
@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
def test_responses_end_with_completed_however_long_the_text_in_it(kind: str, length: int) -> None:
    response = {"error": None, "output": [{"text": "x" * length}], "usage": {"input_tokens": 11, "output_tokens": 3}}
    stream = b"event: x\n" + data(response=response, sequence_number=10, type=kind)

    expected = FinalRecord(complete=True, prompt_eval_count=11, eval_count=3)
    assert read_final(stream, Family.RESPONSES) == expected


def test_whole_replies_are_read_in_every_family() -> None:
    chat = line(model="tiny", message={"content": "x" * 9000}, done=True, done_reason="stop", **MEASURED)
    native(read_final(chat, Family.API, stream=False))
    openai = line(choices=[{"finish_reason": "stop"}], usage={"prompt_tokens": 11, "completion_tokens": 6})
    expected = FinalRecord(complete=True, done_reason="stop", prompt_eval_count=11, eval_count=6)
    assert read_final(openai, Family.OPENAI, stream=False) == expected
    messages = line(stop_reason="end_turn", usage={"input_tokens": 11, "output_tokens": 6})
    assert read_final(messages, Family.ANTHROPIC, stream=False) == expected
    embed = line(model="tiny", embeddings=[[0.5] * 4000], total_duration=9, load_duration=8, prompt_eval_count=6)
    record = read_final(embed, Family.API, stream=False)
    assert record is not None
    assert (record.complete, record.prompt_eval_count, record.load_duration_s) == (True, 6, 8e-9)


def test_a_whole_error_is_a_failure() -> None:
    record = read_final(b'{"error":"model \'ghost\' not found"}', Family.API, stream=False)

    assert record == FinalRecord(complete=False, failed=True, error="model 'ghost' not found")
    assert read_final(b'{"model":"ti', Family.API, stream=False) is None


@given(tail=st.binary(max_size=3000), family=st.sampled_from(Family), stream=st.booleans())
def test_arbitrary_bytes_never_raise(tail: bytes, family: Family, stream: bool) -> None:
    read_final(tail, family, stream=stream)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*MEASURED, "done", "done_reason", "error", "usage", "choices", "delta", "model", "type", "response"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(value=_JSON, family=st.sampled_from(Family), stream=st.booleans())
def test_arbitrary_json_never_raises(value: Any, family: Family, stream: bool) -> None:
    text = json.dumps(value).encode()
    prefix = b"" if family is Family.API or not stream else b"data: "
    read_final(prefix + text + b"\n\ndata: [DONE]\n\n" if prefix else text + b"\n", family, stream=stream)


@given(pieces=st.lists(st.binary(max_size=3000), max_size=40))
def test_a_tail_keeps_the_last_bytes_and_little_more(pieces: list[bytes]) -> None:
    tail = Tail()
    for piece in pieces:
        tail.feed(piece)

    whole = b"".join(pieces)
    assert tail.read() == whole[-TAIL_BYTES:]


def test_a_record_is_written_into_the_timeline() -> None:
    t = Timeline("id", "api_chat", Family.API, "/api/chat", "POST", 0.0)

    FinalRecord(complete=True, done_reason="stop", load_duration_s=0.5, eval_count=6).onto(t)

    assert (t.done_reason, t.load_duration_s, t.eval_count, t.prompt_eval_count) == ("stop", 0.5, 6, None)
