"""Cut trained networks to a half, a quarter and a tenth, train all of them equally, and compare.

Each way of `pruning_ways` that is compared makes its networks of the same calibration pictures; all settle, and then
take the same steps of the same fine-tuning (`healing`), with distillation from the uncut network, on the same pictures
in the same order. Every seed draws calibration pictures and steps anew. At every budget each way takes the learning
rate of `RATES` with which its own network of the first seed ends best on a tenth of the training pictures, which these
trials neither cut by nor learn from; no way ever chooses anything on test pictures. Parts of the ablation have the rate
of the whole.
``ours`` are the defaults; the ablation takes away or exchanges one part of the cut at once at a time. A way that cannot
reach a budget says so in its row. Accuracy is that on CIFAR-10's test set; of the ImageNet pictures each seed tests on
another third and learns from the others, and nobody sees more.

Rows are made by ``--workers`` processes that share a device, the most telling first, and written one by one to
``rows.jsonl`` in ``--out``: what is not done after ``--seconds`` is left, and a rerun goes on from there. The networks
of the first seed are kept beside them, in half precision, and packed into ``networks.tar``. `pruning_latency` times
them, and writes results/pruning_healed.json and .png.

    pip install torch-pruning==1.6.1
    python benchmarks/pruning_healed.py --weights models/cifar10_resnet_akamaster --cifar10 cifar10 --out /tmp/healed
    python benchmarks/pruning_healed.py --weights models --imagenet imagenet_val1300 --out /tmp/healed

Without a GPU few steps are possible; ``--steps`` and ``--ratios`` say how many and what is left out:

    python benchmarks/pruning_healed.py --weights models/cifar10_resnet_akamaster --cifar10 cifar10 --out /tmp/healed \
        --networks resnet20 --steps 120 --batch-size 64 --test 5000 --ways ours "uniform*" "Torch-Pruning*"
"""

import argparse
import json
import math
import multiprocessing
import tarfile
import time
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from healed_jobs import RATES, RATIOS, Job, facts_of, jobs, place_of, read_rows, tuned_first
from healed_rows import Work
from pictures_on_device import decode_cifar10, decode_imagenet
from pruning_ways import SUBJECTS

LARGEST_TAR = 15 << 20


def work(arguments: argparse.Namespace, todo: list[Job], taken: Any, end: float) -> None:
    """Make rows until none is left or the time is up."""
    torch.set_num_threads(1)
    own = Work(arguments=arguments)
    while time.time() < end:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        if number >= len(todo):
            return
        job, start = todo[number], time.perf_counter()
        try:
            row = own.row(job)
        except Exception as error:  # one row less must not end the others
            row = facts_of(job) | {"failed": f"{type(error).__name__}: {error}"}
        row["row_s"] = time.perf_counter() - start
        if job.tuning:
            _write(own.trial(job), str(row.get("learning_rate", RATES[job.network][0])))
        with (arguments.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.replace(path)


def decode(arguments: argparse.Namespace) -> None:
    """Decode the pictures that are wanted, for all processes."""
    for kind, folder, decoded in (
        ("cifar10", arguments.cifar10, decode_cifar10), ("imagenet", arguments.imagenet, decode_imagenet),
    ):  # fmt: skip
        path = arguments.out / f"{kind}.npz"
        if folder and not path.exists():
            partial = path.with_suffix(".part.npz")
            np.savez(partial, **decoded(folder, arguments.num))
            partial.replace(path)


def pack(folder: Path, todo: list[Job]) -> None:
    """Pack the kept networks, the most telling first, as far as they fit."""
    left = LARGEST_TAR
    with tarfile.open(folder / "networks.tar", "w") as tar:
        for job in todo:
            path = folder / "networks" / job.file
            size = sum(file.stat().st_size + 1024 for file in path.glob("*.*"))
            if job.seed == 0 and 0 < size <= left:
                tar.add(path, arcname=path.name)
                left -= size


def main() -> None:
    """Make the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--imagenet-epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, help="in place of epochs")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--num", type=int, help="pictures of each part, all where absent")
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--ways", nargs="*", help="patterns of names; all where absent")
    parser.add_argument("--ratios", type=float, nargs="*", default=list(RATIOS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--graphs", action="store_true", help="record a step on the GPU and play it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    arguments = parser.parse_args()
    end = time.time() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = [n for n in arguments.networks if (arguments.imagenet if n == "mobilenet_v2" else arguments.cifar10)]
    done = {place_of(row) for row in read_rows(arguments.out / "rows.jsonl") if "failed" not in row}
    everything = jobs(names, arguments.seeds)
    wanted = tuned_first([job for job in everything if _wanted(job, arguments)])
    todo = [job for job in wanted if place_of(vars(job)) not in done]
    for started in arguments.out.glob("taught-*"):
        started.unlink()  # of other settings, or left by a run that was stopped
    context = multiprocessing.get_context("spawn")
    taken = context.Value("i", 0)
    processes = [
        context.Process(target=work, args=(arguments, todo, taken, end), daemon=True) for _ in range(arguments.workers)
    ]
    for process in processes:
        process.start()
    decode(arguments)
    for process in processes:
        process.join(None if math.isinf(end) else max(0.0, end - time.time()))
    for process in processes:
        process.kill()
        process.join()
    pack(arguments.out, everything)
    facts = {
        "epochs": arguments.epochs, "imagenet_epochs": arguments.imagenet_epochs, "steps": arguments.steps,
        "device": _device(arguments.device),
        "num_calibration": arguments.calibration, "torch": torch.__version__, "torch_pruning": version("torch-pruning"),
    }  # fmt: skip
    (arguments.out / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{len(read_rows(arguments.out / 'rows.jsonl'))} of {len(everything)} rows", flush=True)


def _wanted(job: Job, arguments: argparse.Namespace) -> bool:
    """Tell whether a row was asked for; the uncut networks always are."""
    named = any(fnmatch(job.way, pattern) for pattern in arguments.ways or ["*"])
    return job.way == "uncut" or (named and job.ratio in arguments.ratios)


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name == "cuda" else name


if __name__ == "__main__":
    main()
