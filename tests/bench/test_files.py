from __future__ import annotations

import resource
import signal
from typing import TYPE_CHECKING

import pytest

from proxy.bench import files
from proxy.bench.results import ResultsError, read
from tests.bench import runs

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_leaves_results_samples_and_a_report_named_after_its_start(tmp_path: Path) -> None:
    run = runs.run(())
    written = files.write(run, tmp_path)
    assert [path.name for path in written] == [f"bench-20261126T081500Z.{kind}" for kind in ("json", "csv", "html")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert read(written[0]) == run
    assert written[1].read_text().startswith("workload,model,side,")
    assert "<!doctype html>" in written[2].read_text()


def test_a_folder_is_made_and_one_that_cannot_be_is_said_before_the_run(tmp_path: Path) -> None:
    files.prepare(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder, finding in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(ResultsError) as caught:
            files.prepare(folder)
        assert str(caught.value) == f"{folder}: {finding}"


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one_as_it_was(tmp_path: Path) -> None:
    """A limit of the system's on the size of files stands for a disk that is full."""
    path = tmp_path / "results.json"
    files.replace(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ResultsError) as caught:
            files.replace(path, b"new" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value) == f"{path}: File too large"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
