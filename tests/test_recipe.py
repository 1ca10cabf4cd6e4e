"""Recipes: what is wrong is named with its line and what is allowed; overrides win; template and schema are current."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml

from secateur.artifacts import OpenSize
from secateur.backend_options import BackendOptions
from secateur.backends import BACKENDS
from secateur.errors import RecipeError
from secateur.pipeline.allocation import ALLOCATORS
from secateur.pipeline.allocation.theis import Theis
from secateur.pipeline.compensation import COMPENSATIONS
from secateur.pipeline.redundancy import EFFECTIVE, MATRICES
from secateur.pipeline.signals import Combination
from secateur.recipe import EstimateSettings, Recipe
from secateur.recipe_file import _models_in, read_recipe, recipe_schema
from secateur.recipe_objects import allocator
from secateur.recipe_pruning import CombinedSignal, PruneSettings
from secateur.recipe_section import Section
from secateur.recipe_template import recipe_template, write_template

SMALL = """\
name: small
model: package.module:build
data: package.module:data
task: classification
prune:
  macs: 0.5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_and_short_forms(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, SMALL))
    assert recipe.model.function == "package.module:build"
    assert recipe.model.arguments == {}
    assert recipe.prune.macs == 0.5
    assert recipe.prune.rounds == 3


def test_a_recipe_survives_its_own_json(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, SMALL))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune: {epoch: 3}", r"unknown key finetune.epoch \(line 7\).*did you mean 'epochs'"),
        ("prunes: 1", r"unknown key prunes \(line 7\).*one of build, data, estimate.*did you mean 'prune'"),
        ("finetune: {optimizer: lion}", r"finetune.optimizer \(line 7\) = 'lion'.*'adamw' or 'sgd'"),
        ("estimate: {samples: -1}", r"estimate.samples \(line 7\) = -1.*greater than or equal to 2"),
        ("finetune: {distillation: {method: fitnets}}", r"finetune.distillation.method \(line 7\).*'kd' or 'dist'"),
        ("finetune: {distillation: {fisher: 1}}", r"unknown key finetune.distillation.fisher \(line 7\).*parameter"),
        ("finetune: {precision: int8}", r"finetune.precision \(line 7\) = 'int8'.*'fp32', 'bf16' or 'fp16'"),
        ("finetune: {mixup: -1}", r"finetune.mixup \(line 7\) = -1.*greater than or equal to 0"),
        ("finetune: {label_smoothing: 1}", r"finetune.label_smoothing \(line 7\) = 1.*less than 1"),
        ("finetune: {ema: 1.5}", r"finetune.ema \(line 7\) = 1.5.*less than 1"),
        ("finetune: {distillation: {teachers: [nowhere]}}", r"finetune.distillation.teachers.0.* = 'nowhere'"),
        ("estimate: {tau: -1}", "estimate.tau.*greater than 0"),
        ("estimate: {matrix: activation}", "the tail is in nats: give matrix gate, or another estimator"),
        ("estimate: {threshold: 0.5}", "the tail's threshold is tau: leave threshold out"),
        ("estimate: {estimator: energy, tau: auto}", "tau is the tail's: give threshold for energy, or estimator tail"),
        ("estimate: {estimator: energy, threshold: 2}", "threshold of energy is the share that is left out, below 1"),
        ("estimate: {estimator: rank}", "estimate.estimator.*'participation'"),
        ("estimate: {matrix: hessian}", r"estimate.matrix \(line 7\) = 'hessian'; wanted 'gate', 'weight-gradient' or"),
        ("estimate: {tau: car}", r"estimate.tau \(line 7\) = 'car'; wanted a valid number, .*, or 'auto'"),
        ("estimate: auto", r"estimate \(line 7\) = 'auto'; wanted a mapping of batch_size, estimator, labels"),
        ("estimate: {labels: soft}", r"estimate.labels \(line 7\) = 'soft'.*'auto', 'sampled', 'true' or 'teacher'"),
        ("estimate: {labels: true, labels: auto}", r"key labels \(lines 7 and 7\) twice; wanted each key once"),
        ("prune:\n  rounds: 2", r"key prune \(lines 5 and 7\) twice"),
        ("  compensation: last-squares", r"prune.compensation \(line 7\).*'none', 'gates' .*mean 'least-squares'"),
        ("  schedule: once", r"prune.schedule \(line 7\) = 'once'; wanted 'exponential' or 'one-at-a-time'"),
        ("  rounds: 2.5", r"prune.rounds \(line 7\) = 2.5; wanted a valid integer"),
        ("  multiple: 0", r"prune.multiple \(line 7\) = 0; wanted greater than or equal to 1"),
        ("  allowed_loss: -1", r"prune.allowed_loss \(line 7\) = -1; wanted greater than or equal to 0"),
        ("  latency: 0.5", r"prune \(line 5\).*exactly one budget: macs, parameters, bytes or latency"),
        ("  allocator: [theis]", r"prune.allocator \(line 7\) = \['theis'\]; wanted a mapping of beta, by_class, name"),
        ("  keep: conv1", r"prune.keep \(line 7\) = 'conv1'; wanted a valid list"),
        ("  signal: {input: weight, pointwise: cube}", r"signal.pointwise \(line 7\) = 'cube'.*'identity', 'absolute'"),
        ("  signal: {input: weight, reduction: max}", r"signal.reduction \(line 7\) = 'max'.*'square-sum'"),
        ("  signal: {input: weight, scaling: flops}", r"signal.scaling \(line 7\) = 'flops'.*'parameters' or 'macs'"),
        ("  signal: {pointwise: square}", "no prune.signal.input; wanted a value for prune.signal.input"),
        (
            "finetune: {distillation: {task: 0, output: 0, feature: 0}}",
            r"finetune.distillation \(line 7\).*one weight above 0 of task, output, feature and parameter",
        ),
        ("task: 3", r"key task \(lines 4 and 7\) twice"),
        ("export: {opset: 9}", "greater than or equal to 18"),
        ("  signal: fishy", r"prune.signal \(line 7\) = 'fishy'.*'fisher', 'joint', 'obs', 'taylor'"),
        ("  signal: 3", r"prune.signal \(line 7\) = 3"),
        ("  signal: {input: weights}", r"prune.signal.input \(line 7\) = 'weights'.*'weight', 'weight-gradient'"),
        ("  signal: {input: weight, scale: macs}", r"unknown key prune.signal.scale \(line 7\).*'scaling'"),
        ("measure: {backend: tflite}", "wanted one of torch, .*openvino, tensorrt, tensorrt_rtx"),
        ("build: {options: {onnxruntim: {}}}", r"unknown key build.options.onnxruntim .*did you mean 'onnxruntime'"),
        (
            "build:\n  options:\n    openvino: {precision: f16}\n    tensorrt: {levle: 3}",
            r"unknown key build.options.tensorrt.levle \(line 10\); wanted one of cuda_graph, driver, .*'level'",
        ),
        (
            "build: {options: {tensorrt: {driver: cupy}}}",
            r"tensorrt.driver \(line 7\) = 'cupy'.*'cuda.bindings' or 'pyc",
        ),
        (
            "build: {options: {tensorrt: {level: 9}}}",
            r"build.options.tensorrt.level \(line 7\) = 9.*less than or equal",
        ),
        ("build: {options: {openvino: {hint: fast}}}", r"openvino.hint \(line 7\) = 'fast'.*'latency' or 'throughput'"),
        ("build: {options: {onnxruntime: {optimisation: 3}}}", r"onnxruntime.optimisation \(line 7\) = 3.*'extended'"),
        ("build: {options: {torch_cuda: {tf3: 1}}}", r"unknown key build.options.torch_cuda.tf3 \(line 7\).*'tf32'"),
        (
            "build: {options: {tensorrt: {driver: pycuda, cuda_graph: true}}}",
            r"options.tensorrt \(line 7\).*cuda.bindings",
        ),
        ("export: {sizes: {height: {axis: 2, least: 8}}}", "no export.sizes.height.most"),
        ("export: {sizes: {height: {axis: 2, least: 8, most: 4}}}", r"sizes.height \(line 7\).*least below most"),
        ("export: {pictures: {sizes: [8, 8]}}", r"unknown key export.pictures.sizes \(line 7\).*'size'"),
        ("gates: [{quantity: speedup, atleast: 2}]", "unknown key gates.0.atleast.*did you mean 'at_least'"),
        ("gates: [{quantity: speedup}]", "wanted a gate with at_least, at_most or both"),
    ],
)
def test_a_wrong_key_or_value_names_its_place_and_what_is_allowed(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, SMALL + change + "\n"))


@pytest.mark.parametrize("budget", ["{}", "{macs: 0.5, parameters: 0.5}"])
def test_exactly_one_budget(tmp_path: Path, budget: str) -> None:
    text = SMALL.replace("prune:\n  macs: 0.5", f"prune: {budget}")
    with pytest.raises(
        RecipeError, match="exactly one budget: macs, parameters, bytes or latency; or allowed_loss alone"
    ):
        read_recipe(write(tmp_path, text))


def defaults(section: type[Section]) -> dict[str, object]:
    return section().model_dump()


@pytest.mark.parametrize("name", BackendOptions.model_fields)
def test_options_are_the_backends_own_fields_and_defaults(name: str) -> None:
    (section,) = _models_in(BackendOptions.model_fields[name].annotation)
    backend, told = BACKENDS[name], defaults(section)
    identity = {"name", "package", "provider", "mode"} | ({"device"} if name.startswith("torch") else set())
    own = {field.name: getattr(backend, field.name) for field in dataclasses.fields(backend)}
    unsaid = {"fallback", "cuda_graph", "tf32", "search"} if name == "onnxruntime" else set()
    unsaid |= {"compute_capabilities"} if name == "tensorrt" else set()
    assert told == {key: value for key, value in own.items() if key not in identity | unsaid}


def test_options_reach_the_backend(tmp_path: Path) -> None:
    text = """\
build:
  options:
    onnxruntime: {spinning: true, optimisation: extended}
    openvino: {precision: bf16, hint: throughput}
    tensorrt: {driver: pycuda, level: 2, timing_cache: timings}
    tensorrt_rtx: {compute_capabilities: ["8.9"], workspace_bytes: 1000}
    torch_cuda: {tf32: true}
"""
    recipe = read_recipe(write(tmp_path, SMALL + text))
    for read in (recipe, Recipe.model_validate_json(recipe.model_dump_json())):
        settings = read.build
        assert settings.backend("onnxruntime") == replace(
            BACKENDS["onnxruntime"], spinning=True, optimisation="extended"
        )
        assert settings.backend("openvino") == replace(BACKENDS["openvino"], precision="bf16", hint="throughput")
        assert settings.backend("tensorrt") == replace(
            BACKENDS["tensorrt"], driver="pycuda", level=2, timing_cache=Path("timings")
        )
        assert settings.backend("tensorrt_rtx").compute_capabilities == ("8.9",)
        assert settings.backend("torch_cuda").tf32
        assert settings.backend("onnxruntime_cuda") is BACKENDS["onnxruntime_cuda"]
    portable = read_recipe(write(tmp_path, SMALL), ["build.options.tensorrt_rtx.compute_capabilities=[]"])
    assert portable.build.backend("tensorrt_rtx").compute_capabilities == ()
    assert BackendOptions().given("a backend of another package") == {}


def test_open_sizes_of_a_recipe(tmp_path: Path) -> None:
    text = "export: {sizes: {height: {axis: 2, least: 32, most: 64, multiple: 32}}, batch_name: pictures}\n"
    recipe = read_recipe(write(tmp_path, SMALL + text))
    assert recipe.export.open_sizes == {"height": OpenSize(axis=2, least=32, most=64, multiple=32)}
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_tau_is_a_number_or_measured(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, SMALL)).estimate.tau == 0.001
    assert read_recipe(write(tmp_path, SMALL), ["estimate.tau=0.02"]).estimate.tau == 0.02
    assert read_recipe(write(tmp_path, SMALL), ["estimate.tau=auto"]).estimate.tau == "auto"


def test_the_recipe_knows_every_matrix_and_estimator() -> None:
    assert set(get_args(EstimateSettings.model_fields["matrix"].annotation)) == set(MATRICES)
    assert set(get_args(EstimateSettings.model_fields["estimator"].annotation)) == set(EFFECTIVE)


def test_the_recipe_knows_every_compensation() -> None:
    assert set(get_args(PruneSettings.model_fields["compensation"].annotation)) == set(COMPENSATIONS)


@pytest.mark.parametrize(
    ("prune", "kind", "share", "loss"),
    [
        ("{bytes: 0.5}", "bytes", 0.5, None),
        ("{latency: 0.4}", "latency", 0.4, None),
        ("{allowed_loss: 0.1}", "macs", None, 0.1),
        ("{parameters: 0.2, allowed_loss: 0.1}", "parameters", 0.2, 0.1),
    ],
)
def test_budgets_of_every_kind(tmp_path: Path, prune: str, kind: str, share: float | None, loss: float | None) -> None:
    read = read_recipe(write(tmp_path, SMALL.replace("prune:\n  macs: 0.5", f"prune: {prune}"))).prune
    assert (read.budget, read.allowed_loss) == ((kind, share), loss)


@pytest.mark.parametrize("section", ["estimate", "prune"])
def test_labels_of_teachers_need_teachers(tmp_path: Path, section: str) -> None:
    place = write(tmp_path, SMALL)
    with pytest.raises(RecipeError, match=rf"{section}\.labels: teacher needs finetune\.distillation\.teachers"):
        read_recipe(place, [f"{section}.labels=teacher"])
    read = read_recipe(place, [f"{section}.labels=teacher", "finetune.distillation.teachers=[own:other]"])
    assert getattr(read, section).labels == "teacher"


@pytest.mark.parametrize("name", ALLOCATORS)
def test_every_allocator_is_named_in_a_word_or_with_its_parameters(tmp_path: Path, name: str) -> None:
    wanted = f"{{name: {name}, beta: 0.02}}" if name == "theis" else name
    recipe = read_recipe(write(tmp_path, SMALL + f"  allocator: {wanted}\n"))
    assert recipe.prune.allocator.name == name
    assert allocator(recipe.prune.allocator) == ALLOCATORS[name]


def test_parameters_of_allocators_arrive(tmp_path: Path) -> None:
    text = SMALL + "  allocator: {name: theis, beta: 0.5, by_class: true}\n"
    assert allocator(read_recipe(write(tmp_path, text)).prune.allocator) == Theis(beta=0.5, by_class=True)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("knapsak", r"prune.allocator.name.* = 'knapsak'.*'uniform', 'ranked', .*'hierarchical' or 'knapsack'"),
        ("theis", r"prune.allocator \(line 7\).*theis, and no other allocator, needs beta"),
        ("{name: uniform, beta: 1}", "theis, and no other allocator, needs beta"),
        ("{name: knapsack, by_class: true}", "by_class belongs to ranked, theis and hierarchical"),
        ("{name: theis, betta: 1}", r"unknown key prune.allocator.betta \(line 7\).*did you mean 'beta'"),
    ],
)
def test_an_allocator_that_does_not_fit_is_refused(tmp_path: Path, wanted: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, SMALL + f"  allocator: {wanted}\n"))


@pytest.mark.parametrize("word", ["true", "'true'"])
def test_true_labels_need_no_quotes(tmp_path: Path, word: str) -> None:
    recipe = read_recipe(write(tmp_path, SMALL + f"  labels: {word}\nestimate: {{labels: {word}}}\n"))
    assert recipe.prune.labels == recipe.estimate.labels == "true"


def test_a_key_that_a_reference_brings_may_be_set_anew(tmp_path: Path) -> None:
    gates = "gates:\n  - &gate {quantity: speedup, at_least: 2}\n  - {<<: *gate, at_least: 3}\n"
    assert [gate.at_least for gate in read_recipe(write(tmp_path, SMALL + gates)).gates] == [2, 3]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found no model; wanted a value for model"):
        read_recipe(write(tmp_path, SMALL.replace("model: package.module:build\n", "")))


def test_a_signal_is_a_name_or_made_of_four(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, SMALL)).prune.signal == "fisher"
    four = {"input": "activation*gradient", "pointwise": "square", "reduction": "mean", "scaling": "macs"}
    path = write(tmp_path, SMALL + f"  signal: {four}\n")
    recipe = read_recipe(path)
    assert recipe.prune.signal == CombinedSignal(**four)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Combination(**recipe.prune.signal.model_dump()) == Combination(**four)
    assert read_recipe(path, ["prune.signal=hrank"]).prune.signal == "hrank"


def test_overrides_win_and_reach_into_short_forms(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    recipe = read_recipe(path, ["prune.macs=0.25", "model.arguments.width=3", "finetune.optimizer=sgd"])
    assert recipe.prune.macs == 0.25
    assert recipe.model.function == "package.module:build"
    assert recipe.model.arguments == {"width": 3}
    assert recipe.finetune.optimizer == "sgd"


@pytest.mark.parametrize("override", ["prune.macs", "=3", "prune..macs=1", "name.x=1", "prune.macs=[1"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(RecipeError, match="--set"):
        read_recipe(write(tmp_path, SMALL), [override])


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "cannot be read"), ("- 1", "list at the top"), ("", "NoneType at the top")]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"No such file.*secateur init"):
        read_recipe(tmp_path / "nowhere.yaml")


def test_the_template_is_a_recipe_with_the_defaults(tmp_path: Path) -> None:
    write_template(tmp_path / "recipe.yaml")
    recipe = read_recipe(tmp_path / "recipe.yaml")
    default = Recipe.model_validate(
        {"name": "my-network", "model": recipe.model, "data": recipe.data, "task": "classification",
         "prune": {"macs": 0.5}, "gates": recipe.gates}
    )  # fmt: skip
    assert recipe == default
    assert recipe_template().count("EDIT ") == 3


def test_the_template_does_not_overwrite(tmp_path: Path) -> None:
    write_template(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="a file of that name"):
        write_template(tmp_path / "recipe.yaml")


def test_every_key_is_explained() -> None:
    for key, value in Recipe.model_json_schema()["properties"].items():
        assert value.get("description") or "$ref" in value, key


def test_the_published_schema_is_current() -> None:
    published = Path(__file__).parents[1] / "docs" / "recipe.schema.json"
    assert published.read_text() == recipe_schema(), "run `secateur schema > docs/recipe.schema.json`"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_the_recipes_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_DATA", "data")
    assert read_recipe(path).name == path.stem
    assert yaml.safe_load(path.read_text())["name"] == path.stem
