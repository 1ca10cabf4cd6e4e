"""The three files: complete, self-contained, safe with any name, whole or not at all."""

import base64
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateur.artifacts import EngineResult, FinetuneResult, Redundancy, Summary
from secateur.errors import DataError, StorageError
from secateur.report.gates import Gate, network_intervals
from secateur.report.html import render_html
from secateur.report.markdown import render_markdown
from secateur.report.write import read_summary, summary_json, write_report

LOADING = {"src", "href", "xlink:href", "data", "srcset", "action", "poster", "background", "cite"}
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects what a browser would load, the elements, the text, and whether elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.elements: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in LOADING]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def picture(height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(summary: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = write_report(summary, tmp_path_factory.mktemp("run") / "deep", [("first", picture())], num_resamples=300)
    assert written.name == "report.html"
    return written.parent


def test_nothing_else_is_left_in_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]


def test_the_summary_comes_back_from_json(summary: Summary, folder: Path) -> None:
    assert read_summary(folder / "report.json") == summary


def test_infinite_and_undefined_numbers_come_back(small: Summary) -> None:
    odd = small.model_copy(update={"facts": {"a": math.inf, "b": -math.inf, "c": math.nan}, "data": "[1,  2]\n[3]"})
    back = Summary.model_validate_json(summary_json(odd))
    assert (back.facts["a"], back.facts["b"], back.data) == (math.inf, -math.inf, "[1,  2]\n[3]")
    assert math.isnan(back.facts["c"])


def test_samples_stand_on_one_line(folder: Path, summary: Summary) -> None:
    text = (folder / "report.json").read_text()
    assert text.count("\n") < 8000 < summary.evaluations["original"].num_samples * 3 * 3 + 12_000
    assert json.loads(text)["name"] == summary.name


def test_the_page_loads_nothing(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    page = parse(html)
    assert page.elements.count("script") == 1
    assert "<script>" in html, "the script is the page's own"
    assert "link" not in page.elements
    assert "iframe" not in page.elements
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert re.search(r"https?://", html) is None


def test_ids_are_unique_and_links_lead_somewhere(folder: Path) -> None:
    page = parse((folder / "report.html").read_text())
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)


def test_both_colour_schemes_are_defined(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    light, dark = html.split("@media (prefers-color-scheme: dark)")
    used = set(re.findall(r"var\((--[a-z-]+)\)", html)) - {"--tone", "--soft"}
    assert used
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark[: dark.index("} }")]


def test_everything_is_named(folder: Path, summary: Summary) -> None:
    html, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    shown = "\n".join(parse(html).texts)
    for text in (shown, markdown):
        assert "2.7x faster (95 % interval 2.6-2.8) on ONNX Runtime" in text
        for gate in summary.verdict.gates:
            assert gate.quantity in text
        for name in (*summary.prune.widths_before, *summary.evaluations["original"].metrics, *summary.durations_s):
            assert name in text
        assert "no NVIDIA GPU is visible: nvidia-smi is absent" in text
        assert "decoder.head.2.weight" in text
        assert "network output" in text
        assert summary.comparison.machine.cpu.split("(")[0] in text
    assert "my_networks:gaze" in shown


def test_pictures_are_embedded_exactly(bare: Summary, tmp_path: Path) -> None:
    drawn = picture()
    html = write_report(bare, tmp_path, [("<b>caption</b>", drawn)], num_resamples=50).read_text()
    data = next(a for a in parse(html).addresses if a.startswith("data:")).partition(",")[2]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), drawn)
    assert "&lt;b&gt;caption&lt;/b&gt;" in html
    assert "<b>caption" not in html


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_other_pictures_are_refused(bare: Summary, tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"picture 'odd': .*wanted uint8 \[height, width, 3\]"):
        write_report(bare, tmp_path, [("odd", bad)], num_resamples=50)
    assert list(tmp_path.iterdir()) == []


def hostile(summary: Summary) -> Summary:
    evil = "<script>alert('x')</script>|*_`"
    prune = summary.prune
    name = next(iter(prune.widths_before))
    renamed = {
        field: {(evil if key == name else key): value for key, value in getattr(prune, field).items()}
        for field in ("widths_before", "widths_after", "floors", "blocks")
    }
    pinned = tuple(one.model_copy(update={"reason": evil, "module": evil}) for one in prune.pinned)
    engine = EngineResult(backend=evil, backend_version=evil, status="skipped", reason=evil, options={evil: evil})
    machine = summary.comparison.machine.model_copy(update={"cpu": evil, "gpus": (evil,), "versions": {evil: evil}})
    groups = tuple(group.model_copy(update={"name": evil, "block": evil}) for group in summary.redundancy.groups[:3])
    return summary.model_copy(
        update={
            "name": evil, "task": evil, "data": evil, "facts": {evil: 1.0}, "version": evil, "durations_s": {evil: 1.0},
            "recipe": {evil: [evil]}, "prune": prune.model_copy(update={**renamed, "pinned": pinned}),
            "engines": {evil: (engine,)},
            "comparison": summary.comparison.model_copy(
                update={"machine": machine, "backend": evil, "stopped_by": evil, "warnings": (evil,)}
            ),
            "redundancy": summary.redundancy.model_copy(update={"groups": groups}),
        }
    )  # fmt: skip


def test_names_of_users_are_never_markup(small: Summary) -> None:
    changed = hostile(small)
    intervals = network_intervals(changed.evaluations, num_resamples=50)
    html = render_html(changed, intervals, [(changed.name, picture())])
    assert parse(html).elements.count("script") == 1, "the page's own"
    assert html.lower().count("<script") == 1
    assert "<script" not in render_markdown(changed, intervals)
    check_markdown(render_markdown(changed, intervals))


def check_markdown(text: str) -> int:
    """Check that every table's rows have as many cells as its header; return the number of tables."""
    tables = 0
    width = 0
    for line in text.splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        if not width:
            tables += 1
        assert cells == width or not width, line
        width = cells
    return tables


def test_markdown_tables_are_well_formed(folder: Path) -> None:
    text = (folder / "report.md").read_text()
    assert check_markdown(text) >= 12
    assert text.index("PASS") < text.index("## Gates") < text.index("## Key figures")


def test_a_run_without_pruning_or_training_is_reported(small: Summary, tmp_path: Path) -> None:
    prune = small.prune.model_copy(
        update={"widths_before": {}, "widths_after": {}, "floors": {}, "blocks": {}, "rounds": (), "pinned": ()}
    )
    empty = small.model_copy(
        update={
            "prune": prune, "finetune": FinetuneResult(epochs=(), best_epoch=0), "engines": {}, "facts": {}, "data": "",
            "redundancy": Redundancy(
                tau=0.01, labels="true", num_samples=4, groups=(), macs=10, macs_effective=10, parameters=5,
                parameters_effective=5,
            ),
            "evaluations": {}, "exports": {}, "recipe": {}, "durations_s": {},
            "comparison": small.comparison.model_copy(update={"samples_s": {"baseline": (), "candidate": ()}}),
        }
    )  # fmt: skip
    html = write_report(empty, tmp_path, num_resamples=50).read_text()
    parse(html)
    assert "No engine was built." in html
    check_markdown((tmp_path / "report.md").read_text())


def test_rewriting_replaces_whole_files(bare: Summary, tmp_path: Path) -> None:
    for name in ("report.html", "report.md", "report.json"):
        (tmp_path / name).write_text("old" * 1_000_000 if name == "report.md" else "old")
    write_report(bare, tmp_path, num_resamples=50)
    assert read_summary(tmp_path / "report.json") == bare
    assert "oldold" not in (tmp_path / "report.md").read_text()


def test_a_file_in_the_way_is_a_storage_error(bare: Summary, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match=r"taken.*Check that it exists, that there is space left"):
        write_report(bare, tmp_path / "taken", num_resamples=50)


def test_a_failed_write_leaves_the_old_file_and_no_rest(bare: Summary, tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()  # what cannot be replaced by a file
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(StorageError, match=r"report\.md"):
        write_report(bare, tmp_path, num_resamples=50)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_a_damaged_or_absent_report_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no readable file"):
        read_summary(tmp_path / "report.json")
    (tmp_path / "report.json").write_text('{"name": 3')
    with pytest.raises(StorageError, match=r"wanted a report\.json as this version writes it"):
        read_summary(tmp_path / "report.json")


def test_undecided_runs_say_so(make_summary: Callable[..., Summary]) -> None:
    summary = make_summary(num_blocks=2, gates=(Gate(quantity="speedup", at_least=2.7),))
    html = render_html(summary, network_intervals(summary.evaluations, num_resamples=50))
    assert 'class="verdict undecided"' in html
    assert "does not settle whether it is at least 2.7x" in html
