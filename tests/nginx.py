"""The real nginx on loopback, with a configuration of the test's own or the committed one."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.bench.children import Child, free_port
from proxy.bench.own.ways import find_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "nginx"
NGINX = find_nginx()
_CONF = """
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {location}
    }}
}}
"""
needs_nginx = [pytest.mark.nginx, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


def command(folder: Path, conf: Path, *more: str) -> list[str]:
    """The arguments; as root its workers would become somebody else, who may not enter our folder."""
    user = " user root;" if os.geteuid() == 0 else ""
    return ["-e", str(folder / "error.log"), "-p", str(folder), "-c", str(conf), "-g", f"daemon off;{user}", *more]


@contextlib.asynccontextmanager
async def nginx(folder: Path, conf: Path, port: int) -> AsyncIterator[Child]:
    """Run it until the context is left.

    Args:
        folder: For its files; ``log`` has what it writes.
        conf: What it is told.
        port: That it listens on.
    """
    assert NGINX is not None
    arguments = command(folder, conf)
    async with Child(arguments, folder / "log", {"PATH": os.environ["PATH"]}, program=(NGINX,)) as child:
        await child.wait_listening(port, 10)
        yield child


@contextlib.asynccontextmanager
async def nginx_with(folder: Path, location: str) -> AsyncIterator[str]:
    """The URL of one that serves nothing but a location, which is given as it stands in its configuration."""
    port = free_port()
    conf = folder / "nginx.conf"
    conf.write_text(_CONF.format(folder=folder, port=port, location=location), encoding="utf-8")
    async with nginx(folder, conf, port):
        yield f"http://127.0.0.1:{port}"


def render_committed(
    folder: Path, *, port: int, upstream: str, secrets: Path, replaced: Mapping[str, str] | None = None
) -> Path:
    """The committed configuration with other ports and places, and nothing else but ``replaced``; the file to run."""
    shutil.copytree(COMMITTED, folder / "nginx")
    changes = {
        # First: what the others put in has it too.
        "/tmp/": f"{folder}/",  # noqa: S108 - of the container
        "listen 8443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "listen 127.0.0.1:8081;": f"listen 127.0.0.1:{free_port()};",
        "server pilotlight:11435;": f"server {upstream};",
        "/run/secrets/tls_certificate;": f"{secrets}/tls.pem;",
        "/run/secrets/tls_key;": f"{secrets}/tls.key;",
        **(replaced or {}),
    }
    files = sorted((folder / "nginx").glob("*.conf"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    for old, new in changes.items():
        assert any(old in text for text in texts.values()), old
        texts = {file: text.replace(old, new) for file, text in texts.items()}
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    return folder / "nginx" / "nginx.conf"
