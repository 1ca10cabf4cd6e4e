"""Write a verdict as JUnit XML, which CI systems show as tests: one test case a gate."""

from datetime import datetime
from xml.etree import ElementTree

from secateur.artifacts import GateResult, Summary
from secateur.report.formatting import requirement, span
from secateur.report.tables.outcome import meaning

OUTCOMES = {"fail": "failure", "undecided": "error"}
"""The element of a gate that did not pass.

Undecided is an error and not skipped: CI systems take a suite with skipped cases for a passed one, and a gate that
could not be decided must not let a release through.
"""


def junit_xml(summary: Summary, *, when: datetime, host: str = "localhost") -> bytes:
    """Return the gates as a ``<testsuites>`` document with one suite.

    Attributes and their order are those that the schemas of Ant's JUnit task, Jenkins and GitLab have in common.

    Args:
        summary: the run with its verdict.
        when: the time of the judgement; printed without its zone, as the schema wants it.
        host: the machine of the judgement.
    """
    gates = summary.verdict.gates
    counts = {kind: sum(OUTCOMES.get(gate.verdict) == kind for gate in gates) for kind in ("failure", "error")}
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root, "testsuite", name=f"secateur.{summary.name}", package="secateur", id="0", hostname=host,
        timestamp=when.strftime("%Y-%m-%dT%H:%M:%S"), tests=str(len(gates)), failures=str(counts["failure"]),
        errors=str(counts["error"]), skipped="0", time="0",
    )  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"verdict": summary.verdict.verdict, "secateur": summary.version, "backend": summary.comparison.backend}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for gate in gates:
        _case(suite, summary.name, gate)
    ElementTree.SubElement(suite, "system-out").text = "".join(f"{_told(gate)}\n" for gate in gates)
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _case(suite: ElementTree.Element, run: str, gate: GateResult) -> None:
    """Add a gate; the line is part of its name, so that two gates on one quantity stay apart."""
    wanted = requirement(gate.quantity, gate.at_least, gate.at_most)
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"secateur.{run}", name=f"{gate.quantity} {wanted}", time="0"
    )
    kind = OUTCOMES.get(gate.verdict)
    if kind is not None:
        inside = ElementTree.SubElement(case, kind, message=_told(gate), type=f"secateur.{gate.verdict}")
        inside.text = f"{gate.quantity}: {meaning(gate.quantity)}"


def _told(gate: GateResult) -> str:
    wanted = requirement(gate.quantity, gate.at_least, gate.at_most)
    settled = "the interval straddles the line; " if gate.verdict == "undecided" else ""
    return f"{gate.verdict}: {settled}{gate.quantity} is {span(gate.quantity, gate.measured)}, required is {wanted}"
