"""Tables of gaze prediction from results/gaze.json, gaze_metrics.json and lenet.json; `readme_tables` writes them."""

import json
from pathlib import Path
from statistics import mean
from typing import Any

RESULTS = Path(__file__).parent / "results"
VGG19 = "deepgaze-vgg19"
TITLES = {
    VGG19: "VGG-19 (DeepGaze-II-like)", "fastgaze-vgg11": "VGG-11 (FastGaze)", "densegaze": "DenseNet-121 (DenseGaze)",
    "mobilenetv2": "MobileNetV2", "mobilenetv2 0": "MobileNetV2",
    "mobilenetv2 1": "MobileNetV2, second of the ensemble", "mobilenetv2 2": "MobileNetV2, third of the ensemble",
    "mobilenetv2 ensemble": "MobileNetV2, the ensemble",
}  # fmt: skip
SHOWN = (
    VGG19, "fastgaze-vgg11", "fastgaze-vgg11, ours, 1/2", "mobilenetv2 0", "mobilenetv2", "mobilenetv2, int8",
    "mobilenetv2, ours, 1/2", "mobilenetv2, ours, 1/2, int8", "mobilenetv2, uniform width, 1/2",
    "mobilenetv2, ours, 1/4", "mobilenetv2, ours, 1/4, int8", "mobilenetv2, uniform width, 1/4",
    "mobilenetv2, ours, 1/8", "mobilenetv2, uniform width, 1/8", "TinyHD", "attention-center",
)  # fmt: skip
"""The rows of the README, where they were measured; docs/benchmarks.md has them all."""
HEAD = ["network", "10⁹ MACs", "AUC", "AUC less VGG-19's (95 % interval)", "NSS"]
TIMES = ["ms, one thread", "times VGG-19's speed", "ms, all cores"]
MORE = ["AUC less the ensemble's", "information gain, bit", "ms on the GPU"]
MORE_TIMES = ["times VGG-19's speed, all cores", "of the MAC cut came true"]


def gaze() -> list[str]:
    """Return the table of gaze networks on the set that none of them saw, latencies where they were measured."""
    found = _read("gaze")
    networks, base = found["networks"], found["baselines"]
    seen = [row for row in SHOWN if row in _told(networks)]
    timed = any("one_thread_ms" in networks[row] for row in seen)
    where = f"; latency with ONNX Runtime, batch 1, {_machine(found)}" if timed else ""
    centre, others, residual = (base[name]["auc"] for name in ("centre bias", "other viewers", "spectral residual"))
    return [
        "Gaze networks trained on OSIE and EyeCrowd by a MobileNetV2 ensemble, on the 500 pictures of Scene500 that"
        f" none saw, 384 x 512 (`benchmarks/gaze_networks.sh`, `benchmarks/gaze.py`; trained on one"
        f" {found['trained_on']}{_cut_elsewhere(found['training'])}{where}):",
        "",
        *_table([_cells(row, networks[row]) for row in seen], HEAD + (TIMES if timed else [])),
        "",
        f"The centre bias has AUC {centre:.3f}, spectral residual {residual:.3f}, other people {others:.3f}. The VGG"
        " backbones were trained from nothing, probably why the smallest network is the best; after equally short"
        " training no way of cutting them stands out. On MobileNetV2, cut our way and uniformly only, ours does.",
        *_lenet_sentence(),
    ]


def _told(networks: dict[str, Any]) -> dict[str, Any]:
    """Return the networks without the first of the ensemble where it stands for all under their name."""
    return {row: facts for row, facts in networks.items() if row != "mobilenetv2 0" or "mobilenetv2" not in networks}


def _cut_elsewhere(training: dict[str, Any]) -> str:
    """Tell where MobileNetV2's network was cut and trained again, if not where the others were trained."""
    settings = training.get("settings of mobile", {"device": "cuda"})
    if settings["device"] != "cpu":
        return ""
    return f", MobileNetV2's cuts on a processor: {settings['steps']} steps of {settings['batch_size']} pictures each"


def gaze_details() -> list[str]:
    """Return all networks, all areas of LeNet-5, and the measures' times beside pysaliency's."""
    found = _read("gaze")
    networks = found["networks"]
    timed = any("one_thread_ms" in facts for facts in networks.values())
    told = _told(networks)
    rows = [row for row, facts in told.items() if "auc" in facts or "one_thread_ms" in facts or "engine" in facts]
    # The largest networks first, what was cut from each behind it.
    rows.sort(key=lambda row: -networks.get(row.partition(", ")[0], {}).get("macs", 0))
    heads = HEAD + MORE + (TIMES + MORE_TIMES if timed else [])
    lines = [_cells(row, networks[row]) | _more(networks[row]) for row in rows]
    notes: dict[str, list[str]] = {}
    for row, facts in networks.items():
        if "note" in facts:
            notes.setdefault(facts["note"], []).append(_title(row))
    speed = [
        f"Latency: ONNX Runtime, batch 1, {_machine(found)}, {found['rounds']} rounds of fresh sessions. What came true"
        " of a cut is ln(speed-up) / ln(MACs before / MACs after), of networks cut from the same one.", "",
        "![AUC, NSS and information gain against latency](../benchmarks/results/gaze.png)", "",
    ] if timed else []  # fmt: skip
    return [
        "All networks of the README's table of gaze prediction (`benchmarks/gaze.py`):", "",
        *_table(lines, heads), "", f"The GPU is {found['trained_on']}; batch 1, float16, in CUDA graphs.", "", *speed,
        *(f"{'; '.join(of)}: {note}." for note, of in notes.items()), "",
        *_without_network(found["baselines"]), "", *measures(), *lenet(),
    ]  # fmt: skip


def _without_network(baselines: dict[str, dict[str, float]]) -> list[str]:
    """Return what needs no network, and how well other people do."""
    lines = [{"": name} | {m: f"{facts[m]:.3f}" for m in ("auc", "auc_judd", "nss")}
             for name, facts in baselines.items()]  # fmt: skip
    return [
        "On the same pictures without a network, and by the fixations of the other people who saw them:", "",
        "| | AUC | AUC-Judd | NSS |", "|---" * 4 + "|", *(f"| {' | '.join(line.values())} |" for line in lines),
    ]  # fmt: skip


def measures() -> list[str]:
    """Return the measures' times beside pysaliency's."""
    found = _read("gaze_metrics")
    gold, which = found["viewers left out"]["gold_standard"], f"pysaliency {found['pysaliency']}"
    return [
        f"Gaze measures beside {which} as users call them on a set of pictures, from the fixations to the mean over the"
        " pictures, all maps at hand (`benchmarks/gaze_metrics.py`, one thread,"
        f" {found['machine']['cpu']}): processor milliseconds a picture, ours and theirs, and how many times faster."
        f" Values differ by {_largest(found['calls']):.0e} at most.",
        "", *_faster(found["calls"]), "",
        "The functions of arrays beneath, which pysaliency calls picture by picture:",
        "", *_faster(found["kernels"]), "",
        f"The gold standard, viewers left out in turn: {gold['ours_ms']:.2f} against {gold['pysaliency_ms']:.1f} ms"
        f" ({gold['times_faster']:.0f} times). Measures of whole maps are bounded by reading them from memory, and by"
        " the logarithm of every cell.",
    ]  # fmt: skip


def _largest(sizes: dict[str, Any]) -> float:
    return max(row.get("largest_difference", 0.0) for rows in sizes.values() for row in rows.values())


def _faster(sizes: dict[str, Any]) -> list[str]:
    """Return the table of measures, ours and pysaliency's at every size."""
    lines = [
        "| measure | " + " | ".join(f"{size}: ours | pysaliency | times" for size in sizes) + " |",
        "|---|" + "---|---|---|" * len(sizes),
    ]
    for name in next(iter(sizes.values())):
        cells = (f"{row['ours_ms']:.3f} | {row['pysaliency_ms']:.2f} | {row['times_faster']:.1f}"
                 for row in (rows[name] for rows in sizes.values()))  # fmt: skip
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def lenet() -> list[str]:
    """Return the table of LeNet-5 cut to the paper's budgets, where it was measured."""
    if not (RESULTS / "lenet.json").exists():
        return []
    found = _read("lenet")
    budgets = sorted({row["budget"] for row in found["rows"] if row["budget"] < 1}, reverse=True)
    lines = [
        "",
        "LeNet-5 on MNIST (`benchmarks/lenet.py`): error in per cent on the test set, mean and half the range over"
        f" seeds (of ours {_num_seeds(found)}); all ways from the same uncut networks, error"
        f" {_spread(found, 'uncut', 1.0)}, by the same training."
        f"{_price(found)} Published (Theis et al. 2018): 0.80 uncut, Fisher with the cost term 0.79 at 10 %, automatic"
        " 0.86 at 17 %, without it 0.84 at 26 %.",
        "",
        "| way | " + " | ".join(f"{budget:.0%} of the cost" for budget in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    ways = dict.fromkeys(row["way"] for row in found["rows"] if row["way"] != "uncut")
    cells = {way: [_spread(found, way, budget) for budget in budgets] for way in ways}
    return [*lines, *(f"| {way} | {' | '.join(row)} |" for way, row in cells.items())]


def _lenet_sentence() -> list[str]:
    if not (RESULTS / "lenet.json").exists():
        return []
    found = _read("lenet")
    return [
        "",
        f"LeNet-5 on MNIST cut to 10 % of its cost our way has error {_spread(found, 'ours', 0.1)} % on the test set"
        f" (uncut {_spread(found, 'uncut', 1.0)} %; published for Fisher pruning at that cost: 0.79 %;"
        f" `benchmarks/lenet.py`, seeds: {_num_seeds(found)}).",
    ]


def _price(found: dict[str, Any]) -> str:
    if not found.get("price"):
        return ""
    return (
        f" Fisher pays {found['price']['chosen']:.3g} nats a giga-multiply-add, of"
        f" {len(found['price']['loss_by_beta'])} prices the best on held-out training pictures."
    )


def _num_seeds(found: dict[str, Any]) -> int:
    return len({row["seed"] for row in found["rows"] if row["way"] == "ours"})


def _spread(found: dict[str, Any], way: str, budget: float) -> str:
    errors = [row["error_percent"] for row in found["rows"] if (row["way"], row["budget"]) == (way, budget)]
    spread = f" ± {(max(errors) - min(errors)) / 2:.2f}" if len(errors) > 1 else ""
    return f"{mean(errors):.2f}{spread}" if errors else ""


def _table(lines: list[dict[str, str]], heads: list[str]) -> list[str]:
    """Return a table with the columns of these heads that any line has something in."""
    heads = [head for head in heads if any(line.get(head) for line in lines)]
    rows = (f"| {' | '.join(line.get(head, '') for head in heads)} |" for line in lines)
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]


def _cells(row: str, facts: dict[str, Any]) -> dict[str, str]:
    """Return a network's cells by the heads of their columns."""
    scored = facts | facts.get("engine", {})
    found = {HEAD[0]: _title(row), HEAD[3]: "" if row == VGG19 else _signed(scored.get("minus_vgg19"))}
    numbers = {HEAD[1]: ("macs", ".2f"), HEAD[2]: ("auc", ".4f"), HEAD[4]: ("nss", ".2f"),
               TIMES[0]: ("one_thread_ms", ".1f"), TIMES[2]: ("all_cores_ms", ".1f")}  # fmt: skip
    scored |= {"macs": scored["macs"] / 1e9} if "macs" in scored else {}
    found |= {head: format(scored[key], form) for head, (key, form) in numbers.items() if key in scored}
    return found | ({} if row == VGG19 else {TIMES[1]: _times(facts.get("one_thread_speedup_over_vgg19"))})


def _more(facts: dict[str, Any]) -> dict[str, str]:
    """Return the cells that the README leaves out."""
    scored = facts | facts.get("engine", {})
    found = {
        MORE[0]: _signed(scored.get("minus_ensemble")),
        MORE_TIMES[0]: _times(facts.get("all_cores_speedup_over_vgg19")),
    }
    numbers = {MORE[1]: ("information_gain_bit", ".2f"), MORE_TIMES[1]: ("one_thread_realised_fraction", ".2f"),
               MORE[2]: ("gpu_ms", ".2f")}  # fmt: skip
    return found | {head: format(scored[key], form) for head, (key, form) in numbers.items() if key in scored}


def _signed(differences: dict[str, list[float]] | None) -> str:
    if differences is None or not any(differences["auc"]):
        return ""  # not compared, or with itself
    value, low, high = differences["auc"]
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def _times(faster: list[float] | None) -> str:
    return "" if faster is None else f"{faster[0]:.1f} ({faster[1]:.1f} to {faster[2]:.1f})"


def _title(row: str) -> str:
    network, _, rest = row.partition(", ")
    parts = [TITLES.get(network, network), *([rest.replace("int8", "eight bits")] if rest else [])]
    return ", ".join(parts).replace("Torch-Pruning, ", "Torch-Pruning ")


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    return f"{machine['cpu']}, {machine['num_cores']} cores"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())
