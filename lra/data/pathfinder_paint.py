"""From paddles to an image: all paddles, two discs, gray levels stretched to 0..255.

An image is 1 if one contour joins the two discs, 0 if each lies on a contour of its own.
"""

from typing import NamedTuple

import numpy as np

from lra.data.pathfinder_grow import compiled, grow
from lra.data.pathfinder_law import Law
from lra.data.pathfinder_tables import Tables, tables


class Drawn(NamedTuple):
    """An image and what is known of it.

    Attributes:
        pixels: ``(window, window)`` bytes.
        label: 1 connected, 0 not.
        margin: of its paddles, in pixels.
        discs: ``(2, 2)`` row and column of the discs.
        distractors: contours beside the targets.
        restarts: how often the targets were begun anew.
    """

    pixels: np.ndarray
    label: int
    margin: int
    discs: np.ndarray
    distractors: int
    restarts: int


def draw_image(law: Law, rng: np.random.Generator) -> Drawn:
    """An image of a law."""
    label = int(2 * rng.random())
    margin = law.margins[int(len(law.margins) * rng.random()) if len(law.margins) > 1 else 0]
    found = tables(law, margin)
    grown = grow(found, rng)
    first = int(2 * rng.random())
    last = first if label else 1 - first
    discs = grown.paddles[[first, 2 * (law.contour_length - 1) + last], :2]
    image = np.zeros((law.window, law.window))
    _paint(found, grown.paddles[: grown.laid], discs, image)
    targets = 2 * law.contour_length
    distractors = (grown.laid - targets) // law.distractor_length
    pixels = (image * (255 / image.max()) + 0.5).astype(np.uint8)
    return Drawn(pixels, label, margin, discs, distractors, grown.restarts)


@compiled
def _paint(tables: Tables, paddles: np.ndarray, discs: np.ndarray, image: np.ndarray) -> None:
    """Brightens an image, black so far, by paddles ``(n, 3)`` and discs ``(2, 2)``."""
    ink = tables.paddles.ink
    for i in range(len(paddles)):
        contrast = tables.contrast[0 if i < 2 * tables.counts.contour_length else 1]
        for k in range(ink.begin[paddles[i, 2]], ink.begin[paddles[i, 2] + 1]):
            row, col = paddles[i, 0] + ink.values[k, 0], paddles[i, 1] + ink.values[k, 1]
            # single precision decides how gray levels half way between two are rounded
            level = np.float32(ink.values[k, 2] / 255 * contrast)
            _brighten(image, row, col, level)  # type: ignore[arg-type]
    kinds, half = len(tables.markers), tables.markers.shape[2] // 2
    for i in range(len(discs)):
        row, col = discs[i, 0], discs[i, 1]
        marker = tables.markers[_kind(row, kinds, len(image)), _kind(col, kinds, len(image))]
        for r in range(2 * half + 1):
            for c in range(2 * half + 1):
                _brighten(image, row + r - half, col + c - half, marker[r, c] / 255)


@compiled
def _kind(place: int, kinds: int, size: int) -> int:
    """Which disc by distance from the edges: the first ones, the last ones, or the middle one."""
    edge = kinds // 2
    if place < edge:
        return place
    if place >= size - edge:
        return place - size + kinds
    return edge


@compiled
def _brighten(image: np.ndarray, row: int, col: int, level: float) -> None:
    if 0 <= row < image.shape[0] and 0 <= col < image.shape[1]:
        image[row, col] = max(image[row, col], level)
