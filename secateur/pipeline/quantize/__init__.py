"""Quantisation after training or by training: integers written into the ONNX file as Q/DQ nodes, and half precision."""

from secateur.pipeline.quantize.calibrators import CALIBRATORS, Calibrator
from secateur.pipeline.quantize.corrections import CORRECTIONS, Correction
from secateur.pipeline.quantize.half import HALVES, Halve
from secateur.pipeline.quantize.lint import lint
from secateur.pipeline.quantize.mixed import PRECISIONS, Mixed
from secateur.pipeline.quantize.placement import TARGETS, Target
from secateur.pipeline.quantize.qat import Qat
from secateur.pipeline.quantize.quantize import Quantize, Quantized

__all__ = [
    "CALIBRATORS",
    "CORRECTIONS",
    "HALVES",
    "PRECISIONS",
    "TARGETS",
    "Calibrator",
    "Correction",
    "Halve",
    "Mixed",
    "Qat",
    "Quantize",
    "Quantized",
    "Target",
    "lint",
]
