"""All routes of the simulated server (Ollama v0.24.0 ``server/routes.go``, ``GenerateRoutes``)."""

from __future__ import annotations

from proxy.simulator.net.router import Router
from proxy.simulator.routes import blobs, chat, embed, generate, library
from proxy.simulator.routes.call import Call


def build_routes() -> Router[Call]:
    """The table."""
    router: Router[Call] = Router()
    for method in ("HEAD", "GET"):
        router.add(method, "/", library.root)
        router.add(method, "/api/version", library.version)
        router.add(method, "/api/tags", library.tags)
    router.add("GET", "/api/status", library.status)
    router.add("GET", "/api/ps", library.ps)
    for path, handler in {
        "/api/show": library.show,
        "/api/blobs/:digest": blobs.upload,
        "/api/copy": library.copy,
        "/api/generate": generate.generate,
        "/api/chat": chat.chat,
        "/api/embed": embed.embed,
        "/api/embeddings": embed.embeddings,
    }.items():
        router.add("POST", path, handler)
    router.add("DELETE", "/api/delete", library.delete)
    router.add("HEAD", "/api/blobs/:digest", blobs.head)
    return router
