"""A run's summary with the contents of a real one: a gaze network of 44 groups, pruned, healed, exported and timed."""

from collections.abc import Callable

import numpy as np
import pytest

from secateur.artifacts import (
    Comparison,
    EngineResult,
    Evaluation,
    ExportResult,
    Finding,
    FinetuneEpoch,
    FinetuneResult,
    GroupRedundancy,
    Interval,
    LatencySummary,
    LayerPractice,
    Machine,
    NetworkPractice,
    Parity,
    Pinned,
    Practice,
    PruneResult,
    PruneRound,
    Redundancy,
    Roofline,
    Summary,
)
from secateur.report.gates import Gate, judge, quantities

GATES = (
    Gate(quantity="speedup", at_least=2.0),
    Gate(quantity="mac_ratio", at_least=2.9),
    Gate(quantity="auc_drop", at_most=0.01),
    Gate(quantity="parity", at_most=1e-3),
    Gate(quantity="realised", at_least=0.5, at_most=1.2),
    Gate(quantity="latency_s", at_most=0.010),
)


def layout(num_blocks: int) -> list[tuple[str, str, int]]:
    """Group name, block and width of a backbone of inverted residual blocks with a small decoder."""
    groups = [("features.0.0", "features.0", 32)]
    for block in range(1, num_blocks + 1):
        width = 16 * (1 + block // 3)
        inside = f"features.{block}.conv"
        groups += [(f"{inside}.0.0", inside, 6 * width), (f"{inside}.1.0", inside, 6 * width)]
        if block % 3 == 0:
            groups.append((f"{inside}.3", f"stream after features.{block}", width))
    return [*groups, ("decoder.fuse.conv", "decoder", 96), ("decoder.head.0", "decoder", 48)]


def latencies(median_s: float, seed: int, instances: int = 5, blocks: int = 40) -> tuple[tuple[float, ...], ...]:
    generator = np.random.default_rng(seed)
    offsets = generator.normal(0, 0.006, (instances, 1))
    noise = generator.gamma(2.0, 0.008, (instances, blocks))
    noise[generator.random((instances, blocks)) < 0.004] += 1.0
    return tuple(map(tuple, (median_s * (1 + offsets + noise)).tolist()))


def distribution(samples: tuple[tuple[float, ...], ...]) -> LatencySummary:
    pooled = np.concatenate([np.array(run) for run in samples])
    p50, p90, p95, p99 = np.quantile(pooled, [0.5, 0.9, 0.95, 0.99], method="inverted_cdf").tolist()
    mean = float(pooled.mean())
    return LatencySummary(
        num_samples=len(pooled), mean_s=mean, p50_s=p50, p90_s=p90, p95_s=p95, p99_s=p99,
        coefficient_of_variation=float(pooled.std() / mean), throughput_per_s=1 / mean,
    )  # fmt: skip


def machine() -> Machine:
    return Machine(
        cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", num_cores=2, memory_bytes=16_700_000_000, gpus=(),
        governor="performance", frequency_mhz=2700.0, load_before=0.4, load_after=1.1, container="docker",
        system="Linux 6.1 x86_64", commit="4f1c2aa",
        versions={"python": "3.12.3", "torch": "2.9.1", "onnx": "1.19.0", "onnxruntime": "1.23.2"},
    )  # fmt: skip


def comparison(before_s: float = 0.0213, after_s: float = 0.0079) -> Comparison:
    samples = {"baseline": latencies(before_s, 1), "candidate": latencies(after_s, 2)}
    baseline, candidate = distribution(samples["baseline"]), distribution(samples["candidate"])
    speedup = baseline.p50_s / candidate.p50_s
    return Comparison(
        backend="onnxruntime", batch_size=1, num_threads=2, num_instances=5, num_blocks=40, num_iterations=12,
        baseline=baseline, candidate=candidate,
        speedup=Interval(value=speedup, low=speedup * 0.977, high=speedup * 1.021), resolution=0.011,
        outcome="faster" if before_s > after_s else "slower", stopped_by="precision reached",
        warnings=("load average above one during the comparison",), samples_s=samples, machine=machine(),
    )  # fmt: skip


def evaluations(num_samples: int, drop: float) -> dict[str, Evaluation]:
    generator = np.random.default_rng(7)
    auc = np.clip(generator.normal(0.861, 0.05, num_samples), 0, 1)
    nss = generator.gamma(6.0, 0.34, num_samples)
    loss = generator.gamma(20.0, 0.4, num_samples)
    found = {}
    for name, share in (("original", 0.0), ("pruned", 4.0), ("compressed", 1.0)):
        values = {
            "auc": np.clip(auc - share * drop + generator.normal(0, 0.008, num_samples), 0, 1),
            "nss": nss * (1 - 3 * share * drop) + generator.normal(0, 0.05, num_samples),
            "kl": loss * (1 + 2 * share * drop) + generator.normal(0, 0.05, num_samples),
        }
        found[name] = Evaluation(
            num_samples=num_samples,
            metrics={metric: float(column.mean()) for metric, column in values.items()},
            per_sample={metric: tuple(column.tolist()) for metric, column in values.items()},
            higher_is_better={"auc": True, "nss": True, "kl": False},
            units={"kl": "nat"},
        )
    return found


def parity(worst: float, candidate: str = "onnxruntime") -> Parity:
    return Parity(
        reference="torch", candidate=candidate, num_batches=8, worst_absolute=worst, worst_relative=worst * 3,
        tolerance=1e-4,
    )  # fmt: skip


def exported(name: str, size_bytes: int, worst: float) -> ExportResult:
    return ExportResult(
        path=f"{name}.onnx", sha256=("9f86d081884c7d65" * 4), size_bytes=size_bytes, opset=20, input_names=("image",),
        output_names=("density",), input_shapes=((1, 3, 192, 256),), dynamic_batch=True, parity=parity(worst),
    )  # fmt: skip


def engines() -> tuple[EngineResult, ...]:
    return (
        EngineResult(
            backend="onnxruntime", backend_version="1.23.2", status="built", device="cpu",
            options={"providers": "CPUExecutionProvider", "intra_op_num_threads": "2"}, path="model.ort",
            sha256="ab" * 32, size_bytes=3_410_000, build_s=0.31, parity=parity(2.1e-6),
        ),
        EngineResult(
            backend="tensorrt_rtx", backend_version="", status="skipped",
            reason="no NVIDIA GPU is visible: nvidia-smi is absent",
        ),
    )  # fmt: skip


def redundancy(groups: list[tuple[str, str, int]], effective: dict[str, int]) -> Redundancy:
    found = []
    for index, (name, block, width) in enumerate(groups):
        # The tail crosses tau = 0.01 at the effective width.
        decay = np.exp(-np.arange(width) * (2.5 + index % 4) / effective[name])
        decay *= 0.01 / max(decay[effective[name] :].sum(), 1e-12)
        found.append(
            GroupRedundancy(
                name=name,
                block=block,
                num_channels=width,
                num_effective=effective[name],
                spectrum=tuple(decay.tolist()),
            )
        )
    return Redundancy(
        tau=0.01, labels="sampled", num_samples=256, groups=tuple(found), macs=1_812_000_000,
        macs_effective=410_000_000, parameters=11_200_000, parameters_effective=2_600_000,
    )  # fmt: skip


def pruned(groups: list[tuple[str, str, int]], floors: dict[str, int], after: dict[str, int]) -> PruneResult:
    before = {name: width for name, _, width in groups}
    rounds = []
    for number, share in enumerate((0.69, 0.47, 0.323), start=1):
        widths = {name: round(before[name] + (after[name] - before[name]) * number / 3) for name in before}
        rounds.append(
            PruneRound(
                target_macs=int(1_812_000_000 * share), target_parameters=None, macs=int(1_812_000_000 * share * 0.998),
                parameters=int(11_200_000 * share * 0.95), widths=widths, cut_error=4.1e-7 * number,
                loss_before=8.01 + 0.05 * number, loss_after_cut=8.4 + 0.3 * number,
                loss_after_recovery=8.06 + 0.05 * number,
            )
        )  # fmt: skip
    return PruneResult(
        macs_before=1_812_000_000, macs_after=rounds[-1].macs, parameters_before=11_200_000,
        parameters_after=rounds[-1].parameters, widths_before=before, widths_after=after, floors=floors,
        blocks={name: block for name, block, _ in groups}, rounds=tuple(rounds),
        pinned=(
            Pinned(tensor="features.0.0.weight", num_channels=3, reason="network input", operator="input", module=""),
            Pinned(tensor="decoder.head.2.weight", num_channels=1, reason="network output", operator="output",
                   module="decoder.head.2"),
        ),
    )  # fmt: skip


def finetuned() -> FinetuneResult:
    epochs = tuple(
        FinetuneEpoch(
            epoch=epoch, loss=0.9 * 0.82**epoch + 0.31, task_loss=8.3 - 0.03 * epoch,
            distillation_loss=0.4 * 0.8**epoch + 0.05, feature_loss=0.2 * 0.75**epoch + 0.02,
            learning_rate=1e-3 * (1 - epoch / 9),
            metrics={"auc": 0.856 - 0.02 * 0.7**epoch, "nss": 2.0 - 0.2 * 0.7**epoch},
        )
        for epoch in range(1, 9)
    )  # fmt: skip
    return FinetuneResult(epochs=epochs, best_epoch=7)


def layer(name: str, inputs: int, outputs: int, seconds: float) -> LayerPractice:
    macs, num_bytes = 196 * 9 * inputs * outputs, 4 * (9 * inputs * outputs + 196 * (inputs + outputs))
    predicted, bound = ROOFLINE.predicted(macs, num_bytes, 12_000_000)
    return LayerPractice(
        name=name, operator="Conv", inputs=inputs, outputs=outputs, macs=macs, num_bytes=num_bytes,
        predicted_s=predicted, bound=bound, measured_s=seconds, provider="CPUExecutionProvider",
    )  # fmt: skip


ROOFLINE = Roofline(macs_per_s=8e10, bytes_per_s={1 << 20: 6e10, 1 << 24: 1.3e10}, call_s=5e-6, node_s=4e-7)


def network(layers: list[LayerPractice], call_s: float) -> NetworkPractice:
    return NetworkPractice(
        layers=tuple(layers), num_nodes=len(layers) + 9, macs=sum(one.macs for one in layers),
        num_bytes=sum(one.num_bytes for one in layers), working_set=12_000_000, call_s=call_s,
        predicted_s=sum(one.predicted_s for one in layers), reformat_s=0.02 * call_s, other_s=0.05 * call_s,
        overhead_s=0.01 * call_s,
    )  # fmt: skip


def practice(num_layers: int = 30) -> Practice:
    before = [layer(f"features.{i}.conv", 64, 128, 6e-4 + 1e-5 * i) for i in range(num_layers)]
    after = [layer(f"features.{i}.conv", 40 + i, 75, 2.4e-4 + 2e-5 * i) for i in range(num_layers)]
    told = (
        "features.3.conv went from 128 to 75 channels; onnxruntime works in steps of 16 here: 80 is free (93 µs "
        "instead of 98 µs)"
    )
    return Practice(
        backend="onnxruntime", batch_size=1, num_threads=2, roofline=ROOFLINE, before=network(before, 0.0213),
        after=network(after, 0.0079), speedup=2.7,
        findings=(Finding(kind="misaligned", layer="features.3.conv", share=0.02, told=told),),
    )  # fmt: skip


def build_summary(
    *, name: str = "gaze-resnet18", num_blocks: int = 17, num_samples: int = 300, drop: float = 0.004,
    gates: tuple[Gate, ...] = GATES, before_s: float = 0.0213, after_s: float = 0.0079,
) -> Summary:  # fmt: skip
    """Build the summary; the verdict is judged from the other parts, as a run does it."""
    groups = layout(num_blocks)
    generator = np.random.default_rng(3)
    floors = {group: max(2, int(width * generator.uniform(0.1, 0.45))) for group, _, width in groups}
    after = {
        group: min(width, max(8 * -(-floors[group] // 8), 8 * int(width * generator.uniform(0.2, 0.9) // 8)))
        for group, _, width in groups
    }
    parts = {
        "prune": pruned(groups, floors, after),
        "evaluations": evaluations(num_samples, drop),
        "exports": {
            "original": exported("original", 45_100_000, 1.4e-6),
            "compressed": exported("compressed", 14_800_000, 9e-7),
        },
        "engines": {"original": engines(), "compressed": engines()},
        "comparison": comparison(before_s, after_s),
    }  # fmt: skip
    measured = quantities(**parts, num_resamples=500)
    return Summary(
        **parts, name=name, task="gaze", primary="auc", data="OSIE: 560 training and 140 test images, 15 observers",
        facts={"auc of the other observers": 0.894, "auc of the centre bias": 0.781},
        redundancy=redundancy(groups, floors), finetune=finetuned(), verdict=judge(measured, gates),
        durations_s={"estimate": 31.2, "prune": 122.0, "finetune": 1810.0, "export": 8.1, "measure": 44.0},
        recipe={"name": name, "model": {"function": "my_networks:gaze"}, "prune": {"macs": 0.33, "rounds": 3},
                "gates": [gate.model_dump() for gate in gates]},
        version="0.1.0", practice=practice(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_summary() -> Callable[..., Summary]:
    return build_summary


@pytest.fixture(scope="session")
def summary() -> Summary:
    return build_summary()


@pytest.fixture(scope="session")
def small() -> Summary:
    """The same run of a network of seven groups, which is quicker to draw."""
    return build_summary(num_blocks=2)


@pytest.fixture(scope="session")
def bare(small: Summary) -> Summary:
    """A run with next to nothing to draw, for tests that are not about figures."""
    prune = small.prune.model_copy(update={"widths_before": {}, "widths_after": {}, "floors": {}, "rounds": ()})
    return small.model_copy(
        update={
            "prune": prune, "finetune": FinetuneResult(epochs=(), best_epoch=0), "practice": None,
            "redundancy": small.redundancy.model_copy(update={"groups": ()}),
        }
    )  # fmt: skip
