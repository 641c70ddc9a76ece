"""A model as the server works with it: weights, template, system text, parameters, capabilities.

Source: Ollama v0.24.0 ``server/images.go`` (``GetModel``, ``Capabilities``, ``CheckCapabilities``, ``String``),
``thinking/template.go`` (``InferTags``), ``tools/template.go`` (``parseTag``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.golang.template_parse import parse_template
from proxy.simulator.golang.template_tree import Action, Branch, Command, Field, Node, Pipe, Template, Text, pipe_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.simulator.engine.names import Name
    from proxy.simulator.engine.store import Manifest, Store
    from proxy.simulator.engine.weights import Weights

DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"
_MESSAGES: Final = {
    "completion": "completion",
    "tools": "tools",
    "insert": "insert",
    "vision": "vision",
    "thinking": "thinking",
    "image": "image generation",
}


class MissingCapability(GoError):
    """The model cannot do what was asked; ``missing`` names it."""

    def __init__(self, missing: list[str]) -> None:
        super().__init__("does not support " + "\n".join(_MESSAGES[name] for name in missing))
        self.missing = missing


@dataclass(slots=True)
class Model:
    """One named model."""

    name: Name
    manifest: Manifest
    weights: Weights | None
    template: Template
    system: str = ""
    licenses: list[str] = field(default_factory=list)
    parameters: dict[str, object] = field(default_factory=dict)
    messages: list[dict[str, object]] = field(default_factory=list)

    @property
    def short_name(self) -> str:
        """The name that /api/ps and error texts show."""
        return self.name.shortest

    @property
    def family(self) -> str:
        """The model family of the configuration."""
        return str(self.manifest.settings.get("model_family") or "")

    @property
    def remote_host(self) -> str:
        """Where a cloud model runs."""
        return str(self.manifest.settings.get("remote_host") or "")

    @property
    def remote_model(self) -> str:
        """The name of a cloud model over there."""
        return str(self.manifest.settings.get("remote_model") or "")

    @property
    def is_remote(self) -> bool:
        """Whether requests for it would leave the machine."""
        return bool(self.remote_host and self.remote_model)

    @property
    def key(self) -> str:
        """What a runner belongs to: the weights, whatever the name."""
        layer = self.manifest.first("model")
        return layer.digest if layer is not None else f"digest:{self.manifest.digest}"

    def capabilities(self) -> list[str]:
        """What /api/show lists."""
        found: list[str] = []
        if self.weights is not None:
            found.append("embedding" if self.weights.embedding_only else "completion")
            if self.weights.vision:
                found.append("vision")
        extra = self.manifest.settings.get("capabilities")
        found += [str(name) for name in extra if name not in found] if isinstance(extra, list) else []
        names = self.template.names()
        if "tools" in names and "tools" not in found:
            found.append("tools")
        if "suffix" in names:
            found.append("insert")
        if "thinking" not in found and all(self.thinking_tags()):
            found.append("thinking")
        return found

    def check(self, wanted: list[str]) -> None:
        """Raise ``MissingCapability`` unless the model has all of them."""
        have = self.capabilities()
        missing = [name for name in wanted if name not in have]
        if missing:
            raise MissingCapability(missing)

    def thinking_tags(self) -> tuple[str, str]:
        """The texts around thinking, guessed from the template as Ollama does; ("", "") without."""
        return _infer_tags(self.template.nodes)

    def tool_tag(self) -> str:
        """What tool calls start with; "{" where the template does not tell."""
        call = _find_tool_calls(self.template.nodes)
        text = _first_text(call.body) if call is not None else None
        tag = text.partition("{")[0].strip() if text is not None else ""
        return tag or "{"


def load_model(store: Store, name: Name) -> Model | None:
    """The model of a name, or None.

    Raises:
        GoError: its template is broken.
    """
    manifest = store.find(name)
    if manifest is None:
        return None
    template_layer = manifest.first("template") or manifest.first("prompt")
    text = store.content(template_layer).decode("utf-8") if template_layer is not None else DEFAULT_TEMPLATE
    model = Model(name, manifest, store.weights_of(manifest), parse_model_template(text))
    model.system = store.content(manifest.first("system")).decode("utf-8")
    model.licenses = [
        store.content(layer).decode("utf-8") for layer in manifest.layers if layer.media_type.endswith(".license")
    ]
    parameters = store.content(manifest.first("params"))
    if parameters:
        model.parameters = _floats(json.loads(parameters))
    messages = store.content(manifest.first("messages"))
    if messages:
        model.messages = [
            {"Role": item.get("role", ""), "Content": item.get("content", "")} for item in json.loads(messages)
        ]
    return model


def _floats(parameters: Mapping[str, object]) -> dict[str, object]:
    """Numbers as Go holds JSON numbers of unknown type: floats."""
    return {
        name: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in parameters.items()
    }


def parse_model_template(text: str) -> Template:
    """Parse a template and, where it names neither messages nor a response, add the response (``template.Parse``).

    Raises:
        GoError
    """
    template = parse_template(text)
    if template.has_bare_calls():
        raise GoError("undefined template specified")
    if not template.names() & {"messages", "response"}:
        template.nodes.append(Action(Pipe([Command([Field(["Response"])])])))
    return template


def _infer_tags(nodes: list[Node]) -> tuple[str, str]:
    tags = ("", "")
    for opening, closing in _thinking_lists(nodes, range_of_messages=False, lists=[]):
        tags = (opening or tags[0], closing or tags[1])
    return tags


def _thinking_lists(
    nodes: list[Node], *, range_of_messages: bool, lists: list[list[Node]]
) -> Iterator[tuple[str, str]]:
    lists = [*lists, nodes]
    for node in nodes:
        if isinstance(node, Action):
            if range_of_messages and _mentions_thinking(node.pipe):
                yield _edges(nodes)
        elif isinstance(node, Branch):
            inside = "Messages" in list(pipe_names(node.pipe)) if node.kind == "range" else range_of_messages
            if inside and _mentions_thinking(node.pipe):
                yield _edges(nodes)
            for child in (node.body, node.otherwise or []):
                yield from _thinking_lists(child, range_of_messages=inside, lists=lists)


def _mentions_thinking(pipe: Pipe) -> bool:
    for command in pipe.commands:
        for argument in command.args:
            if isinstance(argument, Field) and argument.names[:1] == ["Thinking"]:
                return True
            if isinstance(argument, Pipe) and _mentions_thinking(argument):
                return True
    return False


def _edges(nodes: list[Node]) -> tuple[str, str]:
    first, last = nodes[0], nodes[-1]
    opening = first.text.strip() if isinstance(first, Text) else ""
    closing = last.text.strip() if isinstance(last, Text) else ""
    return opening, closing


def _find_tool_calls(nodes: list[Node]) -> Branch | None:
    for node in nodes:
        if not isinstance(node, Branch):
            continue
        if node.kind == "if" and _names_tool_calls(node.pipe):
            return node
        for child in (node.body, node.otherwise or []):
            found = _find_tool_calls(child)
            if found is not None:
                return found
    return None


def _names_tool_calls(pipe: Pipe) -> bool:
    return any(
        isinstance(argument, Field) and "ToolCalls" in argument.names
        for command in pipe.commands
        for argument in command.args
    )


def _first_text(nodes: list[Node]) -> str | None:
    for node in nodes:
        if isinstance(node, Text):
            if node.text.strip():
                return node.text
        elif isinstance(node, Branch):
            text = _first_text(node.body)
            if text is None and node.otherwise is not None:
                text = _first_text(node.otherwise)
            return text
        elif isinstance(node, Action):
            return None
    return None
