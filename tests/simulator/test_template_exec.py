"""Go templates: parsing, its errors, running. The expected texts come from Go 1.26 and Ollama 0.24.0."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.simulator.golang.jsonin import GoError
from proxy.simulator.golang.template_exec import execute
from proxy.simulator.golang.template_parse import parse_template

DATA: dict[str, Any] = {
    "System": "",
    "Prompt": "tell me",
    "Messages": [{"Role": "user", "Content": "hi"}, {"Role": "assistant", "Content": "ho"}],
}


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("plain", "plain"),
        ("{{ .Prompt }}{{/* nothing */}}!", "tell me!"),
        ("a  {{- .Prompt -}}  b", "atell meb"),
        ("{{ .Missing }}", "<no value>"),
        ("{{ if .System }}s{{ else if .Prompt }}p{{ else }}n{{ end }}", "p"),
        ("{{ with .System }}{{ . }}{{ else }}none{{ end }}", "none"),
        ("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}", "user:hi;assistant:ho;"),
        ("{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Role }}{{ break }}{{ end }}", "0user"),
        ("{{ range .None }}x{{ else }}empty{{ end }}", "empty"),
        ("{{ $last := 0 }}{{ range .Messages }}{{ $last = .Role }}{{ end }}{{ $last }}", "assistant"),
        ("{{ (index .Messages 0).Role }}", "user"),
        ('{{ eq .Prompt "a" "tell me" }} {{ ne 1 2 }} {{ lt 1 2 }} {{ not .System }}', "true true true true"),
        ('{{ and .System "x" }}|{{ or .System "x" }}', "|x"),
        ("{{ .Prompt | len | print }}", "7"),
        ('{{ printf "%s-%d" .Prompt 3 }}', "tell me-3"),
        ("{{ slice .Prompt 0 4 }}", "tell"),
        ('{{ print 1 2 "a" "b" 3 }}', "1 2ab3"),
        ("{{ json .Messages }}", '[{"Role":"user","Content":"hi"},{"Role":"assistant","Content":"ho"}]'),
        ('{{ define "d" }}<{{ . }}>{{ end }}{{ template "d" .Prompt }}', "<tell me>"),
        ('{{ block "b" .Prompt }}[{{ . }}]{{ end }}', "[tell me]"),
        ("{{ `raw` }} {{ 1.5 }} {{ true }}", "raw 1.5 true"),
        ("{{ range 3 }}{{ . }}{{ if eq . 1 }}{{ continue }}{{ end }},{{ end }}", "0,12,"),
    ],
)
def test_templates_run_as_in_go(text: str, out: str) -> None:
    assert execute(parse_template(text), DATA) == out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ .Nope", "template: :1: unclosed action"),
        ("a\nb {{ .Nope", "template: :2: unclosed action"),
        ("{{ if .A }}x", "template: :1: unexpected EOF"),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ else }}", "template: :1: unexpected {{else}}"),
        ("{{ }}", "template: :1: missing value for command"),
        ("{{ if }}a{{ end }}", "template: :1: missing value for if"),
        ("{{ range }}{{ end }}", "template: :1: missing value for range"),
        ("{{ foo }}", 'template: :1: function "foo" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ('{{ "a', "template: :1: unterminated quoted string"),
        ("{{ .A } }}", 'template: :1: unexpected "}" in operand'),
        ("{{ .A ) }}", "template: :1: unexpected right paren"),
        ("{{ ( .A }}", "template: :1: unclosed left paren"),
        ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
        ("{{ template }}", 'template: :1: unexpected "}}" in template clause'),
        ("{{ 1a }}", 'template: :1: bad number syntax: "1a"'),
        ("{{ .A.B. }}", "template: :1: unexpected <.> in operand"),
    ],
)
def test_parse_errors_have_the_text_of_go(text: str, message: str) -> None:
    with pytest.raises(GoError) as caught:
        parse_template(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ .Prompt.X }}", '1:10: executing "" at <.Prompt.X>: can\'t evaluate field X in type interface {}'),
        ("a\n{{ .None.X }}", '2:8: executing "" at <.None.X>: nil pointer evaluating interface {}.X'),
        ("{{ range .Prompt }}x{{ end }}", '1:9: executing "" at <.Prompt>: range can\'t iterate over tell me'),
        ("{{ nil }}", '1:3: executing "" at <nil>: nil is not a command'),
        (
            "{{ eq .Prompt 5 }}",
            '1:3: executing "" at <eq .Prompt 5>: error calling eq: incompatible types for comparison: string and int',
        ),
        ('{{ template "x" . }}', '1:12: executing "" at <{{template "x" .}}>: template "x" not defined'),
    ],
)
def test_errors_while_running_have_the_text_of_go(text: str, message: str) -> None:
    with pytest.raises(GoError) as caught:
        execute(parse_template(text), DATA)
    assert str(caught.value) == f"template: :{message}"


def test_the_names_of_a_template_are_known() -> None:
    template = parse_template(
        "{{ if .Suffix }}{{ .Prompt }}{{ else }}{{ range $.Messages }}{{ .Role }}{{ end }}{{ end }}"
    )
    assert {"suffix", "prompt", "messages", "role"} <= template.names()
