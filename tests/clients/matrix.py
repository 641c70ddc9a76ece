"""Which client libraries get the same through the proxy: the calls, made with the real packages, and the table of them.

``python -m tests.clients.matrix`` makes all calls and writes the table into ``docs/clients.md`` anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy.simulator.control import Control
from proxy.simulator.profiles import build_profile
from tests.e2e.pair import paired

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
PAGE: Final = ROOT / "docs/clients.md"
PYTHON: Final = ROOT / ".venv-clients/bin/python"
NODE_PACKAGES: Final = HERE / "node/node_modules"

CALLS: Final = ("list", "chat", "stream", "tools", "embeddings", "error", "cancel", "model not found")
_TIMEOUT_S: Final = 120
_NO_CALL: Final = "\N{EN DASH}"
_SAME: Final = "same"

_TEMPLATE: Final = (
    "{{ if .System }}<|system|>{{ .System }}{{ end }}{{ if .Tools }}<|tools|>{{ range .Tools }}{{ .Function }}{{ end }}"
    '{"name": "", "parameters": {}}{{ end }}'
    "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}{{ if .ToolCalls }}{{ range .ToolCalls }}"
    '{"name": "{{ .Function.Name }}", "parameters": {{ .Function.Arguments }}}{{ end }}{{ end }}{{ end }}<|assistant|>'
)
PROFILE: Final = {
    "weights": {
        "talker": {
            "size_bytes": 10_000_000,
            "load_s": 0.05,
            "prompt_tokens_per_s": 100_000,
            "tokens_per_s": 500,
            "context_length": 131_072,
        },
        "embedder": {"size_bytes": 1_000_000, "embedding_only": True, "embedding_length": 8, "load_s": 0.05},
    },
    "models": [
        {"name": "talker", "weights": "talker", "template": _TEMPLATE},
        {"name": "embedder", "weights": "embedder"},
    ],
}
# So that a call by /v1 would make Ollama load the model anew, and has to be translated.
KEPT: Final = [{"name": "talker", "options": {"num_ctx": 8192}}]


@dataclass(frozen=True, slots=True)
class Client:
    """One client library.

    Attributes:
        title: As the table has it.
        package: Whose version is told.
        driver: The program that makes its calls, below this folder.
    """

    title: str
    package: str
    driver: str

    @property
    def is_javascript(self) -> bool:
        return self.driver.endswith(".mjs")

    @property
    def missing(self) -> str:
        """What is needed and not there; "" where it can run."""
        if not self.is_javascript:
            return "" if PYTHON.exists() else "the client libraries are not installed: scripts/setup clients"
        if find_node() is None:
            return "Node.js 18 or newer is not installed"
        return "" if NODE_PACKAGES.is_dir() else "the client libraries are not installed: scripts/setup clients"

    @property
    def command(self) -> tuple[str, ...]:
        program = str(PYTHON) if not self.is_javascript else find_node() or "node"
        return (program, str(HERE / self.driver))

    def version(self) -> str:
        """As it is locked."""
        if self.is_javascript:
            locked = json.loads((HERE / "node/package-lock.json").read_text(encoding="utf-8"))
            return str(locked["packages"][f"node_modules/{self.package}"]["version"])
        lines = (ROOT / "requirements/clients.txt").read_text(encoding="utf-8").splitlines()
        return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{self.package}=="))


CLIENTS: Final = (
    Client("`ollama` (Python)", "ollama", "drivers/ollama_sync.py"),
    Client("`ollama` (Python, asynchronous)", "ollama", "drivers/ollama_async.py"),
    Client("`ollama` (JavaScript)", "ollama", "node/ollama.mjs"),
    Client("`openai` (Python)", "openai", "drivers/openai_python.py"),
    Client("`openai` (JavaScript)", "openai", "node/openai.mjs"),
    Client("`anthropic` (Python)", "anthropic", "drivers/anthropic_python.py"),
    Client("`langchain-ollama`", "langchain-ollama", "drivers/langchain_ollama_python.py"),
    Client("`llama-index-llms-ollama`", "llama-index-llms-ollama", "drivers/llama_index_python.py"),
    Client("`litellm`", "litellm", "drivers/litellm_python.py"),
)


def find_node() -> str | None:
    """The program."""
    return shutil.which("node")


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[dict[str, str]]:
    """A simulated Ollama and the proxy in front of it; what a driver is given."""
    async with paired(build_profile(PROFILE), simulator={"speed": 1}, models=KEPT) as pair:
        await pair.until_ready()
        control = Control(pair.simulated, "127.0.0.1", 0)
        await control.start()
        try:
            yield {
                "direct": f"http://{pair.direct}",
                "proxied": f"http://{pair.proxied}",
                "control": f"http://127.0.0.1:{control.port}",
            }
        finally:
            await control.aclose()


async def outcomes(client: Client) -> dict[str, dict[str, Any]]:
    """What came of all calls of a client, directly and through the proxy.

    Raises:
        RuntimeError: Its driver failed.
    """
    async with servers() as given:
        process = await asyncio.create_subprocess_exec(
            *client.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate(json.dumps(given).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise RuntimeError(f"{client.driver} ended with {process.returncode}:\n{err.decode()[-2000:]}")
    told: dict[str, dict[str, Any]] = json.loads(out)
    return told


def row(client: Client, told: Mapping[str, Mapping[str, Any]]) -> str:
    """Its line in the table."""
    direct, proxied = told["direct"], told["proxied"]
    cells = [
        _NO_CALL if name not in direct else _SAME if direct[name] == proxied[name] else "differs" for name in CALLS
    ]
    return f"| {client.title} {client.version()} | {' | '.join(cells)} |"


def table(rows: Sequence[str]) -> str:
    """The whole table."""
    return "\n".join([f"| client | {' | '.join(CALLS)} |", "| --- " * (len(CALLS) + 1) + "|", *rows])


def written_rows() -> list[str]:
    """Those of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("| client | list |")
    return [line for line in rest.partition("\n\n")[0].splitlines() if line.startswith("| `")]


async def _write() -> None:
    missing = {client.title: client.missing for client in CLIENTS if client.missing}
    if missing:
        sys.exit("\n".join(f"{title}: {what}" for title, what in missing.items()))
    rows = []
    for client in CLIENTS:
        sys.stderr.write(f"{client.title} ...\n")
        rows.append(row(client, await outcomes(client)))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("| client | list |")
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table(rows)}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
