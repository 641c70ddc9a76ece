"""Running Go templates over plain Python data.

Source: Go 1.26 ``text/template/exec.go`` and ``funcs.go``. Maps are ``dict``, structs are ``Struct``; printing
follows ``fmt`` as far as Ollama's templates need it.
"""

from __future__ import annotations

import html
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy.simulator.golang import jsonout
from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.golang.template_parse import OLLAMA_FUNCTIONS
from proxy.simulator.golang.template_tree import (
    Action,
    Branch,
    Call,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Jump,
    Nil,
    Node,
    Operand,
    Pipe,
    Template,
    Text,
    Variable,
    place_of,
    source_of,
)
from proxy.wire.gojson import go_quote


class GoStruct:
    """A Go struct in a template: fields by Go name, and how it is written as JSON and printed."""

    __slots__ = ("fields", "json", "type_name")

    def __init__(self, fields: Mapping[str, object], json: object, type_name: str = "struct {}") -> None:
        self.fields = dict(fields)
        self.json = json
        self.type_name = type_name


class JsonList(list[object]):
    """A slice with a ``String`` method that writes JSON (``templateTools``)."""


class JsonMap(dict[str, object]):
    """A map with a ``String`` method that writes JSON (``templateArgs``, ``templateProperties``)."""


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def execute(template: Template, data: object, nodes: list[Node] | None = None) -> str:
    """Run a template over ``data``; with ``nodes``, only these, without Ollama's functions and without other templates.

    Raises:
        GoError: where Go's execution fails.
    """
    run = _Run(template, is_bare=nodes is not None)
    try:
        run.walk(data, template.nodes if nodes is None else nodes, [("$", data)])
    except _Failure as failure:
        before = template.text[: place_of(run.node)]
        place = f"{before.count(chr(10)) + 1}:{len(before.rpartition(chr(10))[2].encode())}"
        text = f'template: :{place}: executing "" at <{source_of(run.node)}>: {failure}'
        raise GoError(text) from None
    return "".join(run.out)


class _Failure(Exception):
    """What went wrong; where is known by the run."""


_Scope = list[tuple[str, object]]


class _Run:
    def __init__(self, template: Template, *, is_bare: bool) -> None:
        self._defined = {} if is_bare else template.defined
        self._missing = OLLAMA_FUNCTIONS if is_bare else frozenset()
        self.out: list[str] = []
        self.node: Operand | Command | Call = Dot()

    def walk(self, dot: object, nodes: list[Node], scope: _Scope) -> None:
        for node in nodes:
            if isinstance(node, Text):
                self.out.append(node.text)
            elif isinstance(node, Action):
                value = self._pipe(dot, node.pipe, scope)
                if not node.pipe.declares:
                    self.out.append(show(value))
            elif isinstance(node, Branch):
                self._branch(dot, node, scope)
            elif isinstance(node, Jump):
                raise _Break if node.kind == "break" else _Continue
            else:
                self._call(dot, node, scope)

    def _call(self, dot: object, node: Call, scope: _Scope) -> None:
        nodes = self._defined.get(node.name)
        self.node = node
        if nodes is None:
            raise _Failure(f'template "{node.name}" not defined')
        inner = self._pipe(dot, node.pipe, scope) if node.pipe is not None else None
        self.walk(inner, nodes, [("$", inner)])

    def _branch(self, dot: object, node: Branch, scope: _Scope) -> None:
        mark = len(scope)
        if node.kind == "range":
            self._range(dot, node, scope)
        else:
            value = self._pipe(dot, node.pipe, scope)
            if truth(value):
                self.walk(value if node.kind == "with" else dot, node.body, scope)
            elif node.otherwise is not None:
                self.walk(dot, node.otherwise, scope)
        del scope[mark:]

    def _range(self, dot: object, node: Branch, scope: _Scope) -> None:
        value = self._pipe(dot, node.pipe, scope, declare=False)
        pairs = _pairs(value)
        if not pairs and node.otherwise is not None:
            self.walk(dot, node.otherwise, scope)
        mark = len(scope)
        names = node.pipe.declares
        for key, item in pairs:
            for name, held in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._set(scope, name, held, assign=node.pipe.assigns)
            try:
                self.walk(item, node.body, scope)
            except _Continue:
                continue
            except _Break:
                break
            finally:
                del scope[mark:]

    def _set(self, scope: _Scope, name: str, value: object, *, assign: bool) -> None:
        if assign:
            for index in range(len(scope) - 1, -1, -1):
                if scope[index][0] == name:
                    scope[index] = (name, value)
                    return
        scope.append((name, value))

    def _pipe(self, dot: object, pipe: Pipe, scope: _Scope, *, declare: bool = True) -> object:
        final: list[object] = []
        for command in pipe.commands:
            final = [self._command(dot, command, scope, final)]
        value = final[0] if final else None
        if declare:
            for name in pipe.declares:
                self._set(scope, name, value, assign=pipe.assigns)
        return value

    def _command(self, dot: object, command: Command, scope: _Scope, final: list[object]) -> object:
        first = command.args[0]
        if isinstance(first, Function):
            return self._function(dot, command, scope, final)
        if len(command.args) > 1 or final:
            self.node = first
            raise _Failure(f"can't give argument to non-function {source_of(first)}")
        if isinstance(first, Nil):
            self.node = first
            raise _Failure("nil is not a command")
        return self._operand(dot, first, scope)

    def _operand(self, dot: object, operand: Operand, scope: _Scope) -> object:
        if isinstance(operand, Dot):
            return dot
        if isinstance(operand, Field):
            self.node = operand
            return _fields(dot, operand.names)
        if isinstance(operand, Variable):
            self.node = operand
            for name, value in reversed(scope):
                if name == operand.names[0]:
                    return _fields(value, operand.names[1:])
            raise _Failure(f"undefined variable: {operand.names[0]}")
        if isinstance(operand, Chain):
            value = self._operand(dot, operand.node, scope)
            self.node = operand
            return _fields(value, operand.names)
        if isinstance(operand, Constant):
            return operand.value
        if isinstance(operand, Pipe):
            return self._pipe(dot, operand, scope)
        return None if isinstance(operand, Nil) else self._function(dot, Command([operand]), scope, [])

    def _function(self, dot: object, command: Command, scope: _Scope, final: list[object]) -> object:
        function = command.args[0]
        assert isinstance(function, Function)  # noqa: S101 - the callers have looked
        name, arguments = function.name, command.args[1:]
        if name in self._missing:
            self.node = function
            raise _Failure(f"{go_quote(name)} is not a defined function")
        if name in ("and", "or"):
            value: object = None
            for argument in arguments:
                value = self._operand(dot, argument, scope)
                if truth(value) == (name == "or"):
                    return value
            return final[0] if final else value
        values = [self._operand(dot, argument, scope) for argument in arguments]
        self.node = command
        try:
            return _FUNCTIONS[name](*values, *final)
        except _Failure as failure:
            raise _Failure(f"error calling {name}: {failure}") from None


def _fields(value: object, names: Sequence[str]) -> object:
    held = "interface {}"  # the type of what a map of templates holds, and so the type that errors name
    for name in names:
        if isinstance(value, GoStruct):
            if name not in value.fields:
                raise _Failure(f"can't evaluate field {name} in type {value.type_name}")
            value = value.fields[name]
        elif isinstance(value, Mapping):
            value = value.get(name)
        elif value is None:
            raise _Failure(f"nil pointer evaluating {held}.{name}")
        else:
            raise _Failure(f"can't evaluate field {name} in type {held}")
    return value


def type_name(value: object) -> str:
    """The Go name of a plain value's type."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "int"
    return "float64" if isinstance(value, float) else "interface {}"


def _pairs(value: object) -> list[tuple[object, object]]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise _Failure(f"range can't iterate over {show(value)}")


def truth(value: object) -> bool:
    """``template.IsTrue``: empty values are false, structs are true."""
    return True if isinstance(value, GoStruct) else bool(value)


def show(value: object) -> str:
    """A value as an action prints it."""
    return "<no value>" if value is None else _fmt(value)


def _fmt(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _general(value)
    if isinstance(value, GoStruct):
        return "{" + " ".join(_fmt(member) for member in value.fields.values()) + "}"
    if isinstance(value, JsonList | JsonMap):
        return to_json(value)
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{_fmt(key)}:{_fmt(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_fmt(item) for item in value) + "]"
    return str(value)


def _general(value: float) -> str:
    text = f"{value:.17g}"
    for precision in range(1, 18):
        shorter = f"{value:.{precision}g}"
        if float(shorter) == value:
            text = shorter
            break
    mantissa, _, exponent = text.partition("e")
    if exponent and -4 <= int(exponent) < 21:
        return jsonout.number(value)
    return f"{mantissa}e{exponent}" if exponent else text


def to_json(value: object) -> str:
    """The function ``json`` of Ollama's templates."""
    return jsonout.marshal(_jsonable(value))


def _jsonable(value: object) -> object:
    if isinstance(value, GoStruct):
        return _jsonable(value.json)
    if isinstance(value, JsonMap | jsonout.GoMap):
        return jsonout.GoMap({key: _jsonable(member) for key, member in value.items()})
    if isinstance(value, Mapping):
        return {key: _jsonable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value


def _equal(first: object, *others: object) -> bool:
    for other in others:
        if None not in (first, other) and type_name(first) != type_name(other):
            raise _Failure(f"incompatible types for comparison: {type_name(first)} and {type_name(other)}")
        if first == other:
            return True
    return False


def _compare(test: Callable[[float | str, float | str], bool]) -> Callable[[object, object], object]:
    def compare(left: object, right: object) -> object:
        if isinstance(left, int | float) and isinstance(right, int | float):
            return test(left, right)
        if isinstance(left, str) and isinstance(right, str):
            return test(left, right)
        raise _Failure("incompatible types for comparison")

    return compare


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8"))
    if isinstance(value, list | Mapping):
        return len(value)
    raise _Failure(f"len of type {type_name(value)}")


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int):
            if not 0 <= key < len(value):
                raise _Failure(f"reflect: slice index out of range: {key}")
            value = value[key]
        else:
            raise _Failure(f"can't index item of type {type_name(value)}")
    return value


def _slice(value: object, *bounds: object) -> object:
    numbers = [bound for bound in bounds if isinstance(bound, int)]
    low = numbers[0] if numbers else 0
    high = numbers[1] if len(numbers) > 1 else None
    if isinstance(value, str):
        return value.encode("utf-8")[low:high].decode("utf-8", "replace")
    if isinstance(value, list):
        return value[low:high]
    raise _Failure("can't slice item")


def _sprintf(form: object, *values: object) -> str:
    text, rest = str(form), list(values)
    pieces = text.replace("%%", "\0").split("%")
    out = [pieces[0]]
    for piece in pieces[1:]:
        value = rest.pop(0) if rest else None
        out.append((go_quote(str(value)) if piece[:1] == "q" else _fmt(value)) + piece[1:])
    return "".join(out).replace("\0", "%")


def _print(*values: object) -> str:
    out = ""
    previous_text = True
    for value in values:
        is_text = isinstance(value, str)
        if out and not is_text and not previous_text:
            out += " "
        out += _fmt(value)
        previous_text = is_text
    return out


_JS: Final = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
)


def _date(days_back: int) -> Callable[..., str]:
    return lambda *_: time.strftime("%Y-%m-%d", time.localtime(time.time() - 86_400 * days_back))


_FUNCTIONS: Final[dict[str, Callable[..., object]]] = {
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": _compare(lambda left, right: left < right),  # type: ignore[operator]
    "le": _compare(lambda left, right: left <= right),  # type: ignore[operator]
    "gt": _compare(lambda left, right: left > right),  # type: ignore[operator]
    "ge": _compare(lambda left, right: left >= right),  # type: ignore[operator]
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "printf": _sprintf,
    "println": lambda *values: " ".join(_fmt(value) for value in values) + "\n",
    "html": lambda *values: html.escape(_print(*values)),
    "js": lambda *values: _print(*values).translate(_JS),
    "urlquery": lambda *values: urllib.parse.quote_plus(_print(*values)),
    "call": lambda *_: None,
    "json": to_json,
    "currentDate": _date(0),
    "yesterdayDate": _date(1),
    "toTypeScriptType": lambda value: "any",
}
