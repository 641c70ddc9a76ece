"""``pilotlight bench``: what a proxy gives, or which model to take, measured on any Ollama."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from proxy.cli.compare import compare
from proxy.cli.options import read_header, read_url, refuse, refusing
from proxy.cli.report import report
from proxy.settings import process_environ
from proxy.settings.values import check_base_url

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROGRAM: Final = "pilotlight bench"
_MODEL_CALLS = 10
WARM_CALLS = 100
_LONGEST_KEEP_ALIVE_S = 3600

bench = typer.Typer(invoke_without_command=True)
bench.command()(compare)
bench.command()(report)

Direct = Annotated[
    str, typer.Option("--direct", metavar="URL", help="Ollama itself, without a proxy.", show_default=False)
]
Via = Annotated[
    str, typer.Option("--via", metavar="URL", help="The proxy. Without: one side, no ratio.", show_default=False)
]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Model of all calls.", show_default=False)]
Second = Annotated[
    str, typer.Option("--second-model", metavar="NAME", help="For swap: one that does not fit beside the first.")
]
Models = Annotated[
    str,
    typer.Option(
        "--models", metavar="A,B,C", help="Compare these on --direct instead of workloads.", show_default=False
    ),
]
TargetMs = Annotated[float, typer.Option("--target-ms", min=1, help="With --models: the warm first token wanted, p50.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--workload", metavar="NAME", help="One of the workloads; repeatable. Without: all.", show_default=False
    ),
]
Runs = Annotated[int, typer.Option("--runs", min=1, help="Runs of each workload.")]
Seconds = Annotated[
    float, typer.Option("--seconds", metavar="S", min=1, help="A workload begins no run after so long.")
]
Calls = Annotated[
    int | None,
    typer.Option(
        "--calls", min=1, help="Calls of a run of warm (100); with --models, warm calls (10).", show_default=False
    ),
]
Concurrency = Annotated[int, typer.Option("--concurrency", min=1, max=1024, help="Clients at once, where several.")]
Tokens = Annotated[int, typer.Option("--tokens", min=1, help="Length of an answer (num_predict).")]
PromptFile = Annotated[
    Path | None, typer.Option("--prompt-file", metavar="FILE", help="Your prompts, one a line.", show_default=False)
]
SystemFile = Annotated[
    Path | None,
    typer.Option("--system-file", metavar="FILE", help="Your system prompt, for long-system.", show_default=False),
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="'NAME: VALUE'", help="Sent to both sides; repeatable.", show_default=False),
]
KeepAlive = Annotated[str, typer.Option("--keep-alive", metavar="D", help="What the clients of idle send.")]
Settle = Annotated[
    float, typer.Option("--settle", metavar="S", min=0, help="Time for a proxy to put a model back or warm a prompt.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Of the prompts; without: another each time.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="For JSON, CSV and the report.")]
FailOns = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="WHAT",
        help="What makes the exit code 1: errors, slower, targets; or never. Repeatable.",
        show_default="never",
    ),
]
Admin = Annotated[
    str, typer.Option("--admin", metavar="URL", help="Pilotlight's admin port, for its version.", show_default=False)
]


@bench.callback()
def measure(
    context: typer.Context,
    direct: Direct = "",
    via: Via = "",
    model: Model = "",
    second_model: Second = "",
    models: Models = "",
    target_ms: TargetMs = 420.0,
    workload: Names = None,
    runs: Runs = 5,
    seconds: Seconds = 300.0,
    calls: Calls = None,
    concurrency: Concurrency = 4,
    tokens: Tokens = 16,
    prompt_file: PromptFile = None,
    system_file: SystemFile = None,
    header: Headers = None,
    keep_alive: KeepAlive = "1s",
    settle: Settle = 12.0,
    seed: Seed = None,
    out: Out = Path("bench-results"),
    fail_on: FailOns = None,
    admin: Admin = "",
) -> None:
    """Measure direct against proxied calls on any Ollama and any proxy, or compare models.

    Workloads: warm, idle, mixed-options, flood, swap (needs --second-model), shared-load, long-system, openai. They
    load and unload the model, so nobody else should be working with that server.

    A key for the proxy is taken from PILOTLIGHT_KEY. Exit code 0; 1: --fail-on says so, a server failed, or results
    could not be written; 2: an option cannot be used; 130: Ctrl-C, with the results until then.
    """
    if context.invoked_subcommand is not None:
        return
    # Imported late: the other commands need neither a client nor a table.
    import secrets

    from proxy.bench.targets import FailOn
    from proxy.bench.workloads.plan import BUILT_IN, Plan
    from proxy.cli.benching import Given, run

    names = [name.strip() for name in models.split(",") if name.strip()]
    _check_needed(direct, model or models, keep_alive, fail_on or ())
    chosen = _chosen(workload, second_model, is_comparison=bool(names))
    with refusing(_PROGRAM, "--header"):
        fields = [read_header(text) for text in header or ()]
    plan = Plan(
        model=model,
        workloads=() if names else chosen,
        second_model=second_model,
        runs=runs,
        seconds=seconds,
        calls=calls or (_MODEL_CALLS if names else WARM_CALLS),
        concurrency=concurrency,
        num_predict=tokens,
        keep_alive=keep_alive,
        settle_s=settle,
        prompts=_prompts(prompt_file),
        prompts_name=prompt_file.name if prompt_file is not None else BUILT_IN,
        system=_read("--system-file", system_file) if system_file is not None else "",
        seed=secrets.randbelow(2**31) if seed is None else seed,
        header_names=[name for name, _ in fields],
    )
    given = Given(
        plan=plan,
        direct=_url("--direct", direct),
        via=_url("--via", via) if via else None,
        admin=_url("--admin", admin) if admin else None,
        headers=dict(fields),
        key=process_environ().get("PILOTLIGHT_KEY", ""),
        models=names,
        target_ms=target_ms,
        out=out,
        fail_on=frozenset(map(FailOn, fail_on or ())),
    )
    raise typer.Exit(run(given))


def _check_needed(direct: str, model: str, keep_alive: str, fail_on: Iterable[str]) -> None:
    from proxy.bench.targets import FailOn
    from proxy.bench.workloads.plan import keep_alive_s

    if not direct:
        refuse(_PROGRAM, "--direct", "is needed: where Ollama listens, as http://127.0.0.1:11434")
    if not model:
        refuse(_PROGRAM, "--model", "is needed, or --models")
    for what in fail_on:
        if what not in list(FailOn):
            refuse(_PROGRAM, "--fail-on", f"{what} is none; there are {', '.join(FailOn)}")
    if not 0 < keep_alive_s(keep_alive) <= _LONGEST_KEEP_ALIVE_S:
        refuse(_PROGRAM, "--keep-alive", f"must be a duration of up to an hour, as 1s or 2m, not {keep_alive!r}")


def _chosen(workloads: list[str] | None, second_model: str, *, is_comparison: bool) -> list[str]:
    """The workloads, each once: those that are named, else all that can be run."""
    from proxy.bench.workloads.kinds import WORKLOADS

    for name in workloads or ():
        if name not in WORKLOADS:
            refuse(_PROGRAM, "--workload", f"{name} is none; there are {', '.join(WORKLOADS)}")
        if WORKLOADS[name].needs_second and not second_model and not is_comparison:
            why = f"is needed for {name}: a model that does not fit in memory beside --model"
            refuse(_PROGRAM, "--second-model", why)
    return list(dict.fromkeys(workloads or [name for name in WORKLOADS if second_model or name != "swap"]))


def _prompts(path: Path | None) -> list[str]:
    from proxy.bench.workloads.prompts import read_prompts

    if path is None:
        return []
    try:
        return read_prompts(_read("--prompt-file", path))
    except ValueError as error:
        refuse(_PROGRAM, "--prompt-file", f"{path} {error}")


def _url(option: str, text: str) -> str:
    with refusing(_PROGRAM, option):
        return read_url(text, check_base_url)


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        refuse(_PROGRAM, option, f"{path}: {error.strerror or error}")
    except UnicodeDecodeError:
        refuse(_PROGRAM, option, f"{path}: is not UTF-8 text")
