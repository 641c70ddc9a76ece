"""The tree of a Go template, and questions that Ollama asks about it.

Source: Go 1.26 ``text/template/parse/node.go``; Ollama v0.24.0 ``template/template.go`` (``Identifiers``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Text:
    text: str


@dataclass(slots=True)
class Dot:
    at: int = 0


@dataclass(slots=True)
class Nil:
    at: int = 0


@dataclass(slots=True)
class Field:
    names: list[str]
    at: int = 0


@dataclass(slots=True)
class Variable:
    names: list[str]  # "$x" and then fields
    at: int = 0


@dataclass(slots=True)
class Chain:
    node: Operand
    names: list[str]
    at: int = 0


@dataclass(slots=True)
class Function:
    name: str
    at: int = 0


@dataclass(slots=True)
class Constant:
    value: str | int | float | bool
    text: str = ""
    at: int = 0


@dataclass(slots=True)
class Command:
    args: list[Operand]


@dataclass(slots=True)
class Pipe:
    commands: list[Command]
    declares: list[str] = field(default_factory=list)
    assigns: bool = False


@dataclass(slots=True)
class Action:
    pipe: Pipe


@dataclass(slots=True)
class Branch:
    kind: str  # if, with, range
    pipe: Pipe
    body: list[Node]
    otherwise: list[Node] | None = None


@dataclass(slots=True)
class Call:
    name: str
    pipe: Pipe | None
    at: int = 0


@dataclass(slots=True)
class Jump:
    kind: str  # break, continue


Operand = Dot | Nil | Field | Variable | Chain | Function | Constant | Pipe
Node = Text | Action | Branch | Call | Jump


def source_of(node: Operand | Command | Call) -> str:
    """A node as Go prints it in an error."""
    if isinstance(node, Field):
        return "." + ".".join(node.names)
    if isinstance(node, Variable):
        return ".".join(node.names)
    if isinstance(node, Chain):
        return source_of(node.node) + "".join(f".{name}" for name in node.names)
    if isinstance(node, Command):
        return " ".join(f"({source_of(item)})" if isinstance(item, Pipe) else source_of(item) for item in node.args)
    if isinstance(node, Pipe):
        shown = " | ".join(source_of(command) for command in node.commands)
        return f"{', '.join(node.declares)} {'=' if node.assigns else ':='} {shown}" if node.declares else shown
    if isinstance(node, Call):
        return f'{{{{template "{node.name}"{" " + source_of(node.pipe) if node.pipe else ""}}}}}'
    if isinstance(node, Constant):
        return node.text
    return node.name if isinstance(node, Function) else "." if isinstance(node, Dot) else "nil"


def place_of(node: Operand | Command | Call) -> int:
    """Where a node stands in the template."""
    if isinstance(node, Command):
        return place_of(node.args[0])
    return place_of(node.commands[0]) if isinstance(node, Pipe) else node.at


@dataclass(slots=True)
class Template:
    """A parsed template: its own nodes and those that it defines."""

    text: str
    nodes: list[Node]
    defined: dict[str, list[Node]] = field(default_factory=dict)

    def has_bare_calls(self) -> bool:
        """Whether another template is called without a value, which ``Identifiers`` does not understand."""
        return any(isinstance(node, Call) and node.pipe is None for node in self.nodes)

    def names(self) -> set[str]:
        """Every field and variable name, in lower case (``Template.Vars``)."""
        found: set[str] = set()
        for nodes in (self.nodes, *self.defined.values()):
            for name in _names(nodes):
                found.add(name.lower())
        return found


def _names(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, Action):
            yield from pipe_names(node.pipe)
        elif isinstance(node, Branch):
            yield from pipe_names(node.pipe)
            yield from _names(node.body)
            yield from _names(node.otherwise or [])
        elif isinstance(node, Call) and node.pipe is not None:
            yield from pipe_names(node.pipe)


def pipe_names(pipe: Pipe) -> Iterator[str]:
    """The field and variable names of one pipeline."""
    for command in pipe.commands:
        for argument in command.args:
            if isinstance(argument, Field | Variable):
                yield from argument.names
            elif isinstance(argument, Pipe):
                yield from pipe_names(argument)


def cut_after_response(nodes: list[Node]) -> list[Node]:
    """The template up to its first ``.Response``; all that follows is left out (``deleteNode``)."""
    kept, _ = _cut(nodes, cut=False)
    return kept


def _cut(nodes: list[Node], *, cut: bool) -> tuple[list[Node], bool]:
    kept: list[Node] = []
    for node in nodes:
        if cut:
            break
        if isinstance(node, Action):
            pipe, cut = _cut_pipe(node.pipe)
            if pipe is not None:
                kept.append(Action(pipe))
        elif isinstance(node, Branch):
            body, cut = _cut(node.body, cut=cut)
            otherwise = node.otherwise
            if otherwise is not None:
                otherwise, cut = _cut(otherwise, cut=cut)
            kept.append(Branch(node.kind, node.pipe, body, otherwise))
        else:
            kept.append(node)
    return kept, cut


def _cut_pipe(pipe: Pipe) -> tuple[Pipe | None, bool]:
    for index, command in enumerate(pipe.commands):
        for place, argument in enumerate(command.args):
            if isinstance(argument, Field) and "Response" in argument.names:
                # The response itself stays; what follows it goes.
                kept = Command(command.args[: place + 1])
                return Pipe([*pipe.commands[:index], kept], pipe.declares, pipe.assigns), True
    return pipe, False
