"""/v1/images/* and /v1/audio/transcriptions (Ollama v0.24.0 ``middleware/openai.go``)."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import re
from collections.abc import Mapping
from datetime import datetime

from proxy.simulator.api.v1 import IMAGE_EDIT, IMAGE_GENERATION
from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.routes import chat, generate
from proxy.simulator.routes.call import Call, Refusal
from proxy.simulator.routes.v1.convert import Native, decode_image_url, encoded
from proxy.simulator.routes.v1.shape import OpenAISink, as_mapping, as_text, refuse_cloud_model

Frame = Mapping[str, object]


class ImageSink(OpenAISink):
    """The last native frame to a list of pictures; the others to nothing."""

    def convert(self, value: Frame) -> None:
        if not (value.get("done") and value.get("image")):
            return
        created = as_text(value.get("created_at")).partition(".")[0].rstrip("Z")
        seconds = int(datetime.fromisoformat(f"{created}+00:00").timestamp())
        self.plain({"created": seconds, "data": [{"b64_json": value["image"]}]})


class TranscriptionSink(OpenAISink):
    """All native frames to one text."""

    def __init__(self, call: Call, form: str) -> None:
        super().__init__(call)
        self._form = form
        self._text = ""

    def convert(self, value: Frame) -> None:
        self._text += as_text(as_mapping(value.get("message")).get("content"))
        if not value.get("done"):
            return
        if self._form == "text":
            self.response.headers["Content-Type"] = ["text/plain"]
            self.response.write(self._text.strip().encode("utf-8", "replace"))
        else:
            self.plain({"text": self._text.strip()})

    def flush(self) -> None:
        """Frames are collected; only the end of the stream is sent (gin flushes the empty writes, too)."""
        super().flush()


def _required(request: Frame, *names: str) -> None:
    for name in names:
        if not request[name]:
            raise Refusal(400, f"{name} is required")


def _native(request: Frame, images: list[str]) -> bytes:
    native: Native = {"model": request["model"], "prompt": request["prompt"], "options": None}
    size = re.match(r"([+-]?\d+)x([+-]?\d+)", as_text(request["size"]))
    if size is not None:
        native |= {"width": int(size.group(1)), "height": int(size.group(2))}
    if images:
        native["images"] = images
    if request["seed"] is not None:
        native["options"] = {"seed": request["seed"]}
    return encoded(jsonout.marshal(native))


async def generations(call: Call) -> None:
    """POST /v1/images/generations."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(IMAGE_GENERATION, empty="EOF")
    _required(request, "prompt", "model")
    call.body = _native(request, [])
    call.sink = ImageSink(call)
    await generate.generate(call)


async def edits(call: Call) -> None:
    """POST /v1/images/edits."""
    await refuse_cloud_model(call)
    call.sink = OpenAISink(call)
    request = await call.bind(IMAGE_EDIT, empty="EOF")
    _required(request, "prompt", "model", "image")
    try:
        picture = base64.b64encode(decode_image_url(as_text(request["image"]))).decode("ascii")
    except GoError as error:
        raise Refusal(400, f"invalid image: {error}") from None
    call.body = _native(request, [picture])
    call.sink = ImageSink(call)
    await generate.generate(call)


def _parts(kind: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form.

    Raises:
        GoError: with the text of Go's ``ParseMultipartForm``.
    """
    if not kind.lower().startswith("multipart/form-data"):
        raise GoError("request Content-Type isn't multipart/form-data")
    if "boundary=" not in kind:
        raise GoError("no multipart boundary param in Content-Type")
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="Content-Disposition")
        payload = part.get_payload(decode=True)
        fields[str(name)] = payload if isinstance(payload, bytes) else b""
    if not fields:
        raise GoError("multipart: NextPart: EOF")
    return fields


async def transcriptions(call: Call) -> None:
    """POST /v1/audio/transcriptions."""
    call.sink = OpenAISink(call)
    try:
        fields = _parts(call.exchange.head.get("Content-Type"), await call.read())
    except GoError as error:
        raise Refusal(400, f"failed to parse multipart form: {error}") from None
    model = fields.get("model", b"").decode("utf-8", "replace")
    if not model:
        raise Refusal(400, "model is required")
    if "file" not in fields:
        raise Refusal(400, "file is required: http: no such file")
    if not fields["file"]:
        raise Refusal(400, "audio file is empty")
    system = "Transcribe the following audio exactly as spoken. Output only the transcription text, nothing else."
    language, hint = (fields.get(name, b"").decode("utf-8", "replace") for name in ("language", "prompt"))
    system += f" The audio is in {language}." if language else ""
    system += f" Context: {hint}" if hint else ""
    audio = base64.b64encode(fields["file"]).decode("ascii")
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": "Transcribe this audio.", "images": [audio]},
    ]
    native: Native = {"model": model, "messages": messages, "stream": True, "options": {"temperature": 0}}
    call.body = encoded(jsonout.marshal(native))
    call.sink = TranscriptionSink(call, fields.get("response_format", b"").decode("utf-8", "replace"))
    await chat.chat(call)
