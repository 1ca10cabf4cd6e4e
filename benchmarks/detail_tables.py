"""Tables of docs/benchmarks.md from benchmarks/results/*.json; `readme_tables` writes them."""

import json
from collections.abc import Callable
from typing import Any

from gaze_tables import gaze_details
from pruning_tables import RESULTS, healed_picture, pruning_quality

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
NAMES = {"resnet56": "ResNet-56", "gaze": "gaze network"}


def details() -> str:
    """Return the tables that stand between the page's markers."""
    lines = ["## Cut at once, without training", "", *pruning_quality(), "", *healed_picture()]
    lines += ["## Signals against the oracle", ""]
    lines += [*signal_oracle(), "", *calibration_cost(), "## The stopwatch", "", *stopwatch()]
    precise, carried = precision(), deployment()
    lines += ["", "## Precision and storage", *precise] if precise else []
    lines += ["", "## Files and images", *carried] if carried else []
    lines += ["", "## Gaze prediction", "", *gaze_details()]
    return "\n".join(lines) + "\n"


def calibration_cost() -> list[str]:
    """Return what the pass over gates takes beside a plain forward and backward, where that was measured."""
    path = RESULTS / "calibration_cost.json"
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    told = [
        f"{name} {row['processor_ratio']:.2f} ({row['lowest']:.2f} to {row['highest']:.2f})"
        for name, row in found.items() if isinstance(row, dict) and "processor_ratio" in row
    ]  # fmt: skip
    return [
        "The pass that collects the Gram matrices of all groups' gates takes, in times of a plain forward and backward"
        f" of the same pictures (`benchmarks/calibration_cost.py`, {found['machine']['cpu']}, one thread, median and"
        f" range of paired rounds): {', '.join(told)}. It needs no gradients of weights.",
        "",
    ]


def signal_oracle() -> list[str]:
    """Return the table of signals against the loss that removing each channel really adds."""
    found = json.loads((RESULTS / "signal_oracle.json").read_text())
    rows = found["signals"]
    combined = sorted((name for name in rows if "/" in name), key=lambda name: -rows[name]["change"])
    # Many combinations are the same in other words: the first of each stands for them.
    first = {tuple(rows[name].values()): name for name in reversed(combined)}
    different = sorted(first.values(), key=combined.index)
    named = sorted((name for name in rows if "/" not in name), key=lambda name: -rows[name]["change"])
    return [
        f"Rank correlation with the change of the loss when one channel is removed: {found['num_channels']} channels of"
        f" {found['network']} in {found['num_groups']} groups, {found['num_samples']} images for the signals and as"
        " many others for the loss, true labels, no fine-tuning (`benchmarks/signal_oracle.py`). Of all"
        f" {len(combined)} combinations of the four tables the five best different ones are listed:",
        "",
        "| signal | size of the change | the same, within groups | rise |",
        "|---|---|---|---|",
        *(f"| `{name}` | {rows[name]['change']:.2f} | {rows[name]['within']:.2f} | {rows[name]['rise']:.2f} |"
          for name in [*named, *different[:5]]),
        "",
        f"Two halves of the test images agree on the size to {found['halves']['change']:.2f}, on the rise to"
        f" {found['halves']['rise']:.2f}.",
    ]  # fmt: skip


def stopwatch() -> list[str]:
    """Return the table of comparisons whose truth is known."""
    file = RESULTS / "stopwatch_synthetic.json"
    worlds = json.loads(file.read_text())["synthetic"]
    trials = next(iter(worlds.values()))["null_trials"]
    lines = [
        f"The paired comparison where the truth is known (`benchmarks/stopwatch.py`, {trials} comparisons"
        " each, on clocks that only engines move): how often the 95 % interval holds it, how often a difference is"
        " claimed between equals, how often one of 3 % is found; beside it the interval of A timed first, then B.",
        "",
        "| machine | at most, s | equals: holds | claimed | 3 %: holds | found | A, then B: holds | worst error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in worlds.items():
        claimed = row["null_faster"] + row["null_slower"]
        lines.append(
            f"| {name} | {row['max_s']:.0f} | {row['null_coverage']:.0%} | {claimed:.0%} "
            f"| {row['planted_coverage']:.0%} | {row['planted_faster']:.0%} | {row['sequential_null_coverage']:.0%} "
            f"| {row['sequential_worst_error']:.0%} |"
        )
    return lines + measured({"stopwatch_real": stopwatch_real, "stopwatch_tools": stopwatch_tools})


def stopwatch_real(found: dict[str, Any]) -> list[str]:
    """Return what the comparison does on a real runtime."""
    row = found["real"]
    claimed = row["null_faster"] + row["null_slower"]
    return [
        f"On {found['backend']}, {found['network']}, {found['machine']['cpu']} (`benchmarks/stopwatch_real.py`,"
        f" {row['null_trials']} comparisons each of at most {found['max_s']:g} s): of equals the interval holds"
        f" {row['null_coverage']:.0%} and a difference is claimed in {claimed:.0%}; where"
        f" one makes 3 % more work the interval holds {row['planted_coverage']:.0%} and it is found in"
        f" {row['planted_faster']:.0%}."
    ]  # fmt: skip


def stopwatch_tools(found: dict[str, Any]) -> list[str]:
    """Return the table of medians beside those of other tools."""
    lines = [
        f"Median milliseconds of one network, each tool in {found['rounds']} fresh processes in turns, and how far"
        f" other tools are from ours within a turn, with quartiles (`benchmarks/stopwatch_tools.py`,"
        f" {found['machine']['cpu']}):",
        "",
        "| runtime | tool | median | difference |",
        "|---|---|---|---|",
    ]
    for runtime, tools in found["tools"].items():
        for tool, row in tools.items():
            low, high = row["quartiles"]
            difference = "" if tool == "secateur" else f"{row['against_secateur']:+.1%} ({low:+.1%} to {high:+.1%})"
            lines.append(f"| {RUNTIMES[runtime]} | {tool} | {1e3 * row['median_s']:.3f} | {difference} |")
    return lines


def precision() -> list[str]:
    """Return the tables of quantisation and packing, as far as they were measured."""
    return measured({"quantisation": quantisation, "packing": packing})


def deployment() -> list[str]:
    """Return the tables of files, of the image that serves and of what engines leave behind, as far as measured."""
    return measured({"onnx_cleanup": onnx_cleanup, "serve_size": serve_size, "engine_leaks": engine_leaks})


def measured(tables: dict[str, Callable[[dict[str, Any]], list[str]]]) -> list[str]:
    """Return those of some tables whose results are there."""
    lines: list[str] = []
    for name, told in tables.items():
        file = RESULTS / f"{name}.json"
        if file.exists():
            lines += ["", *told(json.loads(file.read_text()))]
    return lines


def onnx_cleanup(found: dict[str, Any]) -> list[str]:
    """Return the table of what onnxslim still finds in exported files."""
    versions = found["versions"]
    return [
        f"Nodes of exported torchvision networks, and after onnxslim {versions['onnxslim']} on top of the exporter's"
        " own clean-up (`benchmarks/onnx_cleanup.py`); what ONNX Runtime makes of either is what is computed.",
        "",
        "| network | nodes | after onnxslim | computed by ONNX Runtime | after onnxslim |",
        "|---|---|---|---|---|",
        *(f"| {r['network']} | {r['nodes']} | {r['slimmed']} | {r['run']} | {r['slimmed_run']} |"
          for r in found["rows"]),
    ]  # fmt: skip


def serve_size(found: dict[str, Any]) -> list[str]:
    """Return the table of what the image target `serve` installs."""
    return [
        f"What pip installs for the image target `serve`, beside Python {found['python']}"
        " (`benchmarks/serve_size.py`, in clean environments from which an engine was then run).",
        "",
        "| runtime | size | packages |",
        "|---|---|---|",
        *(f"| {RUNTIMES[name]} | {told['bytes'] / 1e6:.0f} MB | {told['packages']} |"
          for name, told in found["runtimes"].items()),
    ]  # fmt: skip


def engine_leaks(found: dict[str, Any]) -> list[str]:
    """Return the table of the memory that engines leave behind."""
    ran = {name: told for name, told in found["backends"].items() if "skipped" not in told}
    one, names = next(iter(ran.values())), {**RUNTIMES, "torch": "PyTorch"}

    def slope(told: dict[str, Any]) -> str:
        return "{bytes_each:,.1f} ({low:,.1f} to {high:,.1f})".format(**told)

    return [
        f"Bytes that a call leaves in the process's memory, of {one['calls']['times']:,}, and an engine that is built,"
        f" loaded and closed, of {one['loads']['times']:,} (`benchmarks/engine_leaks.py`): the slope over the second"
        " half, with its 95 % interval (Theil and Sen).",
        "",
        "| runtime | a call | an engine |",
        "|---|---|---|",
        *(f"| {names.get(name, name)} {told['version'].split('-')[0]} "
          f"| {slope(told['calls'])} | {slope(told['loads'])} |" for name, told in ran.items()),
    ]  # fmt: skip


def quantisation(found: dict[str, Any]) -> list[str]:
    """Return the table of pruning alone, quantisation alone and both; speed-ups are there where they were timed."""
    timed = {(row["file"], row["backend"]): row for row in found["latency"]}
    lines = [
        "Eight-bit activations and weights, ours and the peers' from the same float32 files and calibration samples"
        f" (`benchmarks/quantisation.py`, up to {found['num_test']:,} test samples); `qat` was trained rounded for"
        f" {found['qat_steps']} steps, weights of four and of falling bits have four on average. Lost: what the primary"
        " metric, in per cent, is below the float32 network of the same state, with 95 % intervals. Speed-up: over"
        " that network, and of pruned float32 networks over the whole one; one thread, one sample.",
        "",
        "| network | precision by | size | " + " | ".join(
            f"{title}: lost | speed-up" for title in RUNTIMES.values()) + " |",
        "|---|---|---|" + "---|---|" * len(RUNTIMES),
    ]  # fmt: skip
    for row in found["rows"]:
        cells = []
        for runtime in RUNTIMES:
            lost = row["lost"][runtime]
            at_all = f"{100 * row['quality'][runtime]:.1f} % kept"
            percent = [100 * lost[key] for key in ("value", "low", "high")]
            cells.append(at_all if row["by"] == "float32" else "{:.2f} ({:.2f} to {:.2f})".format(*percent))
            latency = timed.get((row["file"], runtime))
            cells.append("" if latency is None else f"{latency['speedup']['value']:.2f}")
        size = f"{row['size_bytes'] / 1e3:,.0f} kB"
        named = f"{NAMES[row['network']]}, {row['state']}"
        by = row["by"] if row["by"].startswith(("secateur", "float")) else f"{row['by']} {row['version']}"
        lines.append(f"| {named} | {by} | {size} | {' | '.join(cells)} |")
    return lines


def packing(found: dict[str, Any]) -> list[str]:
    """Return the tables of sizes, and of products on the coded form."""
    lines = [
        "Packed files (`benchmarks/packing.py`): kilobytes, what zstd makes of the same file, what no code of single"
        " values can do without for its tensors, and the metric of the unpacked file in per cent, without training, on"
        f" up to {found['num_test']:,} test samples.",
        "",
        "| network | weights | archive | zstd -19 | entropy | of the uncut weights | metric |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {NAMES[row['network']]}, {row['state']} | {row['way']} | {row['archive_bytes'] / 1e3:,.0f} "
        f"| {row['zstd_bytes']['file'] / 1e3:,.0f} | {row['entropy_bytes'] / 1e3:,.0f} "
        f"| {row['ratio_of_weights']:.1%} | {100 * row['quality']:.1f} |"
        for row in found["rows"]
    ]
    shape = " x ".join(str(length) for length in found["product_shape"])
    whole, connected = (found["published"][f"{part}, least"] for part in ("whole network", "fully connected layers"))
    lines += [
        "",
        f"Of networks of their own, trained after sharing, Marinò et al. (2021, arXiv 2108.12704) keep {whole:.1%} of"
        f" the weights at best, {connected:.1%} of those of fully connected layers.",
        "",
        f"A product of a {shape} matrix of 33 values with a vector, in milliseconds, and what the matrix takes:",
        "",
        "| zeros | dense | sparse (CSR) | ham | sham |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['zeros']:.0%} | " + " | ".join(
            f"{1e3 * row[f'{form}_s']:.2f} ms, {row[f'{form}_bytes'] / 1e3:,.0f} kB"
            for form in ("dense", "csr", "ham", "sham")) + " |"
        for row in found["products"]
    ]  # fmt: skip
    return lines
