"""What `pilotlight doctor` shows: its steps while it looks, then what it found. Colours only on a terminal."""

from __future__ import annotations

import json
import math
import textwrap
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy import __version__
from proxy.cli.screen import spinner
from proxy.doctor.checks import Checked, all_findings, examine
from proxy.doctor.finding import Finding, Severity, amount, span
from proxy.doctor.gather import Asked, gather
from proxy.doctor.report import as_json, resident_row

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from proxy.doctor.facts import Observed, Stream
    from proxy.settings import Settings

_WIDTH: Final = 110
_NAME_WIDTH: Final = 18
_COLOURS: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTICE: "cyan"}


async def show(
    settings: Settings, environ: Mapping[str, str], asked: Asked, ignored: Collection[str], *, as_json: bool
) -> bool:
    """Look, judge and print.

    Args:
        settings, environ, asked: For ``gather``.
        ignored: Codes of findings to leave out.
        as_json: Print JSON instead of text.

    Returns:
        Whether anything was found.
    """
    notes = Console(stderr=True)
    with spinner(notes) as progress:
        step = progress.add_task("", total=None)

        def tell(what: str) -> None:
            progress.update(step, description=what)
            # The terminal keeps the lines, so that what was done can still be read when it is over.
            notes.print(what, markup=False, highlight=False, style="dim", soft_wrap=True)

        observed = await gather(settings, environ, asked, tell)
    checked = examine(observed, ignored)
    if as_json:
        typer.echo(json.dumps(_json(observed, checked), indent=2, ensure_ascii=False))
    else:
        _print(Console() if Console().is_terminal else Console(width=_WIDTH), observed, checked)
    return bool(all_findings(checked))


def _json(observed: Observed, checked: list[Checked]) -> dict[str, Any]:
    return as_json(observed, checked, __version__)


def _print(out: Console, observed: Observed, checked: list[Checked]) -> None:
    version = f"Ollama {observed.version}" if observed.version else observed.upstream.reached.value
    took = span(observed.upstream.took_s)
    out.print(f"{observed.settings.upstream.url}: {version}, {took}", markup=False, highlight=False)
    if observed.running:
        out.print(_models(observed))
    streams = [
        (way, stream) for way, stream in (("direct", observed.direct), ("via", observed.through)) if stream is not None
    ]
    if streams:
        out.print(_streams(observed, streams))
    findings = all_findings(checked)
    for finding in findings:
        _print_finding(out, finding)
    skipped = [f"{each.number} {each.name}: {each.skipped}" for each in checked if each.skipped]
    out.print()
    if skipped:
        out.print("Not examined:", markup=False, highlight=False)
        for line in skipped:
            out.print(Text(f"  {line}", style="dim"), soft_wrap=True)
    counts = [_count(sum(f.severity is severity for f in findings), severity.value) for severity in Severity]
    verdict = ", ".join(counts) if findings else "nothing found"
    out.print(f"{len(checked) - len(skipped)} of {len(checked)} checks made: {verdict}", markup=False, highlight=False)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _models(observed: Observed) -> Table:
    table = Table(title="Loaded", title_justify="left")
    table.add_column("model")
    for heading in ("memory", "in VRAM", "context", "stays"):
        table.add_column(heading, justify="right")
    for row in observed.running or ():
        told = resident_row(observed, row)
        share = told["vram_share"]
        stays = "for ever" if told["pinned"] else "not told"
        if told["expires_in_s"] is not None:
            stays = span(max(0.0, told["expires_in_s"]))
        table.add_row(
            Text(observed.called(row.name)),
            amount(row.size_bytes),
            "" if share is None else f"{math.floor(share * 100)} %",
            str(row.context_length or "not told"),
            stays,
        )
    return table


def _streams(observed: Observed, streams: list[tuple[str, Stream]]) -> Table:
    table = Table(title="A short stream", title_justify="left")
    table.add_column("way")
    table.add_column("model")
    for heading in ("first token", "tokens", "arrived within", "whole"):
        table.add_column(heading, justify="right")
    for way, stream in streams:
        measured = stream.measured
        if measured is None:
            table.add_row(way, Text(observed.called(stream.model)), "failed", "", "", "")
            continue
        arrivals = measured.arrivals_s
        within = span(arrivals[-1] - arrivals[0])
        cells = (span(measured.first_token_s), str(len(arrivals)), within, span(measured.total_s))
        table.add_row(way, Text(observed.called(stream.model)), *cells)
    return table


def _print_finding(out: Console, finding: Finding) -> None:
    out.print()
    head = Text.assemble((finding.severity.value.upper(), _COLOURS[finding.severity]), f"  {finding.title}  ")
    head.append(f"[{finding.code}]", style="dim")
    out.print(head, soft_wrap=True)
    for name, text in (
        (f"seen ({finding.basis.value})", finding.evidence),
        ("cost", finding.cost),
        ("remedy", finding.remedy),
    ):
        indent = f"  {name:<{_NAME_WIDTH}}"
        lines = textwrap.wrap(f"{indent}{text}", out.width, subsequent_indent=" " * len(indent), break_on_hyphens=False)
        for line in lines:
            shown = Text(line)
            if line is lines[0]:
                shown.stylize("dim", 0, len(indent))
            out.print(shown, soft_wrap=True)
