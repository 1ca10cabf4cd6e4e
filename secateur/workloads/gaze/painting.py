"""Paint a layout: background, clutter, then the things, at twice the size and averaged down for smooth edges."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from secateur.workloads.gaze.layout import Layout, Thing
from secateur.workloads.gaze.network import INPUT_SIZE

SCALE = 2
WORDS = ("OPEN", "EXIT", "Taxi", "Cafe", "STOP", "Hotel", "Sale", "NEWS", "Bus 42", "Bread", "Museum", "Platz", "1984")
SKINS = ((236, 198, 170), (214, 164, 128), (170, 118, 84), (116, 76, 52), (246, 216, 196))
HAIRS = ((30, 24, 20), (90, 56, 30), (170, 130, 70), (120, 120, 124), (60, 30, 24))

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


def paint(layout: Layout) -> UInt8[Tensor, "3 height width"]:
    """Render a scene at the network's input size; the same layout gives the same pixels."""
    height, width = (SCALE * size for size in INPUT_SIZE)
    random = np.random.default_rng(layout.seed)
    background = _background(random)
    image = Image.fromarray(background).resize((width, height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    _clutter(draw, random, background)
    for thing in layout.things:
        box = (
            (thing.x - thing.half_width) * width, (thing.y - thing.half_height) * height,
            (thing.x + thing.half_width) * width, (thing.y + thing.half_height) * height,
        )  # fmt: skip
        PAINTERS[thing.kind](draw, np.random.default_rng(thing.seed), box, _surroundings(background, thing))
    grain = random.integers(-6, 7, (*INPUT_SIZE, 1), dtype=np.int16)
    noisy = np.asarray(image.reduce(SCALE), dtype=np.int16) + grain
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


def _colour(random: np.random.Generator, low: int = 0, high: int = 256) -> Colour:
    red, green, blue = (int(value) for value in random.integers(low, high, 3))
    return red, green, blue


def _shift(colour: Colour, by: float) -> Colour:
    red, green, blue = (int(min(max(value + by, 0), 255)) for value in colour)
    return red, green, blue


def _surroundings(background: np.ndarray, thing: Thing) -> Colour:
    height, width = background.shape[:2]
    red, green, blue = (int(value) for value in background[int(thing.y * height), int(thing.x * width)])
    return red, green, blue


def _background(random: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """Blend two colours along a direction and add cloudy noise, at the final size."""
    height, width = INPUT_SIZE
    first, second = (np.array(_colour(random, 40, 220), dtype=np.float32) for _ in range(2))
    angle = float(random.uniform(0, np.pi))
    down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
    across = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
    blend = np.clip(0.5 + down * np.sin(angle) + across * np.cos(angle), 0, 1)
    if random.random() < 0.4:  # a horizon
        blend = (down > random.uniform(-0.25, 0.25)) * 0.8 + 0.2 * blend
    coarse = random.normal(128, 40, (int(random.integers(4, 12)), int(random.integers(5, 16)))).clip(0, 255)
    noise = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    cloud = (np.asarray(noise, dtype=np.float32) - 128) * float(random.uniform(0.05, 0.35))
    pixels = first + (second - first) * blend[..., None] + cloud[..., None]
    return pixels.clip(0, 255).astype(np.uint8)


def _clutter(draw: ImageDraw.ImageDraw, random: np.random.Generator, background: np.ndarray) -> None:
    """Scatter strokes and pebbles that differ a little from what is under them."""
    height, width = INPUT_SIZE
    for _ in range(int(random.integers(10, 60))):
        row, column = int(random.integers(height)), int(random.integers(width))
        x, y = float(SCALE * column), float(SCALE * row)
        under = background[row, column]
        shade = _shift((int(under[0]), int(under[1]), int(under[2])), float(random.uniform(-30, 30)))
        if random.random() < 0.5:
            end = (x + float(random.uniform(-60, 60)), y + float(random.uniform(-60, 60)))
            draw.line((x, y, *end), fill=shade, width=int(random.integers(1, 5)))
        else:
            size = float(random.uniform(2, 12))
            draw.ellipse((x - size, y - size, x + size, y + size), fill=shade)


def _within(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """Return the part of a box given by shares of its width and height."""
    x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    return x + left * width, y + top * height, x + right * width, y + bottom * height


def _face(draw: ImageDraw.ImageDraw, random: np.random.Generator, box: Box, _: Colour) -> None:
    skin = _shift(SKINS[int(random.integers(len(SKINS)))], float(random.uniform(-12, 12)))
    hair = HAIRS[int(random.integers(len(HAIRS)))]
    draw.ellipse(_within(box, 0.05, 0.0, 0.95, 0.8), fill=hair)
    draw.ellipse(_within(box, 0.12, 0.12, 0.88, 1.0), fill=skin)
    turn = float(random.uniform(-0.08, 0.08))
    iris = _colour(random, 20, 120)
    for eye in (0.34 + turn, 0.66 + turn):
        draw.ellipse(_within(box, eye - 0.1, 0.42, eye + 0.1, 0.54), fill=(245, 245, 240))
        draw.ellipse(_within(box, eye - 0.045, 0.43, eye + 0.045, 0.53), fill=iris)
        draw.rectangle(_within(box, eye - 0.11, 0.35, eye + 0.11, 0.38), fill=hair)
    draw.rectangle(_within(box, 0.48 + turn, 0.52, 0.52 + turn, 0.68), fill=_shift(skin, -35.0))
    draw.ellipse(_within(box, 0.36 + turn, 0.74, 0.64 + turn, 0.84), fill=(168, 66, 62))


def _text(draw: ImageDraw.ImageDraw, random: np.random.Generator, box: Box, _: Colour) -> None:
    plate = _colour(random)
    ink = (250, 250, 245) if sum(plate) < 380 else (16, 16, 24)
    draw.rectangle(box, fill=plate)
    word = WORDS[int(random.integers(len(WORDS)))]
    trial = ImageFont.load_default(size=40).getlength(word)
    size = min(40 * 0.9 * (box[2] - box[0]) / trial, 0.9 * (box[3] - box[1]))
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    draw.text(middle, word, fill=ink, font=ImageFont.load_default(size=size), anchor="mm")


def _ball(draw: ImageDraw.ImageDraw, random: np.random.Generator, box: Box, around: Colour) -> None:
    colour = _contrasting(random, around)
    for step in range(6):  # lighter towards the upper left, as if lit from there
        share = step / 10
        draw.ellipse(
            _within(box, 0.5 * share, 0.4 * share, 1 - 1.3 * share, 1 - 1.4 * share), fill=_shift(colour, 16.0 * step)
        )


def _box(draw: ImageDraw.ImageDraw, random: np.random.Generator, box: Box, around: Colour) -> None:
    colour = _contrasting(random, around)
    x, y = box[0], box[1]
    right, bottom = box[2], box[3]
    depth = 0.2 * (right - x)
    draw.rectangle((x, y + depth, right - depth, bottom), fill=colour)
    draw.polygon([(x, y + depth), (x + depth, y), (right, y), (right - depth, y + depth)], fill=_shift(colour, 40.0))
    draw.polygon(
        [(right - depth, y + depth), (right, y), (right, bottom - depth), (right - depth, bottom)],
        fill=_shift(colour, -40.0),
    )


def _dim(draw: ImageDraw.ImageDraw, random: np.random.Generator, box: Box, around: Colour) -> None:
    draw.ellipse(box, fill=_shift(around, float(random.choice([-14, 14]))))


def _contrasting(random: np.random.Generator, around: Colour) -> Colour:
    """Draw colours until one is far from the surroundings; of eight, one always is nearly so."""
    drawn = random.integers(0, 256, (8, 3))
    distance = np.abs(drawn - np.array(around)).sum(axis=1)
    red, green, blue = (int(value) for value in drawn[int(distance.argmax())])
    return red, green, blue


PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator, Box, Colour], None]] = {
    "face": _face,
    "text": _text,
    "ball": _ball,
    "box": _box,
    "dim": _dim,
}
"""How each kind of thing is painted into its box."""
