"""Draw a gate as a strip: what is allowed, where the line is, and the interval that was measured."""

import math

from secateur.artifacts import GateResult

_WIDTH, _HEIGHT, _MARGIN = 180, 20, 8


def gate_strip(gate: GateResult) -> str:
    """Return a small ``<svg>``: the allowed side tinted, the line dashed, the interval with its value on it.

    Strips carry no numbers (the table has them) and each has a scale of its own; an end that is not finite runs to
    the strip's edge. Empty where nothing measured is finite.
    """
    lines = [line for line in (gate.at_least, gate.at_most) if line is not None]
    ends = [end for end in (gate.measured.low, gate.measured.value, gate.measured.high) if math.isfinite(end)]
    if not ends:
        return ""
    low, high = min(*lines, *ends), max(*lines, *ends)
    reach = (high - low) * 0.25 or abs(high) * 0.1 or 1.0

    def place(value: float) -> float:
        share = (value - (low - reach)) / (high - low + 2 * reach)
        return _MARGIN + min(max(share, 0.0), 1.0) * (_WIDTH - 2 * _MARGIN)

    least = _MARGIN if gate.at_least is None else place(gate.at_least)
    most = _WIDTH - _MARGIN if gate.at_most is None else place(gate.at_most)
    middle = _HEIGHT / 2
    parts = [f'<rect x="{least:.1f}" y="4" width="{most - least:.1f}" height="{_HEIGHT - 8}" rx="2" class="allowed"/>']
    parts += [f'<line x1="{place(x):.1f}" x2="{place(x):.1f}" y1="1" y2="{_HEIGHT - 1}" class="bound"/>' for x in lines]
    start, end = place(gate.measured.low), place(gate.measured.high)
    parts.append(f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" class="interval"/>')
    if math.isfinite(gate.measured.value):
        parts.append(f'<circle cx="{place(gate.measured.value):.1f}" cy="{middle}" r="3.5" class="{gate.verdict}"/>')
    inside = "".join(parts)
    return f'<svg class="strip" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">{inside}</svg>'
