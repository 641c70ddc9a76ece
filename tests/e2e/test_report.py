"""The report in a real browser: nothing on its console, nothing from the network, and it can be printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.bench import files
from tests.bench import runs
from tests.e2e.browser import needs_chromium, open_file

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_chromium


async def test_a_report_opens_from_the_disk_without_a_word_and_without_a_network(tmp_path: Path) -> None:
    *_, report = files.write(runs.run(), tmp_path)
    opened = await open_file(report, tmp_path)
    assert opened.console == ()
    assert opened.requests == ()
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


async def test_what_would_be_slipped_into_a_report_is_kept_from_the_network_and_from_running(tmp_path: Path) -> None:
    """And what is looked at above would be seen."""
    *_, report = files.write(runs.run(()), tmp_path)
    slipped = '<main><script>fetch("http://127.0.0.1:9/a")</script><img src="http://127.0.0.1:9/b">'
    html = report.read_text(encoding="utf-8").replace("<main>", slipped)
    report.write_text(html, encoding="utf-8")
    guarded = await open_file(report, tmp_path)
    assert len(guarded.console) == 2
    assert all("violates the following Content Security Policy" in line for line in guarded.console)
    assert guarded.requests == ()
    report.write_text(html.replace("Content-Security-Policy", "X-None"), encoding="utf-8")
    unguarded = await open_file(report, tmp_path)
    assert set(unguarded.requests) >= {"http://127.0.0.1:9/a", "http://127.0.0.1:9/b"}
