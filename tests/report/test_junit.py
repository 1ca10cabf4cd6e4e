"""JUnit XML as CI systems read it: the elements, attributes and order of the schema of Ant's JUnit task."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from secateur.artifacts import Summary
from secateur.report.gates import Gate
from secateur.report.junit import junit_xml
from secateur.report.markdown import render_verdict

WHEN = datetime(2031, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
TOKEN, COUNT, DECIMAL = r"\S(.*\S)?", r"\d+", r"\d+(\.\d+)?"
DETAIL = {"message": r".*", "type": r".+"}
ELEMENTS: dict[str, tuple[dict[str, str], str]] = {
    "testsuites": ({}, r"(testsuite )*"),
    "testsuite": (
        {
            "name": TOKEN, "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "hostname": TOKEN, "tests": COUNT,
            "failures": COUNT, "errors": COUNT, "skipped": COUNT, "time": DECIMAL, "package": TOKEN, "id": COUNT,
        },
        r"properties (testcase )*system-out system-err ",
    ),
    "properties": ({}, r"(property )*"),
    "property": ({"name": TOKEN, "value": r".*"}, r""),
    "testcase": ({"name": TOKEN, "classname": TOKEN, "time": DECIMAL}, r"((skipped|error|failure) )?"),
    "failure": (DETAIL, r""),
    "error": (DETAIL, r""),
    "system-out": ({}, r""),
    "system-err": ({}, r""),
}  # fmt: skip
"""What the schema asks of each element: its attributes, all of them here, and its children in order."""


def check(element: ElementTree.Element) -> None:
    attributes, children = ELEMENTS[element.tag]
    assert element.attrib.keys() == attributes.keys()
    for name, pattern in attributes.items():
        assert re.fullmatch(pattern, element.attrib[name], re.DOTALL), f"{element.tag}/@{name}"
    assert re.fullmatch(children, "".join(f"{child.tag} " for child in element)), element.tag
    for child in element:
        check(child)


LINES = {"pass": 1.0, "undecided": 2.7, "fail": 9.0}
"""Lines for a speed-up of which the interval is 2.63 to 2.75."""


def judged(make_summary: Callable[..., Summary], wanted: tuple[str, ...]) -> Summary:
    return make_summary(gates=[Gate(quantity="speedup", at_least=LINES[one]) for one in wanted], num_blocks=2)


@pytest.mark.parametrize(
    "wanted", [(), ("pass",), ("fail",), ("undecided",), ("pass", "undecided", "fail", "fail", "pass")]
)
def test_the_document_fits_the_schema_and_its_counts_are_right(
    make_summary: Callable[..., Summary], wanted: tuple[str, ...]
) -> None:
    summary = judged(make_summary, wanted)
    root = ElementTree.fromstring(junit_xml(summary, when=WHEN))
    check(root)
    (suite,) = root
    assert suite.get("timestamp") == "2031-02-03T04:05:06"
    cases = suite.findall("testcase")
    assert [gate.verdict for gate in summary.verdict.gates] == list(wanted)
    assert int(suite.get("tests")) == len(cases) == len(wanted)
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == wanted.count("fail")
    assert int(suite.get("errors")) == len(suite.findall("testcase/error")) == wanted.count("undecided")
    assert suite.get("skipped") == "0"
    for case, verdict in zip(cases, wanted, strict=True):
        assert [child.tag for child in case] == {"pass": [], "fail": ["failure"], "undecided": ["error"]}[verdict]


def test_every_gate_has_a_name_of_its_own(make_summary: Callable[..., Summary]) -> None:
    summary = judged(make_summary, ("pass", "undecided", "fail"))
    names = [case.get("name") for case in ElementTree.fromstring(junit_xml(summary, when=WHEN)).iter("testcase")]
    assert names == ["speedup at least 1x", "speedup at least 2.7x", "speedup at least 9x"]


def test_an_undecided_gate_is_an_error_that_says_why(make_summary: Callable[..., Summary]) -> None:
    summary = judged(make_summary, ("undecided",))
    (error,) = ElementTree.fromstring(junit_xml(summary, when=WHEN)).iter("error")
    assert "the interval straddles the line" in error.get("message")
    assert "required is at least 2.7x" in error.get("message")


def test_what_xml_reserves_is_escaped(make_summary: Callable[..., Summary]) -> None:
    summary = make_summary(name="a", num_blocks=2).model_copy(update={"version": "<&\"'>"})
    root = ElementTree.fromstring(junit_xml(summary, when=WHEN, host="a<b"))
    assert root[0].get("hostname") == "a<b"
    assert root.find(".//property[@name='secateur']").get("value") == "<&\"'>"


@pytest.mark.parametrize("wanted", [(), ("pass",), ("undecided", "fail")])
def test_the_markdown_says_the_verdict_the_reasons_and_every_gate(
    make_summary: Callable[..., Summary], wanted: tuple[str, ...]
) -> None:
    summary = judged(make_summary, wanted)
    text = render_verdict(summary)
    assert text.startswith(f"## {summary.name}: {summary.verdict.verdict.upper()}\n")
    rows = [line for line in text.splitlines() if line.startswith("| speedup")]
    assert [row.split(" | ")[3] for row in rows] == [verdict.upper() for verdict in wanted]
    assert ("required is at least 9x" in text) == ("fail" in wanted)
