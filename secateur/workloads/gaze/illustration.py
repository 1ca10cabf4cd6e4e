"""Pictures for the report: where people looked, and where the network and its compressed form expect them to look."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

__all__ = ["illustrate"]

COLOURS = np.array([[0, 0, 0], [60, 15, 110], [190, 50, 80], [250, 150, 20], [255, 250, 170]], dtype=np.float64)
"""Dark to bright, evenly spaced, brightness rising throughout so that the map also reads in grey."""

CAPTIONS = ("picture", "fixations", "original", "compressed")
GAP, HEAD = 4, 16


def illustrate(
    inputs: Float[Tensor, "3 height width"],
    targets: Float[Tensor, "rows columns"] | None,
    outputs: Float[Tensor, "rows columns"],
    compressed_outputs: Float[Tensor, "rows columns"],
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """Draw panels side by side: the picture, its fixations if known, the network's density, the compressed network's.

    Fixations are shown as a density blurred by one cell. The two networks share one scale of colours, the fixations
    have their own: few samples peak higher than the density they come from.
    """
    picture = inputs.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy() * 255
    height, width = picture.shape[:2]
    known = [] if targets is None else [_blurred(targets)]
    maps = torch.stack([*known, outputs.float().exp(), compressed_outputs.float().exp()]).detach().cpu()
    large = functional.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0].numpy()
    peaks = [*(heat.max() for heat in large[: len(known)]), large[-2:].max(), large[-2:].max()]
    heats = [np.sqrt(np.clip(heat / max(float(peak), 1e-12), 0, 1)) for heat, peak in zip(large, peaks, strict=True)]
    panels = [picture, *(_overlay(picture, heat) for heat in heats)]
    captions = [caption for caption in CAPTIONS if targets is not None or caption != "fixations"]
    canvas = Image.new("RGB", (len(panels) * (width + GAP) - GAP, HEAD + height), "white")
    draw = ImageDraw.Draw(canvas)
    for place, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = place * (width + GAP)
        draw.text((left + 2, 2), caption, fill=(40, 40, 40))
        canvas.paste(Image.fromarray(panel.round().astype(np.uint8)), (left, HEAD))
    return np.array(canvas)


def _blurred(counts: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    taps = torch.softmax(-0.5 * torch.arange(-3.0, 4.0, device=counts.device) ** 2, dim=0)
    padded = functional.pad((counts / counts.sum().clamp_min(1)).float()[None, None], (3, 3, 3, 3), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[0, 0]


def _overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colour the heat map and lay it over the greyed picture, stronger where it is hot."""
    place = np.linspace(0, 1, len(COLOURS))
    colour = np.stack([np.interp(heat, place, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    grey = np.broadcast_to(picture.mean(axis=-1, keepdims=True) * 0.6, picture.shape)
    strength = 0.25 + 0.75 * heat[..., None]
    return (1 - strength) * grey + strength * colour
