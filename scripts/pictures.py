"""Take the pictures in docs/images: what they show is running while they are taken, and nothing in them is made up.

Run by ``scripts/pictures``. A picture is an entry of ``PICTURES``: a coroutine that sets its scene up in a folder of
its own, and takes it with ``photograph``.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from proxy.bench.demo import MODEL, DemoError, stage
from scripts.traffic import applications

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
MOST_BYTES: Final = 300_000
"""Of a picture: a repository keeps every one that it ever had."""
_DEADLINE_S: Final = 60.0
# Long enough for a line over some minutes.
_AT_WORK_S: Final = 200.0
_FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class PictureError(Exception):
    """A picture cannot be taken; the message is one line."""


async def photograph(url: str, path: Path, size: tuple[int, int], folder: Path, *flags: str) -> None:
    """Take a picture of a page.

    Args:
        url: Of the page.
        path: Of the picture, a PNG file.
        size: Of the window, in pixels.
        folder: For the browser.
        flags: More of the browser's, as ``--virtual-time-budget=5000``.

    Raises:
        PictureError: There is no Chromium, it took no picture, or the picture is too large.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise PictureError("chromium is not on the PATH (Debian's package is called so)")
    raw = folder / "raw.png"
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    window = (f"--window-size={size[0]},{size[1]}", f"--screenshot={raw}", f"--user-data-dir={folder / 'profile'}")
    environ = {**_clean_environ(), "HOME": str(folder)}
    code = await _run(_DEADLINE_S, chromium, *_FLAGS, *as_root, *window, *flags, url, environ=environ)
    if code != 0:
        raise PictureError(f"chromium ended with exit code {code}")
    _keep(raw, path)


def _keep(raw: Path, path: Path) -> None:
    if not raw.exists():
        raise PictureError("chromium took no picture")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(compressed(raw.read_bytes()))


def compressed(png: bytes) -> bytes:
    """The picture in 128 colours, which is all that flat shapes and text need.

    Raises:
        PictureError: It is still larger than ``MOST_BYTES``.
    """
    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        flat = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
        flat.save(out, "PNG", optimize=True)
    if out.tell() > MOST_BYTES:
        raise PictureError(f"the picture has {out.tell():,} bytes, which is more than {MOST_BYTES:,}")
    return out.getvalue()


async def report(folder: Path) -> None:
    """The report of a run of ``pilotlight bench``: two simulated Ollamas, the second behind the proxy."""
    environ = _clean_environ()
    async with stage(folder, environ, _tell) as scene:
        servers = ("--direct", scene.direct.url, "--via", scene.proxied.url, "--admin", scene.admin_url)
        extent = ("--model", MODEL, "--runs", "5", "--calls", "20", "--settle", "3", "--seed", "1")
        command = (sys.executable, "-m", "proxy", "bench", *servers, *extent, "--out", str(folder / "results"))
        _tell("running pilotlight bench; that takes some minutes")
        code = await _run(1800.0, *command, environ=environ, quiet=False)
    found = list((folder / "results").glob("*.html"))
    if code != 0 or not found:
        raise PictureError(f"pilotlight bench ended with exit code {code}")
    await photograph(found[0].as_uri(), IMAGES / "report.png", (1180, 1420), folder)


async def live(folder: Path) -> None:
    """The live page, while four applications are at work on a simulated Ollama."""
    async with stage(folder, _clean_environ(), _tell) as scene, applications(scene.proxied.url):
        _tell(f"four applications are at work for {_AT_WORK_S:.0f} s")
        await asyncio.sleep(_AT_WORK_S)
        page = f"{scene.admin_url}/"
        await photograph(page, IMAGES / "live.png", (1280, 1180), folder, "--virtual-time-budget=3000")


PICTURES: Final[Mapping[str, Callable[[Path], Awaitable[None]]]] = {"report": report, "live": live}


async def _run(deadline_s: float, *command: str, environ: Mapping[str, str], quiet: bool = True) -> int:
    """Run a program to its end, which comes with ours at the latest."""
    to = asyncio.subprocess.DEVNULL if quiet else None
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=to, stderr=to, env=dict(environ)
    )
    try:
        async with asyncio.timeout(deadline_s):
            return await process.wait()
    except TimeoutError:
        raise PictureError(f"{Path(command[0]).name} took longer than {deadline_s:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _clean_environ() -> dict[str, str]:
    """Without settings of ours or Ollama's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PILOTLIGHT_", "OLLAMA_"))}


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


async def take(name: str) -> None:
    """Take one picture.

    Raises:
        PictureError: It cannot be taken.
    """
    with tempfile.TemporaryDirectory(prefix="pilotlight-pictures-", ignore_cleanup_errors=True) as folder:
        await PICTURES[name](Path(folder))
    _tell(f"docs/images/{name}.png")


def main() -> int:
    """Take the pictures that are named, or all; the exit code."""
    names = sys.argv[1:] or list(PICTURES)
    unknown = [name for name in names if name not in PICTURES]
    if unknown:
        _tell(f"usage: scripts/pictures [{'|'.join(PICTURES)}]...; there is no picture {unknown[0]}")
        return 2
    try:
        for name in names:
            asyncio.run(take(name))
    except (PictureError, DemoError) as error:
        _tell(f"scripts/pictures: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
