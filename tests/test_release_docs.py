"""Command lines in help, docs and CI files are what the command line takes; CI files are valid; exit codes are told."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from secateur import cli
from secateur.recipe_file import read_policy
from secateur.report.gates import check_gates

ROOT = Path(__file__).parents[1]
CI = ROOT / "docs" / "ci"
GROUP = typer.main.get_command(cli.app)


def accepted(line: str) -> None:
    """Have the real command line parse a line, verb and options, without running the verb."""
    words = shlex.split(line, comments=True)
    assert words[0] == "secateur"
    verb, arguments = words[1], words[2:]
    command = GROUP.commands[verb]
    command.make_context(verb, arguments, parent=GROUP.make_context("secateur", [verb, *arguments]))


def commands_of(value: Any) -> list[str]:
    """Return every line of a nest of lists and mappings that calls secateur."""
    if isinstance(value, dict):
        return [line for below in value.values() for line in commands_of(below)]
    if isinstance(value, list):
        return [line for below in value for line in commands_of(below)]
    return [line for line in str(value).splitlines() if line.startswith("secateur ")]


@pytest.mark.parametrize(
    "line", ["secateur run", "secateur gate a --polcy b", "secateur sweep a", "secateur verify a b"]
)
def test_a_wrong_line_is_refused(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)missing|no such option|unexpected"):
        accepted(line)


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_ci_files_parse_and_their_command_lines_are_accepted(name: str) -> None:
    lines = commands_of(yaml.safe_load((CI / name).read_text()))
    assert {line.split()[1] for line in lines} >= {"run", "verify"}
    for line in lines:
        accepted(line)


def test_the_github_workflow_has_what_github_asks_for() -> None:
    workflow = yaml.safe_load((CI / "github.yml").read_text())
    assert {"name", True, "jobs"} <= workflow.keys()  # YAML 1.1 reads the key `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_the_gitlab_jobs_belong_to_stages_and_publish_the_gates() -> None:
    pipeline = yaml.safe_load((CI / "gitlab.yml").read_text())
    jobs = {name: job for name, job in pipeline.items() if name != "stages"}
    assert [job["stage"] for job in jobs.values()] == pipeline["stages"]
    assert jobs["release"]["artifacts"]["reports"]["junit"] in " ".join(jobs["release"]["script"])
    assert set(jobs["compress"]["allow_failure"]["exit_codes"]) == {1, 3}


def test_the_example_policy_is_one() -> None:
    gates = read_policy(CI / "release.yaml").gates
    check_gates(gates, ["top1"])
    assert {gate.quantity for gate in gates} == {
        "speedup", "p99_s", "top1_drop", "size_bytes", "parity", "realised",
    }  # fmt: skip


@pytest.mark.parametrize("page", ["docs/release.md", "README.md"])
def test_command_lines_in_pages_are_accepted(page: str) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("secateur ")]
    assert lines
    for line in lines:
        accepted(line)


@pytest.mark.parametrize("verb", sorted(GROUP.commands))
def test_every_verb_shows_an_example_that_it_takes(verb: str) -> None:
    command = GROUP.commands[verb]
    example = str(command.epilog).removeprefix("Example: ")
    assert example.split()[:2] == ["secateur", verb]
    accepted(example)
    assert command.help


@pytest.mark.parametrize("verb", sorted({*GROUP.commands} - {"init", "schema", "triton", "unpack"}))
def test_verbs_that_print_results_print_json(verb: str) -> None:
    assert any("--json" in option.opts for option in GROUP.commands[verb].params)


@pytest.mark.parametrize("verb", ["run", "sweep", "estimate", "verify", "bench", "gaze"])
def test_verbs_that_take_long_can_be_quiet(verb: str) -> None:
    assert any("--quiet" in option.opts for option in GROUP.commands[verb].params)
