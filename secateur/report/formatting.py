"""Print quantities for people: one place decides on units, digits and names."""

import math

from secateur.artifacts import QUANTIZED, Interval

BACKEND_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime_cuda": "ONNX Runtime with CUDA",
    "onnxruntime_tensorrt": "ONNX Runtime with TensorRT",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT for RTX",
    "torch": "PyTorch",
}
_MINUS = "\u2212"


def significant(value: float, digits: int = 3, *, trim: bool = False) -> str:
    """Print a number with so many significant digits, without an exponent where the number is of everyday size.

    ``trim`` drops trailing zeros, for numbers that were given rather than measured.
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    power = int(exponent)
    if trim and "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    if -5 < power < 6:
        decimals = len(mantissa.partition(".")[2]) - power
        text = f"{float(f'{mantissa}e{power}'):,.{max(0, decimals)}f}"
    else:
        text = f"{mantissa}e{power}"
    return text if value > 0 else f"{_MINUS}{text}"


def seconds(value: float, digits: int = 3, *, trim: bool = False) -> str:
    """Print a latency or duration in the unit that keeps the number short: µs, ms, s, min or h."""
    if not math.isfinite(value):
        return significant(value)
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if abs(value) < limit:
            return f"{significant(value * scale, digits, trim=trim)} {unit}"
    return f"{significant(value / 3600, digits, trim=trim)} h"


def size(num_bytes: float | int) -> str:
    """Print a size in decimal units: B, kB, MB or GB."""
    return _scaled(num_bytes, ("B", "kB", "MB", "GB", "TB"))


def count(value: float | int) -> str:
    """Print a large count of MACs or parameters with a decimal prefix: 1.81 G, 23.5 M, 412 k."""
    return _scaled(value, ("", "k", "M", "G", "T", "P"))


def percent(share: float, digits: int = 3) -> str:
    """Print a share in [0, 1] as a percentage; tiny ones keep one decimal instead of many digits."""
    if not math.isfinite(share):
        return significant(share)
    decimals = 0 if abs(share) >= 0.9995 and digits <= 3 else max(0, min(digits - 2, 2))
    return f"{share * 100:.{decimals}f} %".replace("-", _MINUS)


def ratio(value: float, digits: int = 3, *, trim: bool = False) -> str:
    """Print a factor: 2.71x."""
    return f"{significant(value, digits, trim=trim)}x" if math.isfinite(value) else significant(value)


def separating_digits(value: float, low: float, high: float, *, least: int = 2, most: int = 4) -> int:
    """Return how many significant digits tell an interval's ends from one another and its value from 1."""
    for digits in range(least, most):
        ends = low == high or significant(low, digits) != significant(high, digits)
        if ends and (value == 1 or significant(value, digits, trim=True) != "1"):
            return digits
    return most


def confidence(interval: Interval) -> str:
    """Name an interval's level: 95 % interval."""
    return f"{interval.confidence * 100:g} % interval"


def quantity(name: str, value: float, digits: int = 3, *, trim: bool = False) -> str:
    """Print a gate's quantity in its own unit: times, bytes, factors, and all else as a number."""
    name = name.removeprefix(f"{QUANTIZED}_")
    if name in ("latency_s", "p99_s"):
        return seconds(value, digits, trim=trim)
    if name in ("speedup", "mac_ratio", "parameter_ratio", "size_ratio"):
        return ratio(value, digits, trim=trim)
    if name == "size_bytes" and math.isfinite(value):
        return f"{value:,.0f} B"
    return significant(value, digits, trim=trim)


def span(name: str, interval: Interval) -> str:
    """Print an interval's value and, where it is not a point, its ends: 2.71x [2.64x, 2.78x]."""
    value = quantity(name, interval.value)
    if interval.low == interval.high:
        return value
    return f"{value} [{quantity(name, interval.low)}, {quantity(name, interval.high)}]"


def requirement(name: str, at_least: float | None, at_most: float | None) -> str:
    """Print what a gate asks for, as it was given: at least 2x."""
    bounds = (("at least", at_least), ("at most", at_most))
    return " and ".join(f"{word} {quantity(name, line, 6, trim=True)}" for word, line in bounds if line is not None)


def metric_label(name: str) -> str:
    """Name a metric for a sentence: short names are acronyms, underscores become spaces."""
    return " ".join(word.upper() if len(word) <= 3 and word.isalpha() else word for word in name.split("_"))


def backend_label(name: str) -> str:
    """Name a backend for a sentence; an unknown one keeps its own name."""
    return BACKEND_NAMES.get(name, name)


def shortened(text: str, length: int) -> str:
    """Shorten a dotted name to a length by dropping its beginning, which is what names share; whole parts if it can."""
    if len(text) <= length:
        return text
    end = text[-(length - 1) :]
    _, dot, whole = end.partition(".")
    return "…" + (whole if dot and len(whole) * 2 >= length else end)


def _scaled(value: float | int, units: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    number = f"{value:.0f}" if step == 0 and float(value).is_integer() else significant(value)
    return f"{number} {units[step]}".strip()
