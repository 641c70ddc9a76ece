"""Which origins and hosts are let in.

Source: Ollama v0.24.0 ``server/routes.go`` (``GenerateRoutes``, ``allowedHostsMiddleware``), ``envconfig/config.go``
(``AllowedOrigins``); gin-contrib/cors v1.7.2.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.simulator.net.request import Head
    from proxy.simulator.net.writer import ResponseWriter

_HOSTS: Final = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - names of origins, nothing is bound
_SCHEMES: Final = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_ALLOW_HEADERS: Final = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,X-Stainless-Os,"
    "X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,"
    "X-Stainless-Runtime-Version,X-Stainless-Timeout"
)


def allowed_origins(extra: Iterable[str]) -> list[str]:
    """The list of a server with these OLLAMA_ORIGINS."""
    origins = [origin.strip().lower() for origin in extra]
    for host in _HOSTS:
        origins += [f"http://{host}", f"https://{host}", f"http://{host}:*", f"https://{host}:*"]
    return [*origins, *_SCHEMES]


def origin_is_allowed(origin: str, allowed: Iterable[str]) -> bool:
    """Whether an origin is on the list; one star stands for anything."""
    for entry in allowed:
        before, star, after = entry.partition("*")
        if entry == origin or (star and origin.startswith(before) and origin.endswith(after)):
            return True
    return False


def host_is_allowed(host: str) -> bool:
    """Whether a server on loopback answers to this Host."""
    name = host
    if host.startswith("[") and "]:" in host:
        name = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        name = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return address.is_loopback or _is_private(address) or address.is_unspecified
    name = name.lower()
    if name in ("", "localhost", socket.gethostname().lower()):
        return True
    return name.endswith((".localhost", ".local", ".internal"))


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    networks = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    return any(
        address in network for network in map(ipaddress.ip_network, networks) if network.version == address.version
    )


def apply(head: Head, response: ResponseWriter, origins: Iterable[str], *, checks_host: bool) -> bool:
    """Answer preflights and refuse strangers; False when the request is answered."""
    origin = head.get("Origin")
    host = head.host
    if origin and origin not in (f"http://{host}", f"https://{host}"):
        allowed = list(origins)
        if "*" not in allowed and not origin_is_allowed(origin, allowed):
            response.write_header(403)
            return False
        if head.method == "OPTIONS":
            response.headers |= {
                "Access-Control-Allow-Headers": [_ALLOW_HEADERS],
                "Access-Control-Allow-Methods": ["GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"],
                "Access-Control-Allow-Origin": [origin],
                "Access-Control-Max-Age": ["43200"],
                "Vary": ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"],
            }
            response.write_header(204)
            return False
        response.headers["Vary"] = ["Origin"]
        response.headers["Access-Control-Allow-Origin"] = [origin]
    if not checks_host:
        return True
    if not host_is_allowed(host):
        response.write_header(403)
        return False
    if head.method == "OPTIONS" and _is_name(host):
        response.write_header(204)
        return False
    return True


def _is_name(host: str) -> bool:
    """Whether Host is no address: those pass on, names of this machine have preflights answered."""
    try:
        ipaddress.ip_address(host.rpartition(":")[0].strip("[]") or host)
    except ValueError:
        return True
    return False
