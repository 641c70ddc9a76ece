"""The live page of the admin port: three files that the browser puts the admin port's own JSON into.

Nothing is built and nothing is fetched from elsewhere. The files hold no figures, so everyone may have them; what they
ask for is answered to who may read.
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from aiohttp import web

# The page's own files and the admin port, and nothing else: no inline script, no other site, no frame around it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_TYPES: Final = {"index.html": "text/html", "live.css": "text/css", "live.js": "text/javascript"}
PATHS: Final = ("/live.css", "/live.js")


class LivePage:
    """The files, read once."""

    def __init__(self) -> None:
        folder = resources.files(__name__)
        self._files = {name: folder.joinpath(name).read_bytes() for name in _TYPES}

    async def page(self, request: web.Request) -> web.Response:
        """The page itself."""
        return self._response("index.html")

    async def file(self, request: web.Request) -> web.Response:
        """What belongs to it."""
        return self._response(request.path.removeprefix("/"))

    def _response(self, name: str) -> web.Response:
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
        return web.Response(body=self._files[name], content_type=_TYPES[name], charset="utf-8", headers=headers)
