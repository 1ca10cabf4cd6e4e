"""The report in a real browser: no error, the numbers of report.json, both colour schemes, plots that answer."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateur.artifacts import Summary
from secateur.report.formatting import ratio, significant
from secateur.report.write import read_summary, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"no browser: none of {', '.join(NAMES)} is installed")

PROBE = """
<script>
window.addEventListener("error", (event) => { document.body.dataset.failed = event.message; });
window.addEventListener("load", () => {
  const found = {}, tip = document.getElementById("tip");
  const marks = [...document.querySelectorAll(".tip")];
  found.marks = marks.length;
  const dot = document.querySelector("#theory .tip");
  dot.dispatchEvent(new MouseEvent("mousemove", { clientX: 200, clientY: 200 }));
  found.tip = tip.textContent;
  found.shown = tip.classList.contains("shown");
  dot.dispatchEvent(new MouseEvent("mouseleave"));
  found.hidden = !tip.classList.contains("shown");
  const paint = () => getComputedStyle(document.body).backgroundColor;
  found.first = paint();
  document.getElementById("mode").click();
  found.second = paint();
  document.getElementById("mode").click();
  found.third = paint();
  const table = [...document.querySelectorAll("#theory details table")].at(-1);
  const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "Measured");
  table.tHead.rows[0].cells[column].click();
  found.sorted = [...table.tBodies[0].rows].map((row) => row.cells[column].textContent);
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


class Shown(HTMLParser):
    """Collects the text of a page, without its script and style, and what the body carries."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.body: dict[str, str | None] = {}
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in ("script", "style")
        if tag == "body":
            self.body = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.texts.append(data)


def browse(page: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={home}", "--window-size=1200,1600", "--enable-logging=stderr", "--v=0",
        "--virtual-time-budget=3000", *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def folder(small: Summary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsed")
    html = write_report(small, folder, num_resamples=100)
    probed = html.read_text().replace("</body>", f"{PROBE}</body>")
    (folder / "probed.html").write_text(probed)
    return folder


def test_the_page_shows_the_numbers_of_the_json_and_answers(folder: Path, tmp_path: Path) -> None:
    seen = browse(folder / "probed.html", tmp_path, "--dump-dom")
    assert "CONSOLE" not in seen.stderr, re.findall(r".*CONSOLE.*", seen.stderr)
    shown = Shown()
    shown.feed(seen.stdout)
    assert "data-failed" not in shown.body
    text = " ".join(" ".join(shown.texts).split())
    summary = read_summary(folder / "report.json")
    speedup = summary.comparison.speedup
    numbers = [
        ratio(speedup.value), ratio(summary.mac_ratio), significant(speedup.low), significant(speedup.high),
        significant(summary.evaluations["compressed"].metrics["auc"]), summary.verdict.verdict.upper(),
        *(finding.told for finding in summary.practice.findings),
    ]  # fmt: skip
    assert [number for number in numbers if number not in text] == []
    found = json.loads(str(shown.body["data-found"]))
    assert found["marks"] > 30
    assert "multiply-adds" in found["tip"]
    assert found["shown"]
    assert found["hidden"]
    assert found["first"] == found["third"] != found["second"], "the button changes light and dark"
    assert found["wide"], "the page is no wider than its window"
    ends = [float(cell.split("→ ")[-1].split()[0]) for cell in found["sorted"]]
    assert ends == sorted(ends, reverse=True)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_follows_the_readers_colour_scheme(folder: Path, tmp_path: Path, scheme: str, dark: bool) -> None:
    picture = tmp_path / f"{scheme}.png"
    preference = "--blink-settings=preferredColorScheme=0" if dark else "--blink-settings=preferredColorScheme=1"
    seen = browse(folder / "report.html", tmp_path / "home", f"--screenshot={picture}", preference)
    assert "CONSOLE" not in seen.stderr
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=np.float64)
    assert (float(np.median(pixels)) < 80) == dark
    assert pixels.std() > 15, "something is drawn"
