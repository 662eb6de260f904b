"""All numbers that growing and painting an image looks up, for a law and one of its margins."""

import functools
import math
from typing import NamedTuple

import numpy as np

from lra.data.pathfinder_law import Law
from lra.data.pathfinder_stencils import (
    DEGREES,
    FULL,
    Paddles,
    Ragged,
    circle,
    disc,
    flipped,
    paddles,
    ragged,
    seed_angles,
    shrink,
)

LANCZOS = 3  # pixels that scaling down looks at, to each side


class Counts(NamedTuple):
    """Whole numbers of a law; ``reach`` as in ``Law.reach``, draws and tries include the first."""

    window: int
    reach: int
    contour_length: int
    distractors: int
    distractor_length: int
    draws: int
    tries: int


class Seeds(NamedTuple):
    """The first paddle of a contour, by its direction in whole degrees.

    Attributes:
        head: ``(360, 2)`` from its tail to its head, not rounded.
        pivot: ``(360, 2)`` from its head to the pivot behind its tail.
        blind: ``(360,)`` whether nothing can begin so.
        tails: pixels where the tail of the first target's may lie.
        other: ``(360, 2)`` from the tail of the first target to that of the second.
    """

    head: np.ndarray
    pivot: np.ndarray
    blind: np.ndarray
    tails: Ragged
    other: np.ndarray


class Turns(NamedTuple):
    """From one paddle to the next, by pose.

    Attributes:
        step: ``(poses, 2)`` from a pivot to the next, not rounded.
        tips: ``(K, 2)`` from a pivot to where its paddle may end.
        near: numbers of the tips that a pose may be followed by.
        weight: how likely each of those is in the open; begins are those of ``near``.
        disc: ``(n, 2)`` pixels round a tip that are better free.
    """

    step: np.ndarray
    tips: np.ndarray
    near: Ragged
    weight: np.ndarray
    disc: np.ndarray


class Tables(NamedTuple):
    """What belongs together.

    Attributes:
        frame: areas taken before the first paddle: the border; ``reach`` rows and columns more on
            every side than the window, so that a paddle that sticks out can be looked up.
        markers: ``(C, C, n, n)`` the disc by its class of row and column: distances from the
            window's edge, as far as they matter.
        contrast: of targets and of distractors.
    """

    counts: Counts
    seeds: Seeds
    turns: Turns
    paddles: Paddles
    frame: np.ndarray
    markers: np.ndarray
    contrast: np.ndarray


@functools.cache
def tables(law: Law, margin: int) -> Tables:
    """The tables of a law and one of its margins."""
    drawn, reach = paddles(law, margin), law.reach(margin)
    frame = np.zeros((law.window + 2 * reach,) * 2, np.uint8)
    frame[reach:-reach, reach:-reach] = FULL
    free = reach + law.border
    frame[free:-free, free:-free] = 0
    return Tables(
        Counts(
            law.window, reach, law.contour_length, law.distractors, law.distractor_length,
            1 + law.retries, 1 + law.distractor_retries,
        ),
        _seeds(law, margin, drawn.seat), _turns(law, margin), drawn, frame, _markers(law),
        np.array([law.target_contrast, law.distractor_contrast]),
    )  # fmt: skip


def _vectors(angles: np.ndarray, length: float) -> np.ndarray:
    return length * np.stack([np.sin(angles), np.cos(angles)], axis=1)


def _seeds(law: Law, margin: int, seat: Ragged) -> Seeds:
    angles = seed_angles()
    behind = flipped(angles)
    around = np.arange(DEGREES) * np.pi / 180
    seats = np.split(seat.values, seat.begin[1:-1])
    blind = np.array([_blind(pixels) for pixels in seats])
    tails = [_tails(law, pixels) for pixels in seats]
    assert any(map(len, tails)), "no target can begin: the seed distance leaves no room"
    return Seeds(
        _vectors(angles, law.length), _vectors(behind, law.length + margin), blind,
        ragged(tails), _vectors(around, law.seed_distance),
    )  # fmt: skip


def _blind(seat: np.ndarray) -> bool:
    """Whether a paddle that begins at some pixel would have none of its seat in the window.

    The 2019 generator finds no place at all for such a direction: a dilation of OpenCV is below
    every number where there is nothing to look at, and the program takes that for an error.
    """
    # the pixels of any window lie to its edges as those of the smallest that has a middle do
    size = 2 * np.abs(seat).max() + 1
    pixels = np.moveaxis(np.mgrid[:size, :size], 0, -1)[:, :, None] + seat
    outside = ((pixels < 0) | (pixels >= size)).any(axis=-1)
    return bool(outside.all(axis=-1).any())


def _tails(law: Law, seat: np.ndarray) -> np.ndarray:
    """Where the first target may begin: its seat is at least twice the seed distance from the edge
    of the window."""
    near, size = 2 * law.seed_distance, law.window
    if _blind(seat):
        return np.empty((0, 2), np.int16)
    row, col = np.mgrid[:size, :size]
    least, most = seat.min(axis=0), seat.max(axis=0)
    free = (row + least[0] >= near) & (row + most[0] < size - near)
    free &= (col + least[1] >= near) & (col + most[1] < size - near)
    return np.argwhere(free).astype(np.int16)


def _turns(law: Law, margin: int) -> Turns:
    tips, directions = circle(law.length + margin)
    angles = np.concatenate([seed_angles(), directions])
    near, weight = [], []
    for angle in angles:
        turn = np.abs(directions - angle)
        turn = np.minimum(turn, 2 * np.pi - turn) * law.continuity
        near.append(np.flatnonzero(turn < np.pi / 2))
        weight.append(np.cos(turn[near[-1]]) ** 2)
    return Turns(
        _vectors(angles, law.length + 2 * margin), tips, ragged(near), np.concatenate(weight),
        disc(margin),
    )  # fmt: skip


def _markers(law: Law) -> np.ndarray:
    """The disc of each class, ``(C, C, n, n)``; its pixels outside of the window are 0."""
    scale, half = law.antialias, marker_half(law)
    edge = half + LANCZOS
    size = 2 * edge + 1
    out = np.zeros((size, size, 2 * half + 1, 2 * half + 1), np.uint8)
    row, col = np.mgrid[: size * scale, : size * scale]
    for r in range(size):
        for c in range(size):
            inside = (row - r * scale) ** 2 + (col - c * scale) ** 2
            canvas = (inside <= (law.marker_radius * scale) ** 2).astype(np.uint8) * np.uint8(FULL)
            padded = np.pad(shrink(canvas, size), half)
            out[r, c] = padded[r : r + 2 * half + 1, c : c + 2 * half + 1]
    return out


def marker_half(law: Law) -> int:
    """Pixels of a marker to each side of its middle."""
    return math.ceil(law.marker_radius) + LANCZOS + 1
