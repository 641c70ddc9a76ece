"""The error boundary of the admin port's pages; that of the listening port is in ``connection``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import structlog
from aiohttp import web

from proxy.errors import PilotlightError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_log = structlog.get_logger("proxy.server")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as ``{"error": "..."}``; nothing of an unexpected one reaches the client."""
    try:
        return await handler(request)
    except PilotlightError as error:
        more = {"WWW-Authenticate": 'Bearer realm="pilotlight"'} if error.status == 401 else {}
        return _error(error.status, error.message, {"X-Pilotlight-Error": error.code, **more})
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _error(error.status, error.reason.lower(), headers)
    except Exception:
        _log.exception("admin page failed", path=request.path)
        return _error(500, "internal error", {})


def _error(status: int, text: str, headers: dict[str, str]) -> web.Response:
    body = orjson.dumps({"error": text})
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
