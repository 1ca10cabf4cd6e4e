"""Write the report's three files, each whole or not at all, and read a report back."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from secateur.artifacts import Summary
from secateur.errors import StorageError
from secateur.report.gates import ORIGINAL, network_intervals
from secateur.report.html import render_html
from secateur.report.markdown import render_markdown
from secateur.storage import write

REPORT = "report.json"
"""The report as data."""


def write_report(
    summary: Summary,
    folder: Path,
    pictures: Sequence[tuple[str, np.ndarray]] = (),
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Path:
    """Write report.html, report.md and report.json into a folder and return the path of the first.

    Args:
        summary: the run.
        folder: where to; made where it is absent.
        pictures: captions and RGB pictures, uint8 [height, width, 3], for the HTML.
        num_resamples: resamples of the metrics' intervals; what `quantities` was given, so that both print the same.
        seed: seed of the resamples, likewise.

    Raises:
        StorageError: the folder cannot be written; files that were there stay as they were.
        DataError: a picture or an evaluation of the wrong kind.
    """
    evaluations = summary.evaluations
    intervals = (
        network_intervals(evaluations, num_resamples=num_resamples, seed=seed) if ORIGINAL in evaluations else {}
    )
    contents = {
        REPORT: summary_json(summary),
        "report.md": render_markdown(summary, intervals),
        "report.html": render_html(summary, intervals, pictures),
    }
    for name, text in contents.items():
        write(folder / name, text.encode())
    return folder / "report.html"


def read_summary(path: Path) -> Summary:
    """Read a report.json back; raises `StorageError` where it is absent or damaged."""
    try:
        return Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise StorageError(
            str(path), f"no readable file ({error.strerror})", "the report.json of a run", "Check the path."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StorageError(
            str(path), f"{place}: {first['msg']}", "a report.json as this version writes it",
            "Run the recipe again; finished steps are reused.",
        ) from error  # fmt: skip


def summary_json(summary: Summary) -> str:
    """Return the summary as JSON, indented, with arrays of numbers on one line each."""
    text = summary.model_dump_json(indent=1)
    # A raw line break stands between tokens only, never inside a JSON string, so nothing but layout changes.
    return re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"
