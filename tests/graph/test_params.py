"""Parameters: declared short or long, checked, bound, and read from a shell's text."""

from __future__ import annotations

from typing import Any

import pytest

from latentgraph.graph import Document, InvalidWorkflow, Param, build_graph, parse_document

from .fakes import REGISTRY, graph_of

NODES = "nodes: {a: {type: Constant}}\noutputs: {x: $a}"


def document(params: str) -> Document:
    return parse_document(f"latentgraph: 1\nparams: {params}\n{NODES}")


def problems(params: str) -> list[str]:
    return [str(problem).removeprefix("<document>:") for problem in document(params).problems]


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("7", "integer"),
        ("0.5", "number"),
        ("text", "string"),
        ("true", "boolean"),
        ("[1, 2]", "list"),
        ("{default: 3}", "integer"),
        ("{type: seed}", "seed"),
        ("{type: image_file}", "image_file"),
    ],
)
def test_the_type_follows_from_the_default_or_is_stated(declared: str, kind: str) -> None:
    found = document(f"{{p: {declared}}}")
    assert not found.problems
    assert found.params["p"].type == kind


def test_a_whole_number_that_is_called_seed_is_one() -> None:
    assert document("{seed: 7}").params["seed"].type == "seed"
    assert problems("{seed: -1}") == [
        "2:16: error: parameter 'seed': the default is -1; expected a whole number from 0 to 18446744073709551615. "
        "[out-of-range]"
    ]


REFUSED = {
    "{p: null}": "2:13: error: parameter 'p': the default is null; write text, a number, true, false or a list, or give a "
    "type. [wrong-type]",
    "{p: {type: strin}}": "2:20: error: parameter 'p': the type is \"strin\"; known: boolean, checkpoint_file, image_file, "
    "integer, list, mask_file, number, seed, string. Did you mean 'string'? [not-in-list]",
    "{p: {}}": "2:13: error: parameter 'p': there is no type; known: boolean, checkpoint_file, image_file, integer, list, "
    "mask_file, number, seed, string. [not-in-list]",
    "{p: {type: integer, default: x}}": "2:13: error: parameter 'p': the default is \"x\"; expected a whole number. "
    "[wrong-type]",
    "{p: {type: integer, default: true}}": "2:13: error: parameter 'p': the default is true; expected a whole number. "
    "[wrong-type]",
    "{p: {type: integer, default: 5, max: 4}}": "2:13: error: parameter 'p': the default is 5; expected a whole number of at "
    "most 4. [out-of-range]",
    "{p: {type: integer, min: 1, max: 4, multiple_of: 2, default: 3}}": "2:13: error: parameter 'p': the default is 3; "
    "expected a whole number of at least 1 and at most 4, a multiple of 2. [out-of-range]",
    "{p: {type: number, default: .nan}}": "2:13: error: parameter 'p': the default is NaN; expected a number. [out-of-range]",
    "{p: {type: string, choices: [a, b], default: c}}": "2:13: error: parameter 'p': the default is \"c\"; expected one of "
    '"a", "b". [not-in-list]',
    "{p: {type: string, choices: []}}": "2:13: error: parameter 'p': 'choices' is []; expected a list with something in it. "
    "[wrong-type]",
    "{p: {type: number, min: x}}": "2:13: error: parameter 'p': 'min' is \"x\"; expected a number. [wrong-type]",
    "{p: {type: number, multiple_of: 0}}": "2:13: error: parameter 'p': 'multiple_of' must be above 0. [wrong-type]",
    "{p: {type: number, minimum: 0}}": "2:28: error: parameter 'p': unknown key 'minimum'; known: choices, default, "
    "description, max, min, multiple_of, type. Did you mean 'min'? [unknown-key]",
    "{1p: 3}": "2:10: error: parameter '1p' has a name that can't be linked to; expected letters, digits, '_' and '-', "
    "beginning with a letter. [bad-name]",
}


@pytest.mark.parametrize("params", REFUSED)
def test_a_wrong_declaration_says_where_and_what_was_expected(params: str) -> None:
    assert problems(params) == [REFUSED[params]]


def given(params: str, values: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        build_graph(document(params), REGISTRY, params=values)
    return [f"{problem.code}: {problem.message}" for problem in caught.value.problems]


def test_given_values_are_checked_against_the_declaration() -> None:
    assert given("{steps: 5}", {"step": 3}) == ["unknown-param: there is no parameter 'step'; known: steps."]
    assert given("{steps: 5}", {"steps": "x"}) == ["wrong-type: parameter 'steps' is \"x\"; expected a whole number."]
    assert given("{p: {type: string}}", {}) == [
        "missing-param: parameter 'p' has no default and was not given; expected text."
    ]
    assert given("{p: {type: string, description: What to paint.}}", {}) == [
        "missing-param: parameter 'p' has no default and was not given: What to paint. Expected text."
    ]
    assert given("{p: {type: Number}}", {"p": 1})[0] == (
        "wrong-type: parameter 'p' takes a Number, which only a document that uses this one can give it."
    )


def test_decimal_steps_are_exact() -> None:
    param = Param("p", "number", multiple_of=0.1)
    assert [param.check(value) for value in (0.3, 0.7, 1, 1e300, 10**400)] == [None] * 5
    assert param.check(0.35) == "out-of-range"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "7", 7),
        ("seed", "7", 7),
        ("number", "1e3", 1000.0),
        ("boolean", "Yes", True),
        ("boolean", "0", False),
        ("string", "7", "7"),
        ("integer", "x", "x"),
        ("boolean", "maybe", "maybe"),
        ("image_file", "a.png", "a.png"),
    ],
)
def test_a_text_from_a_shell_becomes_the_value_or_stays_text_for_the_check(kind: str, text: str, value: object) -> None:
    assert Param("p", kind).from_text(text) == value


def test_parameters_reach_inputs_whole_or_within_a_text() -> None:
    graph = graph_of(
        "params: {s: red, n: 3, l: [1, 2], f: 2.5, b: true}\n"
        'nodes: {a: {type: Kinds, word: "a ${params.s} ${params.n} ${params.f} ${params.b} ${params.l}", count: $params.n, '
        "sizes: $params.l, flag: $params.b}}\noutputs: {x: $a}",
        params={"n": 4},
    )
    literals = graph.nodes["a"].literals
    assert (literals["word"], literals["count"], literals["sizes"]) == ("a red 4 2.5 true [1, 2]", 4, [1, 2])
    assert graph.params["n"] == 4


def test_a_dollar_in_a_parameter_is_a_dollar() -> None:
    graph = graph_of("params: {s: x}\nnodes: {a: {type: Kinds, word: $params.s}}\noutputs: {x: $a}", params={"s": "$a"})
    assert graph.nodes["a"].literals["word"] == "$a"


def test_a_problem_of_a_parameter_names_it_for_programs() -> None:
    found = document("{a: {type: integer, min: 1}, b: {type: integer, default: x}, c: {type: image_file}}")
    with pytest.raises(InvalidWorkflow) as refused:
        build_graph(found, REGISTRY, params={"a": 0, "d": 1})
    told = {(problem.code, problem.param) for problem in refused.value.problems}
    assert told == {("out-of-range", "a"), ("wrong-type", "b"), ("missing-param", "c"), ("unknown-param", "d")}
