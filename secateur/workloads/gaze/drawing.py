"""Drawing on frames: the density as heat, the scan path as numbered circles."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from secateur.workloads.gaze.frames import Frame
from secateur.workloads.gaze.illustration import COLOURS

LEVELS = np.linspace(0, 1, 256)
PALETTE = np.stack(
    [np.interp(LEVELS, np.linspace(0, 1, len(COLOURS)), COLOURS[:, channel]) for channel in range(3)], axis=-1
).astype(np.uint16)  # fmt: skip
"""The colour of each level of heat."""


def draw_gaze(
    frame: Frame, log_density: Float[np.ndarray, "rows columns"], places: Float[np.ndarray, "fixations 2"]
) -> Frame:
    """Lay the density over the frame, stronger where it is hot, and the places as circles joined by lines.

    Heat is the root of the density relative to its peak. ``places`` are shares of width and height, in order.
    """
    height, width = frame.shape[:2]
    small = np.round(255 * np.exp(0.5 * (log_density - log_density.max()))).astype(np.uint8)
    heat = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
    picture = Image.fromarray(_blended(frame, heat))
    draw = ImageDraw.Draw(picture)
    points = [(float(across) * width, float(down) * height) for across, down in places]
    size = max(6.0, 0.02 * max(height, width))
    if len(points) > 1:
        draw.line(points, fill=(255, 255, 255), width=max(1, round(size / 5)))
    for number, (x, y) in enumerate(points, start=1):
        draw.ellipse((x - size, y - size, x + size, y + size), fill=(20, 20, 20), outline=(255, 255, 255))
        draw.text((x, y), str(number), fill=(255, 255, 255), anchor="mm")
    return np.array(picture)


def _blended(frame: Frame, heat: UInt8[np.ndarray, "height width"]) -> Frame:
    # In whole numbers: a quarter of the strength everywhere, the rest with the heat.
    strength = (64 + (heat.astype(np.uint16) * 3) // 4)[..., None]
    return ((frame * (255 - strength) + PALETTE[heat] * strength) // 255).astype(np.uint8)
