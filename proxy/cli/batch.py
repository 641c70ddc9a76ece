"""``pilotlight batch``: many prompts, chats or texts to embed, from a file into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from proxy.settings import process_environ

# The path that means standard input or output.
_STANDARD = Path("-")

Input = Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Lines to do; - for standard input.")]
Out = Annotated[Path, typer.Option("--out", metavar="OUT.jsonl", help="Results, gone on with; - for standard output.")]
Url = Annotated[str, typer.Option("--url", metavar="URL", help="Pilotlight, or Ollama itself.")]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="For lines without one.", show_default=False)]
System = Annotated[str, typer.Option("--system", metavar="TEXT", help="For lines without one.", show_default=False)]
Options = Annotated[str, typer.Option("--options", metavar="JSON", help="Ollama's, for every line; a line's own win.")]
Concurrency = Annotated[int, typer.Option("--concurrency", metavar="N", help="Lines under way at a time.")]
Priority = Annotated[str, typer.Option("--priority", metavar="CLASS", help="batch, normal or interactive.")]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="A further header; repeatable.", show_default=False),
]
Ordered = Annotated[
    bool, typer.Option("--ordered/--unordered", help="Results in the order of the lines, or as they come.")
]
Retries = Annotated[int, typer.Option("--retries", metavar="N", help="Of a line after a server's error.")]
TimeoutS = Annotated[
    float, typer.Option("--timeout-s", metavar="S", help="For one line, waiting and repetitions included; 0: none.")
]
AwayS = Annotated[
    float, typer.Option("--away-s", metavar="S", help="How long a server that has answered may be unreachable.")
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="Do lines again whose result in OUT.jsonl is an error.")
]


def batch(
    lines: Input,
    out: Out = _STANDARD,
    url: Url = "http://127.0.0.1:11435",
    model: Model = "",
    system: System = "",
    options: Options = "{}",
    concurrency: Concurrency = 4,
    priority: Priority = "batch",
    header: Headers = None,
    ordered: Ordered = True,
    retries: Retries = 3,
    timeout_s: TimeoutS = 3600.0,
    away_s: AwayS = 120.0,
    retry_errors: RetryErrors = False,
) -> None:
    """Answer every line of a file, at a low priority; run it again to go on after a stop.

    A line is a JSON string (a prompt) or an object with prompt, messages or input. The result of each is one line of
    OUT.jsonl, an error stands in its place. A key is taken from PILOTLIGHT_KEY. Exit code 1: some lines have errors, or
    it could not go on; 2: it could not begin; 130: Ctrl-C.
    """
    # Imported late: the other commands need no client.
    from proxy.cli.batching import Given, run

    given = Given(
        lines=None if lines == _STANDARD else lines,
        out=None if out == _STANDARD else out,
        headers=tuple(header or ()),
        options=options,
        retry_errors=retry_errors,
        key=process_environ().get("PILOTLIGHT_KEY", ""),
        job={
            "url": url,
            "model": model,
            "system": system,
            "concurrency": concurrency,
            "priority": priority,
            "retries": retries,
            "timeout_s": timeout_s,
            "away_s": away_s,
            "ordered": ordered,
        },
    )
    raise typer.Exit(run(given))
