"""A finished run is judged by other policies, verified file by file and compared; nothing is run again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import run_tiny
from typer.testing import CliRunner

from secateur.cli import app
from secateur.comparing import compare_runs, flattened, runs_table
from secateur.errors import RecipeError, StorageError
from secateur.judging import judge_run, read_run, write_verdict
from secateur.loading import importable
from secateur.manifest import MANIFEST, SBOM, read_manifest
from secateur.recipe import Call, Policy
from secateur.recipe_file import read_policy
from secateur.report.gates import Gate
from secateur.runs import open_run
from secateur.storage import file_sha256
from secateur.verify import verify


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    run_tiny(folder, "releasednet", trackers=[tracked(folder)])
    return folder


def tracked(folder: Path) -> Call:
    return Call(function="secateur.report.json_lines:JsonLines", arguments={"path": str(folder / "runs.jsonl")})


@pytest.fixture(scope="module")
def finished(project: Path) -> Path:
    return project / "runs" / "tiny"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (file_sha256(path), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def policy(folder: Path, text: str) -> Policy:
    path = folder / "policy.yaml"
    path.write_text(text)
    return read_policy(path)


def test_a_finished_run_is_told_to_the_recipes_trackers(project: Path, finished: Path) -> None:
    (told,) = [json.loads(line) for line in (project / "runs.jsonl").read_text().splitlines()]
    assert told["run"] == str(finished)
    assert told["figures"]["mac_ratio"] > 1.5


def test_the_runs_own_gates_give_the_runs_own_verdict(finished: Path) -> None:
    ran = read_run(finished)
    own = Policy(gates=[Gate.model_validate(gate) for gate in ran.recipe["gates"]])
    assert judge_run(finished).verdict == ran.verdict
    assert judge_run(finished, own).verdict == ran.verdict


@pytest.mark.parametrize(
    ("gate", "exit_code"),
    [
        ("{quantity: mac_ratio, at_least: 1.5}", 0),
        ("{quantity: mac_ratio, at_least: 50}", 1),
        ("{quantity: size_bytes, at_most: 1000000}", 0),
        ("{quantity: size_bytes, at_most: 10}", 1),
        ("{quantity: p99_s, at_most: 60}", 0),
        ("{quantity: p99_s, at_most: 1.0e-9}", 1),
        ("{quantity: top1_drop, at_most: 1}", 0),
        ("{quantity: top1_drop, at_most: -1}", 1),
        ("{quantity: parity, at_most: 0.001}", 0),
        ("{quantity: parity, at_most: 0}", 1),
        ("{quantity: realised, at_least: 9}", 1),
        ("{quantity: failed_engines, at_least: 1}", 1),
    ],
)
def test_a_policy_judges_and_the_run_stays_as_it_is(finished: Path, tmp_path: Path, gate: str, exit_code: int) -> None:
    before = tree(finished)
    judged = judge_run(finished, policy(tmp_path, f"gates: [{gate}]"))
    assert judged.verdict.exit_code == exit_code
    assert tree(finished) == before


def test_a_line_within_the_interval_is_undecided(finished: Path, tmp_path: Path) -> None:
    speedup = read_run(finished).comparison.speedup
    assert speedup.low < speedup.value < speedup.high
    judged = judge_run(finished, policy(tmp_path, f"gates: [{{quantity: speedup, at_least: {speedup.value}}}]"))
    assert judged.verdict.exit_code == 3
    write_verdict(judged, junit=tmp_path / "gates.xml", markdown=tmp_path / "gates.md")
    assert b'errors="1"' in (tmp_path / "gates.xml").read_bytes()
    assert "does not settle" in (tmp_path / "gates.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gates: [{quantity: speed, at_least: 1}]", "'speed'; wanted one of speedup"),
        ("gates: []", r"gates \(line 1\)"),
        ("gats: [{quantity: speedup, at_least: 1}]", "unknown key gats.*did you mean 'gates'"),
        ("gates:\n- {quantity: speedup}", "at_least, at_most or both"),
        ("- 1", "a mapping with gates"),
        ("gates: [", "YAML that cannot be read"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(finished: Path, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        judge_run(finished, policy(tmp_path, text))


def test_the_manifest_tells_everything(project: Path, finished: Path) -> None:
    manifest, ran = read_manifest(finished), read_run(finished)
    assert manifest.recipe == ran.recipe
    assert manifest.verdict == ran.verdict.verdict
    assert [stage.name for stage in manifest.steps] == [
        "estimate", "prune", "finetune", "evaluate", "export", "build", "measure", "gate",
    ]  # fmt: skip
    assert all(stage.duration_s > 0 and stage.numbers and stage.distributions["torch"] for stage in manifest.steps)
    assert manifest.stage("prune").numbers["macs_after"] == ran.prune.macs_after
    assert manifest.stage("evaluate").numbers["top1_compressed"] == ran.evaluations["compressed"].metrics["top1"]
    sealed = {artefact.path: artefact.sha256 for artefact in manifest.artefacts}
    assert sealed == {name: digest for name, (digest, _) in tree(finished).items() if name not in ("lock", MANIFEST)}


def test_the_lineage_leads_from_every_engine_to_the_original_weights(finished: Path) -> None:
    manifest, ran = read_manifest(finished), read_run(finished)
    links = {link.what: link for link in manifest.lineage}
    assert len(links) == len(manifest.lineage)
    sealed = {artefact.path: artefact.sha256 for artefact in manifest.artefacts}
    engines = [link for link in manifest.lineage if "/onnxruntime/" in link.what]
    assert {link.sha256 for link in engines} == {e.sha256 for built in ran.engines.values() for e in built}
    for link in engines:
        path = [link]
        while path[-1].parents and len(path) <= len(links):
            assert sealed[path[-1].what] == path[-1].sha256
            path.append(links[path[-1].parents[0]])
        assert path[-1].sha256 == manifest.origin.weights_sha256
        assert len(path) == (5 if "compressed" in link.what else 3)


def test_the_bill_of_materials_is_valid_and_lists_what_was_used(finished: Path) -> None:
    pytest.importorskip("cyclonedx", reason="cyclonedx-python-lib is not installed")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (finished / SBOM).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["type"] == "machine-learning-model"
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    stages = read_manifest(finished).steps
    assert {part for stage in stages for part in stage.distributions.items()} <= listed
    assert {"torch", "numpy", "onnx", "onnxruntime", "secateur"} <= {name for name, _ in listed}
    edges = {row["ref"]: row.get("dependsOn", []) for row in bill["dependencies"]}
    assert any(ref.startswith("pkg:pypi/numpy@") for ref in edges[next(r for r in edges if "/scipy@" in r)])
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"library"', '"book"', 1)) is not None


def test_an_untouched_run_holds(project: Path, finished: Path) -> None:
    before = tree(finished)
    found = verify(finished, beside=project)
    assert (found.exit_code, found.differences) == (0, ())
    assert {arrow.what: arrow.state for arrow in found.arrows} == {
        "original: onnxruntime = ONNX": "holds",
        "compressed: onnxruntime = ONNX": "holds",
        "original: ONNX = network": "holds",
        "compressed: ONNX = network": "holds",
    }
    assert tree(finished) == before


def test_a_changed_byte_in_any_file_is_found_and_named(copied: Path) -> None:
    names = [artefact.path for artefact in read_manifest(copied).artefacts]
    assert len(names) > 20
    for number, name in enumerate(names):
        path = copied / name
        content = path.read_bytes()
        place = (7919 * number) % len(content)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        found = verify(copied, parity=False)
        assert found.exit_code == 1
        assert [(each.kind, each.path) for each in found.differences] == [("changed", name)]
        path.write_bytes(content)
    assert verify(copied, parity=False).exit_code == 0


def test_a_changed_byte_of_the_manifest_is_found(copied: Path) -> None:
    content = (copied / MANIFEST).read_bytes()
    for place in range(1, len(content), len(content) // 40):
        (copied / MANIFEST).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StorageError, match=r"manifest\.json: found .*wanted a manifest as it was written"):
            verify(copied, parity=False)


@pytest.mark.parametrize("place", [".", "steps", "steps/new-0123", "extra"])
def test_an_additional_file_is_found_and_named(copied: Path, place: str) -> None:
    (copied / place).mkdir(exist_ok=True)
    (copied / place / "added.onnx").write_bytes(b"added")
    found = verify(copied, parity=False)
    name = str(Path(place) / "added.onnx")
    assert [(each.kind, each.path) for each in found.differences] == [("additional", name)]


def test_every_missing_file_is_found_and_named(copied: Path) -> None:
    for artefact in read_manifest(copied).artefacts:
        (copied / artefact.path).rename(copied.parent / "aside")
        found = verify(copied, parity=False)
        assert [(each.kind, each.path) for each in found.differences] == [("missing", artefact.path)]
        (copied.parent / "aside").rename(copied / artefact.path)


def test_another_finished_step_is_no_difference_until_its_files_change(copied: Path) -> None:
    with open_run(copied) as run:
        step = run.step("other", {}, (), lambda folder: (folder / "result").write_text("finished") and None)
    assert verify(copied, parity=False).exit_code == 0
    (step.folder / "result").write_text("altered")
    found = verify(copied, parity=False)
    assert [(each.kind, Path(each.path).name) for each in found.differences] == [("additional", "result")]


def resealed(folder: Path, change: Callable[[Path], None]) -> None:
    """Change a run and seal it again, as somebody would who can write a manifest."""
    from secateur.manifest import artefacts, write_manifest

    manifest = read_manifest(folder)
    change(folder)
    write_manifest(folder, manifest.model_copy(update={"artefacts": artefacts(folder, manifest.steps)}))


def test_an_onnx_file_of_other_weights_is_found_by_parity_alone(project: Path, copied: Path) -> None:
    import onnx
    from onnx import numpy_helper

    def bend(folder: Path) -> None:
        path = folder / read_manifest(folder).stage("export").folder / "compressed.onnx"
        proto = onnx.load(path)
        weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, weight.name))
        onnx.save(proto, path)

    resealed(copied, bend)
    found = verify(copied, beside=project)
    assert found.exit_code == 1
    assert found.differences == ()
    assert {arrow.what for arrow in found.arrows if arrow.state == "broken"} == {
        "compressed: onnxruntime = ONNX", "compressed: ONNX = network",
    }  # fmt: skip


def test_without_the_network_its_arrows_stay_unchecked(finished: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "releasednet")
    monkeypatch.chdir(tmp_path)
    found = verify(finished, beside=tmp_path)
    assert found.exit_code == 3
    assert [arrow.state for arrow in found.arrows] == ["holds", "holds", "unchecked", "unchecked"]
    assert "does not import" in found.arrows[-1].told
    assert verify(finished, beside=tmp_path, parity=False).exit_code == 0


def test_a_run_that_is_written_or_unfinished_is_not_judged(copied: Path, tmp_path: Path) -> None:
    with open_run(copied), pytest.raises(StorageError, match="a run writing there"):
        verify(copied, parity=False)
    with pytest.raises(StorageError, match=r"no manifest\.json; wanted the folder of a finished run"):
        judge_run(tmp_path)
    (copied / "report.json").write_text((copied / "report.json").read_text().replace('"pass"', '"fail"'))
    with pytest.raises(StorageError, match=r"report\.json: found sha256 .*manifest\.json says"):
        judge_run(copied)


def test_runs_are_compared_where_their_recipes_differ(project: Path, finished: Path, tmp_path: Path) -> None:
    from secateur.recipe import PruneSettings

    with importable(project):
        ran = read_run(finished)
        prune = PruneSettings.model_validate({**ran.recipe["prune"], "macs": 0.8})
        other = run_tiny(tmp_path, "releasednet", prune=prune)
    found = compare_runs([finished, other])
    assert [row.settings for row in found.runs] == [
        {"prune.macs": 0.6, "trackers": [tracked(project).model_dump(mode="json")]},
        {"prune.macs": 0.8, "trackers": []},
    ]  # fmt: skip
    estimates = {read_manifest(folder).stage("estimate").key for folder in (finished, other)}
    assert len(estimates) == 1, "trackers change nothing that is computed"
    assert found.runs[0].macs == ran.prune.macs_after < found.runs[1].macs
    assert found.runs[0].measured["speedup"] == ran.comparison.speedup
    assert found.warnings == ()
    table = runs_table(found)
    assert table.header[:3] == ("Run", "prune.macs", "trackers")
    picture = tmp_path / "runs.png"
    called = CliRunner().invoke(app, ["compare", str(finished), str(other), "--plot", str(picture)])
    assert called.exit_code == 0, called.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [row.verdict for row in found.runs] == ["pass", "fail"]
    assert all(word in called.output for word in ("PASS", "FAIL"))
    assert [row[1] for row in table.rows] == ["0.6", "0.8"]
    alone = compare_runs([finished])
    assert alone.runs[0].settings == {}
    assert len(runs_table(alone).rows) == 1


def test_a_finished_run_is_shown_and_drawn(finished: Path, tmp_path: Path) -> None:
    before = tree(finished)
    called = CliRunner().invoke(app, ["report", str(finished), "--plots", str(tmp_path / "plots")])
    assert called.exit_code == 0, called.output
    assert all(told in called.output for told in ("Key figures", "Metrics on the test set", "Engines", "Latency"))
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["latency.png", "promise.png"]
    called = CliRunner().invoke(app, ["report", str(finished), "--json"])
    assert called.output == (finished / "report.json").read_text()
    assert tree(finished) == before


def test_settings_are_flattened_by_dotted_keys() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}
