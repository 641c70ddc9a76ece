"""``pilotlight doctor``: what is wrong with a running Ollama, what it costs, and what ends it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from proxy.cli.options import Admin, Config, UpstreamUrl, flags, load_or_exit, read_header, read_url, refuse, refusing
from proxy.settings import process_environ
from proxy.settings.values import check_url

_PROGRAM: Final = "pilotlight"

Via = Annotated[
    str | None,
    typer.Option("--via", metavar="URL", help="What clients call: a proxy, nginx, ...", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="Stream from this one; LOADS it where it is not loaded.", show_default=False
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="'NAME: VALUE'",
        help="Sent to Ollama, --via and the admin port, a key for instance; repeatable.",
        show_default=False,
    ),
]
Vram = Annotated[
    float | None,
    typer.Option("--vram", metavar="GIB", min=0, help="Memory of the GPU, for what fits.", show_default=False),
]
NoStream = Annotated[bool, typer.Option("--no-stream", help="Ask no model for anything.")]
Tokens = Annotated[int, typer.Option("--tokens", min=8, max=1024, help="Length of a stream.")]
Watch = Annotated[
    float, typer.Option("--watch", metavar="SECONDS", min=0, max=86_400, help="See what unpins and evicts models.")
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Measure how many calls run at once: several streams at the same time.")
]
Ignored = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="CODE", help="Leave such findings out; repeatable.", show_default=False),
]


def doctor(
    config: Config = None,
    upstream: UpstreamUrl = None,
    via: Via = None,
    admin: Admin = None,
    model: Model = None,
    header: Headers = None,
    vram: Vram = None,
    no_stream: NoStream = False,
    tokens: Tokens = 32,
    watch: Watch = 0.0,
    measure: Measure = False,
    ignore: Ignored = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Examine a running Ollama, and what stands in front of it.

    Looks at what it says of itself, and asks a model that is loaded for a short stream. Loads and changes nothing,
    unless --model names one that is not loaded. Every step is told on standard error before it is made.

    The exit code is 0 without findings, 1 with findings, 2 where an option or a setting cannot be used.
    """
    settings = load_or_exit(config, flags(upstream, None, admin, None))
    # Imported late: the other commands need neither a client nor a table.
    from proxy.cli.diagnosis import show
    from proxy.doctor.checks import CODES
    from proxy.doctor.gather import Asked

    for code in ignore or ():
        if code not in CODES:
            refuse(_PROGRAM, "--ignore", f"{code} is no finding's code; they are in docs/doctor.md")
    with refusing(_PROGRAM, "--via"):
        via = None if via is None else read_url(via, check_url)
    with refusing(_PROGRAM, "--header"):
        headers = dict(read_header(text) for text in header or ())
    asked = Asked(
        via=via,
        model=model,
        headers=headers,
        vram_bytes=None if vram is None else int(vram * 2**30),
        streams=not no_stream,
        tokens=tokens,
        watch_s=watch,
        measures=measure,
        names_admin=admin is not None,
    )
    try:
        found = asyncio.run(show(settings, process_environ(), asked, frozenset(ignore or ()), as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(1 if found else 0)
