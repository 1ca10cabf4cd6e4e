"""Judge a finished run by another policy: what was measured is read from its folder, nothing is run again."""

import socket
from datetime import UTC, datetime
from pathlib import Path

from secateur.artifacts import Summary
from secateur.manifest import MANIFEST, read_manifest
from secateur.recipe import Policy
from secateur.report.gates import check_gates, judge, quantities_of, with_defaults
from secateur.report.junit import junit_xml
from secateur.report.markdown import render_verdict
from secateur.report.write import REPORT, read_summary
from secateur.storage import read, sha256
from secateur.storage import write as write_file


def read_run(folder: Path) -> Summary:
    """Read what a finished run found.

    Raises:
        StorageError: the folder holds no finished run, or its report is not the one that the manifest seals.
    """
    manifest = read_manifest(folder)
    manifest.require(REPORT, sha256(read(folder / REPORT)), folder / MANIFEST)
    return read_summary(folder / REPORT)


def judge_run(folder: Path, policy: Policy | None = None) -> Summary:
    """Return a finished run with the verdict of a policy, or with its own where there is none.

    Intervals are drawn with the run's own seed, so that its own gates give its own verdict.

    Raises:
        StorageError: see `read_run`.
        RecipeError: a gate on something that the run did not measure.
    """
    summary = read_run(folder)
    if policy is None:
        return summary
    check_gates(
        policy.gates, summary.evaluations["compressed"].metrics, quantized=summary.quantized_comparison is not None
    )
    verdict = judge(quantities_of(summary, seed=int(summary.recipe["seed"])), with_defaults(policy.gates))
    return summary.model_copy(update={"verdict": verdict})


def write_verdict(summary: Summary, *, junit: Path | None = None, markdown: Path | None = None) -> None:
    """Write a verdict for a CI system: JUnit XML, Markdown, or both; raises `StorageError`."""
    if junit is not None:
        write_file(junit, junit_xml(summary, when=datetime.now(UTC), host=socket.gethostname() or "localhost"))
    if markdown is not None:
        write_file(markdown, render_verdict(summary).encode())
