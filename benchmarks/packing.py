"""How small pruned and quantised networks get on disk, and what products on the coded form cost.

The networks of `pruned`, whole and pruned: as they are exported, with weights of each layer shared, and quantised with
eight-bit and four-bit weights and bits that fall with depth, as `quantisation` does it: files that it left in
``--files`` are taken. Every file is packed and measured against zstd (level 19) of the whole file and of its tensors'
bytes alone, and against the entropy of the values. Accuracy is that of the unpacked file in ONNX Runtime, without
training after sharing or rounding, on the first ``--test`` test samples. ``ratio_of_weights`` is comparable with what
Marinò et al. (2021, arXiv 2108.12704) report: the room that matrices and kernels take over that of the uncut network's
in float32. Products: one matrix at several shares of zeros, dense in numpy, sparse in scipy, and on the coded form by
blocks, called in turns; ``--products`` measures these only. Writes results/packing.json.

    python benchmarks/packing.py --files /tmp/quantised --weights cifar10_resnet_akamaster --data cifar10
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from pruned import SUBJECTS, pruned
from quantisation import FLOAT, OURS, WAYS, Engine, file_of, ours
from scipy.sparse import csr_array
from torch.utils.data import Subset

from secateur import Pack, pack, unpack
from secateur.artifacts import PackResult
from secateur.backends.machine import machine_facts
from secateur.calibration.batches import evaluate
from secateur.calibration.samples import CalibrationSamples, draw_samples
from secateur.pipeline.export import export
from secateur.pipeline.packing import CodedMatrix
from secateur.pipeline.packing.files import read_file
from secateur.pipeline.packing.forms import coded

RESULTS = Path(__file__).parent / "results" / "packing.json"
SHARED = {
    "exact": Pack(),
    "k-means, 32 levels": Pack(sharing="k-means", levels=32),
    "uniform, 32 levels": Pack(sharing="uniform", levels=32),
    "entropy, 32 levels": Pack(sharing="entropy", levels=32),
}
QUANTISED = {
    "int8": OURS, "four-bit weights": "secateur, four bits", "bits that fall with depth": "secateur, falling bits"
}  # fmt: skip
PUBLISHED = {
    "whole network, least": 0.0544, "fully connected layers, least": 0.006,
    "source": "Marino et al. 2021, arXiv 2108.12704, abstract; their networks, with training after sharing",
}  # fmt: skip
SHAPE = (2048, 1024)


def weight_bytes(found: PackResult) -> tuple[int, int]:
    """Return what matrices and kernels took and take."""
    weights = [t for t in found.tensors.values() if len(t.shape) >= 2]
    return sum(t.dense_bytes for t in weights), sum(t.coded_bytes for t in weights)


def zstd_bytes(path: Path) -> dict[str, int]:
    """Return what zstd makes of a file, and of its tensors' bytes one after the other."""
    compressor = zstandard.ZstdCompressor(level=19)
    tensors = b"".join(tensor.bits.tobytes() for tensor in read_file(path)[2].values())
    return {"file": len(compressor.compress(path.read_bytes())), "tensors": len(compressor.compress(tensors))}


def packed(source: Path, settings: Pack, quality: Callable[[Path], float]) -> dict[str, Any]:
    """Pack and unpack a file; return the sizes and what the unpacked file is worth."""
    archive, again = source.with_name(f"{source.stem}-stored.pack"), source.with_name(f"{source.stem}-unpacked.onnx")
    start = time.perf_counter()
    found = pack(source, archive, settings)
    middle = time.perf_counter()
    unpack(archive, again)
    end = time.perf_counter()
    tensors = list(found.tensors.values())
    return {
        "file_bytes": found.source_bytes, "archive_bytes": found.archive_bytes,
        "tensor_bytes": sum(t.dense_bytes for t in tensors), "coded_bytes": sum(t.coded_bytes for t in tensors),
        "entropy_bytes": round(sum(t.entropy_bytes for t in tensors)), "weight_bytes": weight_bytes(found)[1],
        "forms": sorted({t.form for t in tensors}), "zstd_bytes": zstd_bytes(again), "quality": quality(again),
        "pack_s": middle - start, "unpack_s": end - middle,
    }  # fmt: skip


def measure(name: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for every way to store a network."""
    subject = SUBJECTS[name]
    task, data = subject.task(), subject.data(arguments.data)
    test = Subset(data.test, range(min(arguments.test, len(data.test))))  # type: ignore[arg-type]
    samples: CalibrationSamples = draw_samples(
        data.train if data.calibration is None else data.calibration, data.test,
        num_samples=arguments.samples, batch_size=16, seed=0,
    )  # fmt: skip

    def quality(path: Path) -> float:
        return evaluate(Engine(path, "onnxruntime", 1), task, test, 50).metrics[task.primary]

    uncut = 0
    states = {
        "whole": subject.whole(arguments.weights),
        "pruned": pruned(name, arguments.weights, data, arguments.files, arguments.steps),
    }
    for state, model in states.items():
        stem = f"{name}-{state}"
        source = arguments.files / f"{stem}-{FLOAT}.onnx"
        if not source.exists():
            export(model, arguments.files, name=source.stem, tolerance=1e-3)
        uncut = uncut or weight_bytes(pack(source))[0]
        files = [(way, source, settings) for way, settings in SHARED.items()]
        for way, by in QUANTISED.items():
            path = arguments.files / f"{file_of(stem, by)}.onnx"
            if not path.exists():
                ours(WAYS[by], source, samples, model, subject, data, path.stem, arguments)
            files.append((way, path, Pack()))
        for way, path, settings in files:
            row = packed(path, settings, quality)
            yield {
                "network": name, "state": state, "way": way, "metric": task.primary, **row,
                "ratio_of_weights": row["weight_bytes"] / uncut,
            }  # fmt: skip


def products() -> Iterator[dict[str, Any]]:
    """Yield the median times of a product with one column, dense, sparse and on coded forms, by the share of zeros."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(SHAPE[1]).astype(np.float32)
    for zeros in (0.0, 0.5, 0.9, 0.99):
        values = generator.choice(generator.standard_normal(32).astype(np.float32), SHAPE)
        values[generator.random(SHAPE) < zeros] = 0
        sparse = csr_array(values)
        matrices: dict[str, Any] = {"dense": values, "csr": sparse}
        sizes = {"dense": values.nbytes, "csr": sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes}
        for form in ("ham", "sham"):
            matrices[form] = CodedMatrix(code=coded(values.view(np.uint32), form), dtype=values.dtype)
            sizes[form] = matrices[form].code.num_bytes
            assert np.allclose(matrices[form] @ x, values @ x, atol=1e-3)
        yield {
            "zeros": zeros, **{f"{form}_bytes": size for form, size in sizes.items()},
            **{f"{form}_s": spent_s for form, spent_s in medians_s(matrices, x).items()},
        }  # fmt: skip


def medians_s(matrices: dict[str, Any], x: np.ndarray, num_rounds: int = 15) -> dict[str, float]:
    """Return the median time of each matrix' product; they take turns, and the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in matrices}
    for _ in range(num_rounds + 1):
        for name, matrix in matrices.items():
            start = time.perf_counter()
            _ = matrix @ x
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(spent[1:])) for name, spent in times.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="where pruned networks are kept and files written")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--products", action="store_true", help="measure products only")
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning after pruning")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.products and None in (arguments.files, arguments.weights, arguments.data):
        parser.error("--files, --weights and --data, or --products")
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"rows": []}
    found |= {"products": list(products()), "product_shape": SHAPE, "machine": machine_facts().model_dump()}
    if arguments.products:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        return
    arguments.files.mkdir(parents=True, exist_ok=True)
    found["rows"] = [row for row in found["rows"] if row["network"] not in arguments.networks]
    found |= {"published": PUBLISHED, "steps": arguments.steps, "num_test": arguments.test}
    for name in arguments.networks:
        for row in measure(name, arguments):
            found["rows"].append(row)
            print(row, flush=True)
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
