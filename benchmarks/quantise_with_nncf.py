"""Quantise an ONNX file with NNCF's defaults; run by quantisation.py in an environment of NNCF's own.

    python quantise_with_nncf.py float.onnx images.npy quantised.onnx

Prints NNCF's version.
"""

import sys

import nncf
import numpy as np
import onnx


def main(source: str, images: str, target: str) -> None:
    """Quantise with every image once, one a call."""
    proto = onnx.load(source)
    name = proto.graph.input[0].name
    samples = [{name: image[None]} for image in np.load(images)]
    found = nncf.quantize(proto, nncf.Dataset(samples), subset_size=len(samples))
    onnx.save(found, target)
    print(nncf.__version__)


if __name__ == "__main__":
    main(*sys.argv[1:])
