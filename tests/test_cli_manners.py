"""How the command line behaves, whatever the verb: widths, colours, progress, completion, Ctrl-C."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from secateur import cli
from secateur.report.console import rich_table
from secateur.report.tables.table import Table
from secateur.terminal import Terminal

VERBS = sorted(typer.main.get_command(cli.app).commands)
ESCAPE, COLOUR = "\x1b", re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[;m]")
VERDICT = Table(title="", header=("Verdict",), rows=(("PASS",),))


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_eighty_columns_in_plain_text_and_ends_with_an_example(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(cli.app, [verb, "--help"])
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines())) <= 80
    assert f"Example: secateur {verb}" in shown.output
    assert ESCAPE not in shown.output


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(variables: dict[str, str], coloured: bool) -> None:
    def shown(terminal: bool) -> str:
        console = Console(
            file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm-256color", **variables}, width=80
        )
        console.print(rich_table(VERDICT))
        return console.file.getvalue()

    assert bool(COLOUR.search(shown(terminal=True))) == coloured
    assert ESCAPE not in shown(terminal=False)


def test_results_and_progress_are_plain_text_where_nobody_looks() -> None:
    """The consoles of the command line leave it to the place they write to, as a fresh process shows."""
    asked = "[(c._force_terminal, c._width, c.legacy_windows) for c in (options.out, options.err)]"
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    found = subprocess.run(
        [sys.executable, "-c", f"from secateur.cli import options; print({asked})"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str([(None, None, False)] * 2)


def heard(terminal: bool, *steps: tuple[int, int]) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, _environ={"TERM": "xterm-256color"}, width=80)
    with Terminal(console) as bar:
        bar.step("finetune")
        for done, total in steps:
            bar.progress("epochs", done, total)
            bar._bar.refresh()
        bar.message("[1] a message")
        bar.done("finetune", reused=False, duration_s=1.0)
    return console.file.getvalue()


def test_a_terminal_gets_a_bar_with_the_time_that_is_left() -> None:
    shown = heard(True, (0, 4), (1, 4), (2, 4))
    assert "2/4" in shown
    assert re.search(r"\d:\d\d:\d\d", shown), "the time that is left"
    assert "[1] a message" in shown


def test_a_bar_without_an_end_counts() -> None:
    assert re.search(r"3/\s*\?", heard(True, (1, 0), (3, 0)))
    assert "epochs" not in heard(False, (1, 0), (3, 0)), "a line every ten seconds, and none for the end"


def test_a_log_gets_a_line_at_the_end_and_no_bar() -> None:
    shown = heard(False, (1, 4), (2, 4), (4, 4))
    assert [line.strip() for line in shown.splitlines()] == ["finetune", "epochs: 4 of 4", "[1] a message", "1.0 s"]


@pytest.mark.parametrize("verb", VERBS)
def test_interrupted_verbs_say_whether_they_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(sys, "argv", ["secateur", verb])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == cli.COULD_NOT_RUN
    assert ("finished steps are kept" in capsys.readouterr().err) == (verb in {"run", "sweep", "estimate"})


@pytest.fixture(scope="module")
def path_with_secateur(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path on which this very checkout is called secateur."""
    folder = tmp_path_factory.mktemp("bin")
    code = "import sys; sys.argv[0] = 'secateur'; from secateur.cli import main; main()"
    (folder / "secateur").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    (folder / "secateur").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(["be"], {"bench"}), (["c"], {"check", "compare"}), (["bench", "--ba"], {"--backend", "--batch"}),
     (["verify", "--par"], {"--parity"})],
)  # fmt: skip
def test_bash_completes_verbs_and_options(path_with_secateur: str, words: list[str], wanted: set[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    typed = " ".join(["secateur", *words])
    lines = [
        'eval "$(_SECATEUR_COMPLETE=source_bash secateur)"',
        "complete -p secateur >&2",
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}; COMP_LINE='{typed}'; COMP_POINT={len(typed)}",
        "_secateur_completion secateur",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": path_with_secateur, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert "_secateur_completion secateur" in done.stderr
    assert set(done.stdout.split()) == wanted
