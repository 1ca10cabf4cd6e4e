"""A picture of one classified sample: the input beside both networks' likeliest classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

__all__ = ["Illustration"]

SIDE, BAR, ROW = 160, 150, 30
ORIGINAL, COMPRESSED, TRUTH = (47, 107, 168), (222, 132, 38), (38, 128, 62)


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """Draw a sample with the chances that the original (blue) and the compressed network (orange) give its classes.

    Shown are the five classes that the original thinks likeliest; the true class is written in green.
    """

    classes: tuple[str, ...] = ()

    def __call__(
        self, inputs: Any, targets: Any, outputs: Any, compressed_outputs: Any
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Return the drawing; inputs [3 or 1, height, width], targets a class or None, outputs logits [classes]."""
        picture = inputs[0] if isinstance(inputs, (tuple, list)) else inputs
        canvas = Image.new("RGB", (SIDE + BAR + 90, SIDE), "white")
        canvas.paste(_viewable(picture), (0, 0))
        draw = ImageDraw.Draw(canvas)
        before = torch.as_tensor(outputs).detach().float().cpu().softmax(dim=0)
        after = torch.as_tensor(compressed_outputs).detach().float().cpu().softmax(dim=0)
        for row, index in enumerate(before.topk(min(5, len(before))).indices.tolist()):
            top = 4 + row * ROW
            name = self.classes[index] if index < len(self.classes) else str(index)
            draw.text(
                (SIDE + 8, top + 6),
                name[:12],
                fill=TRUTH if targets is not None and index == int(targets) else (40, 40, 40),
            )
            for offset, chance, colour in ((0, before[index], ORIGINAL), (11, after[index], COMPRESSED)):
                left = SIDE + 85
                draw.rectangle((left, top + offset, left + round(BAR * float(chance)), top + offset + 9), fill=colour)
        return np.asarray(canvas)


def _viewable(picture: Tensor) -> Image.Image:
    """Stretch an input of any normalisation to the range of bytes and enlarge it without smoothing."""
    values = picture.detach().float().cpu()
    low, high = values.amin(), values.amax()
    values = (values - low) / (high - low).clamp_min(1e-12) * 255
    pixels = values.round().to(torch.uint8).permute(1, 2, 0).numpy()
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
