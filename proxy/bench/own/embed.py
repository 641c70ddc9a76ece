"""``scripts/bench embed``: what gathering single texts to embed is worth, on this server, for this model.

The texts are sent in three ways, in turn: as one list (what an application could do itself), each by itself through
Pilotlight, and each by itself through a Pilotlight that gathers them. Whether that is faster depends on the machine: a
processor that is busy with one text gains nothing from a second one.

Without ``--upstream`` a simulated Ollama answers, whose speed is a setting: its figures show that the measuring works
and say nothing about yours.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from proxy.bench.children import ENVIRON, Child, ChildError, free_port
from proxy.bench.own.output import tell, write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXIT_FAILED: Final = 1
SIMULATED_MODEL: Final = "nomic-embed-text"
LIST, SINGLE, GATHERED = "one list", "one by one", "gathered"


class BenchError(Exception):
    """A call was not answered as it has to be."""


async def embed(session: aiohttp.ClientSession, url: str, model: str, texts: object) -> int:
    """Have texts embedded; how many vectors came back."""
    async with session.post(f"{url}/api/embed", json={"model": model, "input": texts}) as reply:
        answer = await reply.json(content_type=None)
        if reply.status != 200:
            raise BenchError(f"{url} answered {reply.status}: {answer.get('error', answer)}")
        return len(answer["embeddings"])


async def measure(ways: dict[str, str], model: str, texts: int, rounds: int) -> dict[str, list[float]]:
    """Seconds until all texts are embedded, by way; each round has texts of its own, so that none is cached.

    Args:
        ways: The URL for each way.
        model: For embedding.
        texts: How many at once.
        rounds: How often each way is measured.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        for url in ways.values():
            await embed(session, url, model, "warm up")
        for number in range(rounds):
            for way, url in ways.items():
                tell(f"round {number + 1} of {rounds}: {way}")
                asked = [f"Text {index} of round {number}, {way}: the quick brown fox" for index in range(texts)]
                started = time.perf_counter()
                if way == LIST:
                    counts = [await embed(session, url, model, asked)]
                else:
                    counts = await asyncio.gather(*(embed(session, url, model, text) for text in asked))
                seconds[way].append(time.perf_counter() - started)
                if sum(counts) != texts:
                    raise BenchError(f"{way}: {sum(counts)} vectors for {texts} texts")
    return seconds


@contextlib.asynccontextmanager
async def opened(folder: Path, upstream: str | None, model: str, most: int) -> AsyncIterator[dict[str, str]]:
    """Start what is needed: two Pilotlights, and the simulated Ollama where no other one is named."""
    async with contextlib.AsyncExitStack() as stack:
        if upstream is None:
            port = free_port()
            upstream = f"http://127.0.0.1:{port}"
            tell("starting the simulated Ollama")
            await _start(stack, folder, "simulate", port, ["simulate", "--listen", f"127.0.0.1:{port}"])
        ways = {LIST: upstream}
        for way, batches in ((SINGLE, {}), (GATHERED, {model: {"max": most}})):
            listen, admin = free_port(), free_port()
            settings = {
                "listen": f"127.0.0.1:{listen}",
                "admin": f"127.0.0.1:{admin}",
                "upstream": {"url": upstream},
                "embed_batch": batches,
            }
            config = folder / f"{listen}.yaml"
            # What is JSON is YAML.
            config.write_text(json.dumps(settings))
            tell(f"starting Pilotlight, {way}")
            await _start(stack, folder, str(listen), listen, ["serve", "--config", str(config)])
            ways[way] = f"http://127.0.0.1:{listen}"
        yield ways


async def _start(stack: contextlib.AsyncExitStack, folder: Path, name: str, port: int, arguments: list[str]) -> None:
    child = await stack.enter_async_context(Child(arguments, folder / f"{name}.log", ENVIRON))
    await child.wait_listening(port)


def describe(seconds: dict[str, list[float]], texts: int, *, simulated: bool) -> str:
    """The table, and what it shows."""
    base = statistics.median(seconds[SINGLE])
    lines = [f"{texts} texts at once{'':<12}   median   fastest   slowest   times one by one"]
    for way, values in seconds.items():
        median = statistics.median(values)
        lines.append(f"{way:<26} {median:>8.3f} s {min(values):>7.3f} s {max(values):>7.3f} s {median / base:>14.2f}")
    gain = base / statistics.median(seconds[GATHERED])
    lines.append("")
    if simulated:
        lines.append("Measured on the simulated Ollama: it shows that the measuring works, not what your server gains.")
    elif gain > 1.1:
        lines.append(f"Gathering is {gain:.1f} times as fast here: embed_batch is worth setting for this model.")
    else:
        lines.append(f"Gathering is {gain:.2f} times as fast here: leave embed_batch out for this model.")
    return "\n".join(lines) + "\n"


async def run(upstream: str | None, model: str, texts: int, rounds: int, most: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as folder:
        async with opened(Path(folder), upstream, model, most) as ways:
            return await measure(ways, model, texts, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench embed", description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream", metavar="URL", help="an Ollama that runs; else a simulated one is started")
    parser.add_argument("--model", default=SIMULATED_MODEL, help="for embedding (%(default)s)")
    parser.add_argument("--texts", type=int, default=32, help="at once (%(default)s)")
    parser.add_argument("--max", type=int, default=10, dest="most", help="in one call, when gathered (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="each way is measured so often (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    given = parser.parse_args()
    if min(given.texts, given.rounds) < 1 or given.most < 2:
        parser.error("--texts and --rounds must be at least 1, --max at least 2")
    try:
        seconds = asyncio.run(run(given.upstream, given.model, given.texts, given.rounds, given.most))
        sys.stdout.write(describe(seconds, given.texts, simulated=given.upstream is None))
        if given.json is not None:
            write(given.json, _report(given, seconds))
    except (BenchError, ChildError, aiohttp.ClientError, OSError) as error:
        parser.exit(EXIT_FAILED, f"scripts/bench embed: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)


def _report(given: argparse.Namespace, seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {"model": given.model, "texts": given.texts, "max": given.most, "seconds": seconds}


if __name__ == "__main__":
    main()
