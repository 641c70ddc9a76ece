"""All routes of the simulated server (Ollama v0.24.0 ``server/routes.go``, ``GenerateRoutes``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.simulator.net.router import Router
from proxy.simulator.routes import blobs, chat, cloud, create, embed, generate, library, transfer
from proxy.simulator.routes.v1 import anthropic, media, openai, responses

if TYPE_CHECKING:
    from proxy.simulator.routes.call import Call


def build_routes() -> Router[Call]:
    """The table."""
    router: Router[Call] = Router()
    for method in ("HEAD", "GET"):
        router.add(method, "/", library.root)
        router.add(method, "/api/version", library.version)
        router.add(method, "/api/tags", library.tags)
    router.add("HEAD", "/api/blobs/:digest", blobs.head)
    for path, handler in {
        "/api/status": library.status,
        "/api/ps": library.ps,
        "/api/experimental/model-recommendations": cloud.recommendations,
        "/v1/models": openai.models,
        "/v1/models/:model": openai.model,
    }.items():
        router.add("GET", path, handler)
    for path, handler in {
        "/api/pull": transfer.pull,
        "/api/push": transfer.push,
        "/api/show": library.show,
        "/api/me": cloud.whoami,
        "/api/signout": cloud.signout,
        "/api/create": create.create,
        "/api/blobs/:digest": blobs.upload,
        "/api/copy": library.copy,
        "/api/experimental/web_search": cloud.web_search,
        "/api/experimental/web_fetch": cloud.web_fetch,
        "/api/generate": generate.generate,
        "/api/chat": chat.chat,
        "/api/embed": embed.embed,
        "/api/embeddings": embed.embeddings,
        "/v1/chat/completions": openai.chat_completions,
        "/v1/completions": openai.completions,
        "/v1/embeddings": openai.embeddings,
        "/v1/responses": responses.responses,
        "/v1/images/generations": media.generations,
        "/v1/images/edits": media.edits,
        "/v1/audio/transcriptions": media.transcriptions,
        "/v1/messages": anthropic.messages,
    }.items():
        router.add("POST", path, handler)
    router.add("DELETE", "/api/delete", library.delete)
    router.add("DELETE", "/api/user/keys/:encodedKey", cloud.signout)
    return router
