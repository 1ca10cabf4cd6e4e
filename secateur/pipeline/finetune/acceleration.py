"""The device, the arithmetic and the processes that a training runs with, by way of accelerate."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, is_initialized

from secateur.errors import TrainingError

__all__ = ["Device", "Precision", "accelerated"]

Device = Literal["auto", "cpu"]
Precision = Literal["no", "bf16", "fp16"]


@contextmanager
def accelerated(device: Device, precision: Precision) -> Iterator[Accelerator]:
    """Give an accelerator for the fastest device there is, or for the CPU.

    Where ``torchrun`` or ``accelerate launch`` started several processes they are connected, one device each, and stay
    so until they end. accelerate keeps its other settings for the whole process; they are forgotten on leaving, unless
    they were there before. TrainingError where the device cannot compute in that precision.
    """
    there_before = is_initialized()
    # Without a GPU accelerate connects processes only where it is told that the CPU is wanted.
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        try:
            accelerator = Accelerator(
                mixed_precision=precision,
                cpu=device == "cpu" or (launched and not torch.accelerator.is_available()),
            )
        except ValueError as error:
            raise TrainingError(
                f"fine-tuning with precision {precision!r} on device {device!r}", f"a refusal ({error})",
                "a precision that the device has, and that the process did not set otherwise before",
                "Choose precision 'no', or start a new process.",
            ) from error  # fmt: skip
        if precision != "no" and not accelerator.native_amp:
            raise TrainingError(
                f"fine-tuning with precision {precision!r}", f"device {accelerator.device.type!r}, which has none",
                "a precision that the device has", "Choose precision 'no'.",
            )  # fmt: skip
        yield accelerator
    finally:
        if not there_before:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
