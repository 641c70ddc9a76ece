"""Parsing Go templates, with the error texts of ``text/template/parse`` (Go 1.26)."""

from __future__ import annotations

import re
from typing import Final

from proxy.simulator.golang.jsonin import GoError
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
)

_NAMES: Final = "and or not eq ne lt le gt ge len index slice print printf println html js urlquery call"
BUILTINS: Final = frozenset(_NAMES.split(" "))
OLLAMA_FUNCTIONS: Final = frozenset({"json", "currentDate", "yesterdayDate", "toTypeScriptType"})

_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<declare>:=)|(?P<assign>=)|(?P<pipe>\|)|(?P<open>\()|(?P<close>\))|(?P<comma>,)
    |(?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
    |(?P<char>'(?:\\.|[^'\\\n])*')
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+))
    |(?P<variable>\$\w*)
    |(?P<field>\.\w+)|(?P<dot>\.)
    |(?P<word>\w+)""",
    re.VERBOSE,
)
_Token = tuple[str, str, int]  # kind, text, and where it stands


def parse_template(text: str) -> Template:
    """Parse ``text``.

    Raises:
        GoError: "template: :LINE: what is wrong".
    """
    return _Parser(text).template()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._items = self._split()
        self._at = 0
        self._line = 1
        self._defined: dict[str, list[Node]] = {}
        self._variables = ["$"]
        self._loops = 0

    def _error(self, line: int, message: str) -> GoError:
        return GoError(f"template: :{line}: {message}")

    # -- pieces: text, or the tokens of one action, each with its line

    def _split(self) -> list[tuple[int, str | list[_Token]]]:
        items: list[tuple[int, str | list[_Token]]] = []
        at, line, trim = 0, 1, False
        while True:
            start = self._text.find("{{", at)
            text = self._text[at:] if start < 0 else self._text[at:start]
            begin = line + text.count("\n")
            shown = text.lstrip(" \t\r\n") if trim else text
            if start < 0:
                if shown:
                    items.append((line, shown))
                return items
            inside = start + 2
            if re.match(r"-[ \t\r\n]", self._text[inside : inside + 2]):
                shown = shown.rstrip(" \t\r\n")
                inside += 2
            if shown:
                items.append((line, shown))
            if self._text.startswith("/*", inside):
                at, trim = self._comment(inside, begin)
            else:
                tokens, at, trim = self._action(inside, begin)
                items.append((begin, tokens))
            line = begin + self._text.count("\n", start, at)

    def _comment(self, inside: int, line: int) -> tuple[int, bool]:
        end = self._text.find("*/", inside)
        if end < 0:
            raise self._error(line, "unclosed comment")
        match = re.compile(r"([ \t\r\n]-)?\}\}").match(self._text, end + 2)
        if match is None:
            raise self._error(line, "comment ends before closing delimiter")
        return match.end(), bool(match.group(1))

    def _action(self, at: int, line: int) -> tuple[list[_Token], int, bool]:
        tokens: list[_Token] = []
        depth = 0
        closing = re.compile(r"([ \t\r\n]+-)?\}\}")
        while True:
            end = closing.match(self._text, at)
            if end is not None:
                if depth:
                    raise self._error(line, "unclosed left paren")
                return tokens, end.end(), bool(end.group(1))
            match = _TOKEN.match(self._text, at)
            if match is None or match.end() == at:
                raise self._lexical(at, line)
            kind = str(match.lastgroup)
            if kind == "number" and re.match(r"\w", self._text[match.end() : match.end() + 1]):
                word = re.compile(r"[\w.+-]*").match(self._text, at)
                raise self._error(line, f'bad number syntax: "{word.group() if word else ""}"')
            depth += {"open": 1, "close": -1}.get(kind, 0)
            if depth < 0:
                raise self._error(line, "unexpected right paren")
            tokens.append((kind, match.group(), at))
            at = match.end()

    def _lexical(self, at: int, line: int) -> GoError:
        if at >= len(self._text):
            return self._error(line, "unclosed action")
        letter = self._text[at]
        if letter == '"':
            return self._error(line, "unterminated quoted string")
        if letter == "`":
            return self._error(line, "unterminated raw quoted string")
        if letter == "'":
            return self._error(line, "unterminated character constant")
        if letter == ":":
            return self._error(line, "expected :=")
        if letter.isprintable() and letter.isascii():
            return self._error(line, f'unexpected "{letter}" in operand')
        return self._error(line, f"unrecognized character in action: U+{ord(letter):04X} '{letter}'")

    # -- structure

    def template(self) -> Template:
        nodes, ended_by, _ = self._list()
        if ended_by:
            raise self._error(self._line, f"unexpected {{{{{ended_by}}}}}")
        return Template(self._text, nodes, self._defined)

    def _list(self) -> tuple[list[Node], str, list[_Token]]:
        """Nodes up to the end, or up to {{end}} or {{else ...}}: what ended them, and the rest of that action."""
        nodes: list[Node] = []
        while self._at < len(self._items):
            self._line, item = self._items[self._at]
            self._at += 1
            if isinstance(item, str):
                nodes.append(Text(item))
                continue
            tokens = [token for token in item if token[0] != "space"]
            if not tokens:
                raise self._error(self._line, "missing value for command")
            item = item[item.index(tokens[0]) :]
            word = tokens[0][1] if tokens[0][0] == "word" else ""
            if word in ("end", "else"):
                return nodes, word, tokens[1:]
            node = self._control(word, tokens, item)
            if node is not None:
                nodes.append(node)
        return nodes, "", []

    def _control(self, word: str, tokens: list[_Token], item: list[_Token]) -> Node | None:
        if word in ("if", "with", "range"):
            return self._branch(word, item[1:])
        if word in ("break", "continue"):
            if not self._loops:
                raise self._error(self._line, f"{{{{{word}}}}} outside {{{{range}}}}")
            return Jump(word)
        if word in ("define", "block"):
            name = self._name(tokens)
            body, ended_by, _ = self._list()
            if ended_by != "end":
                raise self._error(self._line, "unexpected EOF")
            self._defined[name] = body
            place = tokens[0][2]
            return Call(name, self._pipe(item[3:], "block clause"), place) if word == "block" else None
        if word == "template":
            name = self._name(tokens)
            rest = item[item.index(tokens[1]) + 1 :]
            has_pipe = any(token[0] != "space" for token in rest)
            return Call(name, self._pipe(rest, "template clause") if has_pipe else None, tokens[1][2])
        return Action(self._pipe(item, "command"))

    def _name(self, tokens: list[_Token]) -> str:
        if len(tokens) < 2 or tokens[1][0] != "string":
            raise self._error(self._line, f"unexpected {_shown(tokens[1:])} in {tokens[0][1]} clause")
        return _unquote(tokens[1][1])

    def _branch(self, kind: str, rest: list[_Token]) -> Branch:
        mark = len(self._variables)
        pipe = self._pipe(rest, kind, in_range=kind == "range")
        self._loops += kind == "range"
        body, ended_by, tail = self._list()
        self._loops -= kind == "range"
        otherwise: list[Node] | None = None
        if ended_by == "else":
            if tail and tail[0][:2] in (("word", "if"), ("word", "with")) and kind == tail[0][1]:
                item = self._items[self._at - 1][1]
                place = next(i for i, token in enumerate(item) if token == tail[0])
                otherwise = [self._branch(kind, [token for token in item[place + 1 :] if isinstance(token, tuple)])]
                del self._variables[mark:]
                return Branch(kind, pipe, body, otherwise)
            otherwise, ended_by, _ = self._list()
            if ended_by == "else":
                raise self._error(self._line, "expected end; found {{else}}")
        if ended_by != "end":
            raise self._error(self._text.count("\n") + 1, "unexpected EOF")
        del self._variables[mark:]
        return Branch(kind, pipe, body, otherwise)

    # -- pipelines

    def _pipe(self, item: list[_Token], context: str, *, in_range: bool = False) -> Pipe:
        tokens = list(item)
        declares, assigns = self._declarations(tokens, in_range=in_range)
        cursor = _Cursor(tokens)
        pipe = self._commands(cursor, context)
        if cursor.peek()[0] == "close":
            raise self._error(self._line, "unexpected right paren")
        pipe.declares, pipe.assigns = declares, assigns
        if not assigns:
            self._variables.extend(declares)
        return pipe

    def _declarations(self, tokens: list[_Token], *, in_range: bool) -> tuple[list[str], bool]:
        plain = [(index, token) for index, token in enumerate(tokens) if token[0] != "space"]
        kinds = [token[0] for _, token in plain[:4]]
        if kinds[:2] in (["variable", "declare"], ["variable", "assign"]):
            count = 1
        elif in_range and kinds[:3] == ["variable", "comma", "variable"] and kinds[3:] in (["declare"], ["assign"]):
            count = 2
        else:
            return [], False
        names = [token[1] for _, token in plain[: 2 * count] if token[0] == "variable"]
        assigns = kinds[2 * count - 1] == "assign"
        if assigns:
            for name in names:
                self._check_variable(name)
        del tokens[: plain[2 * count - 1][0] + 1]
        return names, assigns

    def _check_variable(self, name: str) -> None:
        if name not in self._variables:
            raise self._error(self._line, f'undefined variable "{name}"')

    def _commands(self, cursor: _Cursor, context: str) -> Pipe:
        commands: list[Command] = []
        while True:
            arguments: list[Operand] = []
            while True:
                cursor.skip_space()
                if cursor.peek()[0] in ("pipe", "close", "end"):
                    break
                arguments.append(self._operand(cursor, context))
            kind = cursor.peek()[0]
            if not arguments:
                if not commands:
                    raise self._error(self._line, f"missing value for {context}")
                if kind != "pipe":  # Go lets `{{ .A | }}` pass
                    return Pipe(commands)
                raise self._error(self._line, "missing value for command")
            commands.append(Command(arguments))
            if kind != "pipe":
                return Pipe(commands)
            cursor.take()

    def _operand(self, cursor: _Cursor, context: str) -> Operand:
        token = cursor.take()
        kind, text, at = token
        operand: Operand
        if kind == "field":
            operand = Field([text[1:]], at)
        elif kind == "variable":
            self._check_variable(text)
            operand = Variable([text], at)
        else:
            operand = self._simple(token, cursor, context)
        # As in Go, a chain of fields stands where its second part stands.
        at = cursor.peek()[2]
        names: list[str] = []
        while cursor.peek()[0] == "field":
            names.append(cursor.take()[1][1:])
        if cursor.peek()[0] == "dot":
            raise self._error(self._line, "unexpected <.> in operand")
        if not names:
            return operand
        if isinstance(operand, Field | Variable):
            return type(operand)([*operand.names, *names], at)
        return Chain(operand, names, at)

    def _simple(self, token: _Token, cursor: _Cursor, context: str) -> Operand:
        kind, text, at = token
        if kind == "dot":
            return Dot(at)
        if kind == "open":
            pipe = self._commands(cursor, "parenthesized pipeline")
            cursor.take()
            return pipe
        if kind == "string":
            return Constant(_unquote(text), text, at)
        if kind == "char":
            return Constant(ord(_unquote('"' + text[1:-1] + '"')[:1] or "\0"), text, at)
        if kind == "number":
            return Constant(_number(text), text, at)
        if kind == "word":
            if text in ("true", "false"):
                return Constant(text == "true", text, at)
            if text == "nil":
                return Nil(at)
            if text in BUILTINS or text in OLLAMA_FUNCTIONS:
                return Function(text, at)
            raise self._error(self._line, f'function "{text}" not defined')
        raise self._error(self._line, f"unexpected {_shown([token])} in {context}")


class _Cursor:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0

    def peek(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "", 0)

    def take(self) -> _Token:
        token = self.peek()
        self._at += 1
        return token

    def skip_space(self) -> None:
        while self.peek()[0] == "space":
            self._at += 1


def _shown(tokens: list[_Token]) -> str:
    return f'"{tokens[0][1]}"' if tokens else '"}}"'


def _number(text: str) -> int | float:
    cleaned = text.replace("_", "")
    try:
        return int(cleaned, 0)
    except ValueError:
        return float(cleaned)


def _unquote(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]

    def plain(match: re.Match[str]) -> str:
        code = match.group(1)
        named = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        return named.get(code, code)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", plain, text[1:-1])
