from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.bench.own import edge as bench

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("count", [0, 3])
def test_every_kind_of_request_ends_as_it_says_and_is_measured(count: int) -> None:
    edge = bench.Edge(count)
    for request in bench.WITH_KEYS if count else bench.WITHOUT_KEYS:
        cost = edge.cost(request, 20)
        assert cost.target_us == bench.TARGET_US
        assert 0 < cost.p50_us <= cost.p99_us
        assert cost.title == f"{count} keys: {request.title}"


def test_a_request_that_does_not_end_as_it_has_to_ends_the_measurement() -> None:
    request = bench.Request("a stranger", refused=None)
    with pytest.raises(bench.WrongEndError, match="a stranger: 401 instead of let in"):
        bench.Edge(1).cost(request, 1)


def test_each_known_key_takes_its_turn_and_no_unknown_one_comes_twice() -> None:
    edge = bench.Edge(3)
    known = {edge._credential("known", nth) for nth in range(6)}
    unknown = {edge._credential("unknown", nth) for nth in range(6)}
    assert (len(known), len(unknown)) == (3, 6)
    assert not known & unknown


def test_the_program_prints_its_table_and_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["edge", "--quick", "--json", str(target)])
    bench.main()
    printed = capsys.readouterr()
    found = json.loads(target.read_text(encoding="utf-8"))
    assert len(re.findall(r" (?:pass|MISS)$", printed.out, re.MULTILINE)) == len(found["costs"])
    assert {cost["title"] for cost in found["costs"]} >= {"0 keys: from this machine", "100 keys: key"}
    assert "100 keys" in printed.err
