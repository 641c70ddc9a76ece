"""Write what is derived from the settings model: docs/settings.md, pilotlight.example.yaml, .env.example; and what is
derived from the shapes of results (``scripts/schema.py``).

Run by ``scripts/pages``; a test compares the files with what this module would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml
from typing_extensions import is_typeddict

from proxy.cli.check import effective_yaml
from proxy.settings import Settings
from proxy.settings.names import Name, is_part, walk
from proxy.settings.presets import PRESETS
from proxy.settings.sizes import format_size
from proxy.settings.sources import PREFIX
from proxy.settings.values import INT32_MAX
from scripts.compose import compose_section
from scripts.schema import results_page, schema_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parent.parent

_HEAD = """\
# Settings

Built-in defaults < `preset` < the YAML file of `--config` < the environment < flags: the later one wins, name by name.

* In the environment a name takes the prefix `PILOTLIGHT_`, capitals, and two underscores between its parts:
  `relay.write_stall_s` is `PILOTLIGHT_RELAY__WRITE_STALL_S`. A list is given whole, as JSON:
  `PILOTLIGHT_MODELS='[{"name": "llama3.2:3b"}]'`. An empty variable counts as not set.
* Flags: `--listen`, `--admin`, `--upstream` (for `upstream.url`), and `--model NAME`, which adds a model to `models`.
* An unknown name, in the file or in the environment, a file that is not there and a value that is impossible end the
  program with exit code 2 and one line that names the field. `PILOTLIGHT_PORT...` and `PILOTLIGHT_SERVICE_...`, which
  Kubernetes puts in by itself, are passed over.
* On SIGHUP, and when the file changes, everything is read anew. `keys`, `rate_limit` and `models` then hold at once,
  and no stream is cut; of the rest the log names what needs a restart. A file that cannot be used changes nothing, and
  the log names the field. Replace the file by renaming another one onto it: half a file might be valid. An emptied one
  counts on SIGHUP only.
* `pilotlight check` prints the settings in effect, and warnings about those that are probably not meant.
* Durations are in seconds, sizes are a number of bytes or one with a unit (`64MiB`, `1GB`).
* Of Ollama's own variables three are read, by Ollama's rules, as defaults: `OLLAMA_KEEP_ALIVE` (of
  `defaults.keep_alive`), `OLLAMA_NUM_PARALLEL` (of `scheduler.parallel`) and `OLLAMA_MAX_LOADED_MODELS` (of
  `scheduler.max_loaded_models`). `OLLAMA_HOST` is not read, because clients set it to the proxy.
"""

_PRESETS_HEAD = """\
## Presets

`preset` fills in sizes that are not set anywhere else. It switches nothing on: a cache stays off, and a rate is limited
only where `rate_limit.rate_per_s` is set; `rate_limit: {rate_per_s: preset}` takes the preset's rate and burst.
"""


def settings_page() -> str:
    """The page with every setting, its default, unit, bounds and meaning."""
    sections: dict[tuple[str, ...], list[str]] = {(): []}
    headings: dict[tuple[str, ...], str] = {(): "Addresses and models"}
    for name in walk():
        if name.field is None:
            continue
        if is_part(name.annotation):
            sections[name.path] = []
            headings[name.path] = f"`{_dotted(name.path)}`: {(name.annotation.__doc__ or '').strip().splitlines()[0]}"
            continue
        if name.path[-1] == "*":
            continue
        owner = name.path[:-1]
        if owner not in sections:
            sections[owner] = []
            headings[owner] = f"each of `{_dotted(owner[:-1])}`"
        sections[owner].append(_row(name, name.field))
    parts = [_HEAD]
    for owner, rows in sections.items():
        heading = headings[owner].rstrip(".")
        parts.append(f"## {heading}\n\n| setting | default | unit, range | meaning |\n| --- | --- | --- | --- |")
        parts[-1] += "\n" + "\n".join(rows) + "\n"
    parts.append(_presets())
    return "\n".join(parts)


def _presets() -> str:
    """One row per preset, one column per size."""
    lines: list[str] = []
    for preset_name, preset in PRESETS.items():
        named = {f"{group}.{name}": value for (group, name), value in preset.sizes.items()}
        named |= {f"rate_limit.{name}": value for name, value in preset.rate.items()}
        named |= {f"embed_batch.*.{name}": value for name, value in preset.batch.items()}
        if not lines:
            lines = [f"| preset | {' | '.join(f'`{name}`' for name in named)} |", f"| --- |{' ---: |' * len(named)}"]
        lines.append(f"| `{preset_name}` | {' | '.join(f'{value:g}' for value in named.values())} |")
    return _PRESETS_HEAD + "\n" + "\n".join(lines) + "\n"


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(part for part in path if part != "*")


def _row(name: Name, field: FieldInfo) -> str:
    cells = [f"`{_dotted(name.path)}`", _default(name, field), _range(name, field), field.description or ""]
    return f"| {' | '.join(cells)} |"


def _default(name: Name, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "empty"
    if name.path[-1] in ("max_body", "max_bytes"):
        return f"`{format_size(value)}`"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _range(name: Name, field: FieldInfo) -> str:
    if get_origin(name.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(name.annotation))
    bounds = {
        words: getattr(rule, kind)
        for rule in field.metadata
        for kind, words in (("gt", "above"), ("ge", "from"), ("le", "to"))
        if hasattr(rule, kind)
    }
    if bounds.get("to") == INT32_MAX:
        del bounds["to"]
    return ", ".join([_unit(name), " ".join(f"{words} {bound}" for words, bound in bounds.items())]).removesuffix(", ")


def _unit(name: Name) -> str:
    last = name.path[-1]
    if last == "rate_per_s":
        return "per second"
    if last.endswith("_s"):
        return "seconds"
    units = {
        "max_body": "bytes",
        "max_bytes": "bytes",
        "max_num_ctx": "tokens",
        "burst": "number",
        "keep_alive": "seconds or a duration",
        "name": "text",
    }
    if last in units:
        return units[last]
    if last in {"listen", "admin"}:
        return "HOST:PORT"
    if last == "url":
        return "URL"
    if name.annotation is bool:
        return "true, false"
    if is_typeddict(name.annotation) or get_origin(name.annotation) is dict:
        return "group"
    if get_origin(name.annotation) is tuple or last == "tools":
        return "list"
    return "number" if name.annotation in (int, float) else "text"


def example_yaml() -> str:
    """A file that changes nothing, with every setting at its default, and one kept model as a comment."""
    lines = [
        "# Every setting with its default. What each means: docs/settings.md. Try it: pilotlight check --config FILE",
        "# Copy only what is to be another: a line in the file wins over presets and Ollama's variables.",
        *effective_yaml(Settings()).splitlines(),
    ]
    place = lines.index("models: []")
    lines[place] = "models: []                    # for instance:"
    model = {
        "name": "llama3.2:3b",
        "keep_alive": -1,
        "options": {"num_gpu": 99, "num_ctx": 4096},
        "max_num_ctx": 16384,
        "long_prompts": "cut",
        "warm": [{"system": "You are a helpful assistant. Be brief."}],
    }
    example = yaml.safe_dump([model], sort_keys=False, default_flow_style=False)
    lines[place + 1 : place + 1] = [f"#  {line}" for line in example.splitlines()]
    return "\n".join(lines) + "\n"


def example_env() -> str:
    """What docker compose reads, and every setting that can be given by the environment: comments with the default."""
    return compose_section() + "\n".join(
        [
            "",
            "# --- Pilotlight's settings: docs/settings.md. They win over its settings file. Under docker compose both",
            "# addresses, upstream.url, edge.hosts and edge.trusted_proxies stay as docker-compose.yml has them.",
            *(f"# {variable}={value}" for variable, value in _variables()),
            "",
        ]
    )


def _variables() -> Iterator[tuple[str, str]]:
    defaults = Settings().model_dump(mode="json")
    for name in walk():
        if name.field is None or "*" in name.path or is_part(name.annotation):
            continue
        value: Any = defaults
        for part in name.path:
            value = value[part]
        text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
        yield PREFIX + "__".join(name.path).upper(), text


FILES = {
    "docs/settings.md": settings_page,
    "pilotlight.example.yaml": example_yaml,
    ".env.example": example_env,
    "docs/results.md": results_page,
    "docs/bench.schema.json": schema_file,
}


def main() -> None:
    for path, text in FILES.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
