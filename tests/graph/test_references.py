"""The grammar of the dollar sign."""

from __future__ import annotations

import pytest

from latentgraph.graph.references import BadReference, ParamReference, Reference, Template, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ""),
        ("plain", "plain"),
        ("$node", Reference("node")),
        ("$node.port", Reference("node", "port")),
        ("$a-b_1.c-d", Reference("a-b_1", "c-d")),
        ("$params.x", ParamReference("x")),
        ("${params.x}", Template(("", ""), ("x",))),
        ("a ${params.x} b ${ params.y }!", Template(("a ", " b ", "!"), ("x", "y"))),
        ("$$", "$"),
        ("$$node", "$node"),
        ("costs 5$", "costs 5$"),
        ("5 $ and $node", "5 $ and $node"),
        ("a $$ b", "a $ b"),
        ("$${params.x}", "${params.x}"),
        ("$$${params.x}", Template(("$", ""), ("x",))),
    ],
)
def test_a_text_stands_for_a_link_a_parameter_a_filled_text_or_itself(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("$", "'$' begins with a dollar but is no link"),
        ("$ node", "begins with a dollar but is no link"),
        ("$node.", "begins with a dollar but is no link"),
        ("$node.a.b", "begins with a dollar but is no link"),
        ("$1", "begins with a dollar but is no link"),
        ("$node\n", "begins with a dollar but is no link"),
        ("$params", "'$params' names no parameter; write $params.name"),
        ("${node}", "'${node}' inside a text is no parameter"),
        ("a ${node.port}", "only ${params.name} can stand there"),
        ("${params.}", "is no parameter"),
        ("${}", "is no parameter"),
    ],
)
def test_what_is_neither_says_how_to_write_it(text: str, words: str) -> None:
    with pytest.raises(BadReference) as caught:
        parse_value(text)
    assert words in str(caught.value)


def test_a_reference_prints_as_it_is_written() -> None:
    assert [str(Reference("a")), str(Reference("a", "b"))] == ["$a", "$a.b"]
