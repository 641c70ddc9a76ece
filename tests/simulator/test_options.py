"""Options of requests, and which of them make a runner unfit."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.simulator.engine.options import Options, RunnerOptions
from proxy.simulator.golang.jsonin import GoError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_ctx": "big"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1.0}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1.0]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_wrong_types_have_the_text_of_ollama(given: dict[str, Any], message: str) -> None:
    with pytest.raises(GoError) as caught:
        Options().update(given)
    assert str(caught.value) == message


def test_floats_are_cut_unknown_names_passed_over_and_null_leaves_the_value() -> None:
    options = Options(num_ctx=77)
    options.update({"num_batch": 1.9, "warp": 9.0, "num_ctx": None, "NUM_CTX": 5.0})
    assert (options.num_batch, options.num_ctx) == (1, 77)


def test_an_unset_num_gpu_is_never_a_reason_to_reload_but_a_set_one_is() -> None:
    assert not RunnerOptions(num_gpu=99).needs_reload(RunnerOptions(num_gpu=-1))
    assert RunnerOptions(num_gpu=-1).needs_reload(RunnerOptions(num_gpu=99))
    assert RunnerOptions(num_gpu=99, num_ctx=1).needs_reload(RunnerOptions(num_gpu=-1, num_ctx=2))
