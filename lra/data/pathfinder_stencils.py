"""What a paddle and a marker look like, drawn once: every image is put together of these.

A paddle points in one of 360 whole degrees (the first one of a contour) or in the direction of one
of the few pixels on a circle (all others), so a size has some 400 different paddles. Each is drawn
by PIL at a finer resolution and scaled down (Lanczos), as the 2019 generator does for every
paddle; so is what it keeps free around it. Coordinates are (row, column), and an angle t points to
(sin t, cos t).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lra.data.pathfinder_law import Law

DEGREES = 360  # poses of the first paddle of a contour; those of the others follow
FULL = 255
CROWDED = 1.8  # two surroundings whose sum reaches this somewhere do not fit


class Ragged(NamedTuple):
    """Lists of different lengths: list i is ``values[begin[i] : begin[i + 1]]``."""

    begin: np.ndarray
    values: np.ndarray


class Paddles(NamedTuple):
    """By pose, pixels as (row, column, number) from where the paddle is drawn.

    Attributes:
        ink: gray level of the paddle.
        area: gray level of its surroundings.
        core: those that can collide: the least gray level of another's area that does.
        seat: no numbers; pixels that must be free under the first paddle of a contour.
    """

    ink: Ragged
    area: Ragged
    core: Ragged
    seat: Ragged


def ragged(lists: Sequence[np.ndarray]) -> Ragged:
    """Arrays one after the other along their first axis."""
    begin = np.cumsum([0] + [len(part) for part in lists])
    return Ragged(begin, np.ascontiguousarray(np.concatenate(lists)))


def seed_angles() -> np.ndarray:
    """Directions of the first paddle of a contour."""
    return np.arange(-180, 180) * np.pi / 180


def circle(radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels on a circle round a pixel, one for each pixel of arc, and their directions.

    Args:
        radius: in pixels.

    Returns:
        ``(K, 2)`` offsets without repetitions, and ``(K,)`` angles in (-pi, pi].
    """
    step = 360.0 / (2 * radius * np.pi)
    turn = np.arange(0, 360, step) * np.pi / 180
    offsets = np.floor(radius * np.stack([np.sin(turn), np.cos(turn)], axis=1)).astype(np.int64)
    offsets = np.unique(offsets, axis=0)
    return offsets, np.arctan2(offsets[:, 0], offsets[:, 1])


def flipped(angle: np.ndarray) -> np.ndarray:
    """The opposite directions."""
    return np.where(angle < 0, angle + np.pi, angle - np.pi)


def disc(radius: int) -> np.ndarray:
    """Whole offsets within a distance."""
    row, col = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(row**2 + col**2 <= radius**2) - radius


def paddles(law: Law, margin: int) -> Paddles:
    """The paddles of a law in all poses: whole degrees, then backwards from the circle's pixels."""
    _, tips = circle(law.length + margin)
    drawn = [
        _draw(law, margin, float(angle)) for angle in np.concatenate([seed_angles(), flipped(tips)])
    ]
    ink = [_pixels(line) for line, _ in drawn]
    area = [_pixels(around) for _, around in drawn]
    return Paddles(
        ragged(ink), ragged(area), ragged([_core(pixels) for pixels in area]),
        ragged([_seat(law, margin, pixels) for pixels in area[:DEGREES]]),
    )  # fmt: skip


def _draw(law: Law, margin: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Gray levels of a paddle and of its surroundings; it begins in the middle."""
    scale, reach = law.antialias, law.reach(margin)
    width = law.thickness * scale
    assert width == round(width), "a line is whole pixels wide"
    centre = reach * scale
    canvas = Image.new("L", (2 * centre + 1, 2 * centre + 1))
    ahead = law.length * scale
    row = math.ceil(centre + ahead * math.sin(angle))
    col = math.ceil(centre + ahead * math.cos(angle))
    ImageDraw.Draw(canvas).line([(centre, centre), (col, row)], fill=FULL, width=int(width))
    line = np.asarray(canvas)
    brush = np.zeros((2 * margin * scale + 1,) * 2, bool)
    brush[tuple((disc(margin * scale) + margin * scale).T)] = True
    around = ndimage.binary_dilation(line > 0, brush).astype(np.uint8) * np.uint8(FULL)
    return shrink(line, 2 * reach + 1), shrink(around, 2 * reach + 1)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """A square image of bytes at another size."""
    small = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _pixels(image: np.ndarray) -> np.ndarray:
    """Lit pixels, from the middle: row, column, gray level."""
    where = np.argwhere(image)
    levels = image[tuple(where.T)]
    return np.column_stack([where - len(image) // 2, levels]).astype(np.int16)


def _core(area: np.ndarray) -> np.ndarray:
    """The pixels of an area that can collide, with the least gray level that does."""
    levels = (np.arange(FULL + 1) / FULL).astype(np.float32).astype(np.float64)
    sums = levels[:, None] + levels
    enough = (sums < CROWDED).sum(axis=1)  # of the other's area, by the level of this one
    core = area.copy()
    core[:, 2] = enough[area[:, 2]]
    return core[core[:, 2] <= FULL]


def _seat(law: Law, margin: int, area: np.ndarray) -> np.ndarray:
    """Pixels, from the one that is tried, of which none may be taken.

    The 2019 generator tests a paddle one pixel down and right of where it then draws it, only where
    its surroundings are full, and only as far as its window for this test goes.
    """
    half = law.length + margin
    where = area[area[:, 2] == FULL, :2] + 1
    return where[(np.abs(where) <= half).all(axis=1)]
