from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.batch.journal import Journal, OutputFailed, OutputUnusable, Pipe, opened
from proxy.batch.record import Result

if TYPE_CHECKING:
    from collections.abc import Iterator


def record(line: int, error: str | None = None) -> bytes:
    return Result(line, f"{line:016x}", {}, {} if error else {"text": "Yes."}, error, None, 1, 0.0).encode()


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["line"] for line in path.read_bytes().splitlines()]


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file beyond 1,000 bytes: a write is cut short there, and the next one fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_later_run_knows_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path) as journal:
        journal.append([record(2), record(1, "no")])
    with Journal(path) as journal:
        assert (journal.done.count, journal.done.errors, journal.cut_bytes) == (2, 1, 0)
        journal.append([record(3)])
    assert numbers(path) == [2, 1, 3]


def test_a_torn_end_is_cut_off_before_anything_is_added(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(1) + record(2)[:20])
    with Journal(path) as journal:
        assert journal.cut_bytes == 20
        journal.append([record(2)])
    assert path.read_bytes() == record(1) + record(2)


def test_two_runs_cannot_write_one_file_also_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    with Journal(path), pytest.raises(OutputUnusable, match=r"link\.jsonl: another run is writing to it"):
        Journal(link)
    Journal(link).close()


def test_the_lock_stays_when_the_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(1, "no") + record(2))
    with Journal(path, again=True), pytest.raises(OutputUnusable, match="another run"):
        Journal(path)


def test_results_are_brought_into_order_at_the_end_and_only_where_they_are_not(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path, ordered=True) as journal:
        journal.append([record(1), record(3)])
        before = path.stat().st_ino
        journal.finish()
        assert path.stat().st_ino == before
        journal.append([record(2)])
        path.chmod(0o640)
        journal.finish()
        journal.finish()
    assert numbers(path) == [1, 2, 3]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_out_of_order_from_an_earlier_run_is_brought_into_order(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(2) + record(1))
    with Journal(path, ordered=True) as journal:
        journal.append([record(3)])
        journal.finish()
    assert numbers(path) == [1, 2, 3]


def test_errors_are_taken_out_when_they_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(record(1, "no") + record(2) + record(3, "no"))
    with Journal(path, again=True) as journal:
        assert (journal.done.count, journal.done.errors) == (1, 0)
    assert numbers(path) == [2]


@pytest.mark.usefixtures("small_files")
def test_on_a_full_disk_what_was_done_is_kept_whole_and_a_later_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path) as journal:
        journal.append([record(1), record(2)])
        with pytest.raises(OutputFailed, match=r"out\.jsonl: File too large"):
            journal.append([record(line) for line in range(3, 30)])
        # There is room for less.
        journal.append([record(3)])
    assert path.read_bytes() == record(1) + record(2) + record(3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with Journal(path) as journal:
        assert (journal.done.count, journal.cut_bytes) == (3, 0)
        journal.append([record(line) for line in range(4, 30)])
    assert numbers(path) == list(range(1, 30))


def test_without_room_to_bring_it_into_order_the_file_stays_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    records = [record(line) for line in range(20, 0, -1)]
    with Journal(path, ordered=True) as journal:
        journal.append(records)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OutputFailed, match="complete, but not in order"):
                journal.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"".join(records)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("shopping list\n")
    with pytest.raises(OutputUnusable, match="it holds no results of pilotlight batch; give another file"):
        Journal(path)
    assert path.read_text() == "shopping list\n"


def test_a_folder_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputUnusable, match="No such file or directory"):
        opened(tmp_path / "nowhere" / "out.jsonl")
    with pytest.raises(OutputUnusable, match="Is a directory"):
        opened(tmp_path)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.mark.usefixtures("nobody")
def test_a_file_that_may_not_be_written_is_named() -> None:
    path = Path("/etc/out.jsonl")
    with pytest.raises(OutputUnusable, match="Permission denied"):
        opened(path)


def test_a_device_takes_results_and_its_error_is_told() -> None:
    output = opened_device("/dev/full")
    assert not output.reorders
    with pytest.raises(OutputFailed, match="/dev/full: No space left on device"):
        output.append([record(1)])
    output.close()


def test_a_pipe_that_nobody_reads_is_told() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    pipe = Pipe(theirs, "standard output")
    with pytest.raises(OutputFailed, match="standard output: nobody reads it any more"):
        pipe.append([record(1)])
    os.close(theirs)


def opened_device(name: str) -> Pipe:
    output = opened(Path(name))
    assert isinstance(output, Pipe)
    return output
