"""A few photographs for the report, from the files that come with scikit-image; nothing is downloaded."""

from pathlib import Path

import skimage
import torch
from jaxtyping import Float
from torch import Tensor

from secateur.workloads.gaze.recording import read_picture

FILES = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}


def photographs() -> dict[str, Float[Tensor, "3 height width"]]:
    """Return photographs by name, RGB in 0..1, stretched to the gaze network's input size.

    DataError where scikit-image was installed without its pictures.
    """
    folder = Path(skimage.__file__).parent / "data"
    return {name: read_picture(folder / file).to(torch.float32) / 255 for name, file in FILES.items()}
