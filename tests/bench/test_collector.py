from __future__ import annotations

import contextlib
import gc

from proxy.bench.collector import without_collections


def test_nothing_is_collected_inside_and_everything_again_after_it_also_when_it_fails() -> None:
    assert gc.isenabled()
    with contextlib.suppress(KeyError), without_collections():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
