"""Turning messages into a prompt.

Source: Ollama v0.24.0 ``template/template.go`` (``Execute``, ``collate``), ``server/prompt.go`` (``chatPrompt``).
Messages are ``dict`` with Go names: Role, Content, Thinking, Images, ToolCalls, ToolName, ToolCallID.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.simulator.golang.template_exec import GoStruct, JsonList, JsonMap, execute
from proxy.simulator.golang.template_tree import Template, cut_after_response

if TYPE_CHECKING:
    from proxy.simulator.engine.model import Model

Message = dict[str, object]


@dataclass(slots=True)
class Thinking:
    """The request's ``think``: None for unset."""

    value: bool | str | None = None

    @property
    def is_set(self) -> bool:
        return self.value is not None

    @property
    def on(self) -> bool:
        """Whether thinking is asked for in any form."""
        return self.value is True or isinstance(self.value, str)

    @property
    def level(self) -> str:
        """The level as templates see it."""
        return self.value if isinstance(self.value, str) else "medium" if self.value else ""

    def values(self) -> dict[str, object]:
        """The names that templates use."""
        return {"Think": self.on, "ThinkLevel": self.level, "IsThinkSet": self.is_set}


@dataclass(slots=True)
class Values:
    """What a template is executed with."""

    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, object]] | None = None
    prompt: str = ""
    suffix: str = ""
    think: Thinking = field(default_factory=Thinking)


def text_of(message: Message, name: str) -> str:
    """A text field of a message."""
    return str(message.get(name) or "")


def collate(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """All system texts joined, and messages with neighbours of one role joined."""
    system = [text_of(message, "Content") for message in messages if message["Role"] == "system"]
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["Role"] == message["Role"] != "tool":
            joined[-1] = {**joined[-1], "Content": f"{joined[-1]['Content']}\n\n{text_of(message, 'Content')}"}
        else:
            joined.append(dict(message))
    return "\n\n".join(system), joined


def execute_template(template: Template, values: Values) -> str:
    """Render a prompt.

    Raises:
        GoError
    """
    system, messages = collate(values.messages)
    common = {"Response": "", **values.think.values()}
    if values.prompt and values.suffix:
        return execute(template, {"Prompt": values.prompt, "Suffix": values.suffix, **common})
    if "messages" in template.names():
        data = {"System": system, "Messages": [_message(item) for item in messages], **common}
        data["Tools"] = _tools(values.tools) if values.tools is not None else None
        return execute(template, data)
    return _legacy(template, messages, values.think)


def _legacy(template: Template, messages: Sequence[Message], think: Thinking) -> str:
    out: list[str] = []
    state = {"System": "", "Prompt": "", "Response": ""}

    def flush() -> None:
        out.append(execute(template, {**state, **think.values()}))
        state.update(System="", Prompt="", Response="")

    for message in messages:
        content = text_of(message, "Content")
        if message["Role"] == "system":
            if state["Prompt"] or state["Response"]:
                flush()
            state["System"] = content
        elif message["Role"] == "user":
            if state["Response"]:
                flush()
            state["Prompt"] = content
        elif message["Role"] == "assistant":
            state["Response"] = content
    out.append(execute(template, {**state, **think.values()}, cut_after_response(template.nodes)))
    return "".join(out)


def _message(message: Message) -> GoStruct:
    calls = message.get("ToolCalls")
    fields = {
        "Role": text_of(message, "Role"),
        "Content": text_of(message, "Content"),
        "Thinking": text_of(message, "Thinking"),
        "Images": message.get("Images") or [],
        "ToolCalls": [_call(call) for call in calls] if isinstance(calls, list) else [],
        "ToolName": text_of(message, "ToolName"),
        "ToolCallID": text_of(message, "ToolCallID"),
    }
    lists = {key: fields[key] or None for key in ("Images", "ToolCalls")}
    return GoStruct(fields, {**fields, **lists}, "*template.templateMessage")


def _call(call: Mapping[str, object]) -> GoStruct:
    function = call["function"]
    assert isinstance(function, Mapping)  # noqa: S101 - the request's schema says so
    arguments = JsonMap(function.get("arguments") or {})
    inner = {"Index": function.get("index", 0), "Name": function.get("name", ""), "Arguments": arguments}
    body = GoStruct(inner, inner)
    return GoStruct({"ID": call.get("id", ""), "Function": body}, {"ID": call.get("id", ""), "Function": inner})


def _tools(tools: Sequence[Mapping[str, object]]) -> JsonList:
    return JsonList([_tool(tool) for tool in tools])


def _without(mapping: Mapping[str, object], *optional: str) -> dict[str, object]:
    """The mapping without those of its optional keys that are nil; Go keeps an `any` of false, 0 or ""."""
    return {key: value for key, value in mapping.items() if key not in optional or value is not None}


def _tool(tool: Mapping[str, object]) -> GoStruct:
    function = tool["function"]
    assert isinstance(function, Mapping)  # noqa: S101 - the request's schema says so
    parameters = function["parameters"]
    assert isinstance(parameters, Mapping)  # noqa: S101
    properties = parameters.get("properties")
    shown = JsonMap(properties) if isinstance(properties, Mapping) else JsonMap()
    parameters_json = {
        "type": parameters.get("type", ""),
        "$defs": parameters.get("$defs"),
        "items": parameters.get("items"),
        "required": parameters.get("required") or None,
        "properties": shown if isinstance(properties, Mapping) else None,
    }
    fields = dict(zip(("Type", "Defs", "Items", "Required", "Properties"), parameters_json.values(), strict=True))
    parameters_struct = GoStruct(
        {**fields, "Required": fields["Required"] or [], "Properties": shown},
        _without(parameters_json, "$defs", "items", "required"),
    )
    function_json = {"name": function.get("name", ""), "description": function.get("description", "")}
    function_struct = GoStruct(
        {"Name": function_json["name"], "Description": function_json["description"], "Parameters": parameters_struct},
        {**function_json, "parameters": parameters_struct},
    )
    tool_json = {"type": tool.get("type", ""), "items": tool.get("items"), "function": function_struct}
    return GoStruct(
        {"Type": tool_json["type"], "Items": tool_json["items"], "Function": function_struct},
        _without(tool_json, "items"),
    )


@dataclass(slots=True)
class Prompt:
    """A rendered prompt and the images in it."""

    text: str
    images: int


def chat_prompt(
    model: Model,
    tokens_in: Callable[[str], int],
    num_ctx: int,
    values: Values,
    *,
    truncate: bool,
) -> Prompt:
    """Render a conversation, leaving out its oldest messages where it is too long.

    Raises:
        GoError
    """
    messages = list(values.messages)
    start = 0
    system: list[Message] = []
    if truncate:
        for index in range(len(messages)):
            system = [message for message in messages[:index] if message["Role"] == "system"]
            text = _render(model, [*system, *messages[index:]], values)
            start = index
            if tokens_in(text) <= num_ctx:
                break
    images = 0
    shown: list[Message] = []
    for message in messages[start:]:
        content, prefix = text_of(message, "Content"), ""
        held = message.get("Images")
        for _ in held if isinstance(held, list) else []:
            tag = f"[img-{images}]"
            images += 1
            if "[img]" in content:
                content = content.replace("[img]", tag, 1)
            else:
                prefix += tag
        shown.append({**message, "Content": prefix + content})
    return Prompt(_render(model, [*system, *shown], values), images)


def _render(model: Model, messages: Sequence[Message], values: Values) -> str:
    return execute_template(model.template, Values(messages, values.tools, think=values.think))
