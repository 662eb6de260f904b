"""Where the paddles of an image lie: contours grown paddle by paddle, compiled, nothing painted.

::

    pivot . . tail===head   pivot' . . tail'===head'

A contour is a chain of pivots. The next pivot lies ahead of the last one, in the direction of the
last paddle; the new paddle's tip is one of the pixels on a circle round it, likelier the less the
contour turns and the freer the pixel is. What a paddle keeps free around it is its area, in gray
levels; areas must not add up to ``CROWDED`` anywhere, but for neighbours of one contour, since a
paddle's area is taken only when the one after it lies. (That of the first target's last paddle is
never taken: the 2019 generator forgets it, so a distractor may touch it.)

An image fails often, 300 times and more before the two targets lie, so this is what its time goes
into. Only areas are kept up to date here: paddles are painted when all of them lie.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from lra.data.pathfinder_stencils import DEGREES, Ragged
from lra.data.pathfinder_tables import Counts, Seeds, Tables, Turns

TAKEN = 77  # the least gray level of an area where no contour may begin: above 0.3
SPARSE = 0.01  # share of free pixels below which no distractor is begun
DEAD = 1e-4  # sum of weights below which a contour cannot go on
PIVOT_ROW, PIVOT_COL, POSE = range(3)  # of a contour's end

compiled = numba.njit(cache=True)


class Grown(NamedTuple):
    """Paddles as ``(row, column, pose)``: of the targets by turns, then of the distractors."""

    paddles: np.ndarray
    laid: int
    restarts: int


@compiled
def grow(tables: Tables, rng: np.random.Generator) -> Grown:
    """All paddles of an image."""
    counts = tables.counts
    most = 2 * counts.contour_length + counts.distractors * counts.distractor_length
    laid = np.empty((most, 3), np.int64)
    areas = np.empty_like(tables.frame)
    restarts = 0
    while not _targets(tables, areas, laid, rng):
        restarts += 1
    free = _free_pixels(counts, areas)
    count = 2 * counts.contour_length
    places = np.empty(counts.window**2, np.int32)
    for _ in range(counts.distractors):
        before = areas.copy()
        for _ in range(counts.tries):
            here = laid[count : count + counts.distractor_length]
            if _distractor(tables, areas, free, here, places, rng):
                count += counts.distractor_length
                free = _free_pixels(counts, areas)
                break
            areas[:] = before
    return Grown(laid, count, restarts)


@compiled
def _targets(tables: Tables, areas: np.ndarray, laid: np.ndarray, rng: np.random.Generator) -> bool:
    """Both targets, a paddle of the first and one of the second by turns; False: start again."""
    counts = tables.counts
    areas[:] = tables.frame
    ends = np.empty((2, 3), np.int64)
    if not _first_seed(counts, tables.seeds, laid[0], ends[0], rng):
        return False
    if not _second_seed(counts, tables.seeds, laid[0], laid[1], ends[1], rng):
        return False
    for i in range(2, 2 * counts.contour_length):
        if not _extend(counts, tables.turns, tables.paddles.core, areas, ends[i % 2], laid[i], rng):
            return False
        _take(counts, tables.paddles.area, areas, laid[i - 2])
    _take(counts, tables.paddles.area, areas, laid[2 * counts.contour_length - 1])
    return True


@compiled
def _first_seed(
    counts: Counts, seeds: Seeds, paddle: np.ndarray, end: np.ndarray, rng: np.random.Generator
) -> bool:
    for _ in range(counts.draws):
        pose = _draw(rng, DEGREES)
        first = seeds.tails.begin[pose]
        n = seeds.tails.begin[pose + 1] - first
        if n == 0:
            return False
        place = first + _draw(rng, n)
        paddle[0], paddle[1] = seeds.tails.values[place, 0], seeds.tails.values[place, 1]
        paddle[2] = pose
        if _end_of_seed(counts, seeds, paddle, end):
            return True
    return False


@compiled
def _second_seed(
    counts: Counts,
    seeds: Seeds,
    other: np.ndarray,
    paddle: np.ndarray,
    end: np.ndarray,
    rng: np.random.Generator,
) -> bool:
    for _ in range(counts.draws):
        paddle[2] = _draw(rng, DEGREES)
        away = _draw(rng, DEGREES)
        paddle[0] = int(np.rint(other[0] + seeds.other[away, 0]))
        paddle[1] = int(np.rint(other[1] + seeds.other[away, 1]))
        if _end_of_seed(counts, seeds, paddle, end):
            return True
    return False


@compiled
def _distractor(
    tables: Tables,
    areas: np.ndarray,
    free: int,
    laid: np.ndarray,
    places: np.ndarray,
    rng: np.random.Generator,
) -> bool:
    """One contour beside the targets; False: it came to an end too early."""
    counts = tables.counts
    if free / counts.window**2 < SPARSE:
        return False
    end = np.empty(3, np.int64)
    for _ in range(counts.draws):
        pose = _draw(rng, DEGREES)
        if tables.seeds.blind[pose]:
            return False
        n = _seats(counts, tables.paddles.seat, areas, pose, places)
        if n == 0:
            return False
        laid[0, 0], laid[0, 1] = divmod(places[_draw(rng, n)], counts.window)
        laid[0, 2] = pose
        if _end_of_seed(counts, tables.seeds, laid[0], end):
            break
    else:
        return False
    for i in range(1, counts.distractor_length):
        if not _extend(counts, tables.turns, tables.paddles.core, areas, end, laid[i], rng):
            return False
        _take(counts, tables.paddles.area, areas, laid[i - 1])
    _take(counts, tables.paddles.area, areas, laid[counts.distractor_length - 1])
    return True


@compiled
def _end_of_seed(counts: Counts, seeds: Seeds, paddle: np.ndarray, end: np.ndarray) -> bool:
    """Sets the end of a contour of one paddle; False: it leaves the window."""
    pose = paddle[2]
    row = _move(paddle[0], seeds.head[pose, 0])
    col = _move(paddle[1], seeds.head[pose, 1])
    end[PIVOT_ROW] = _move(row, seeds.pivot[pose, 0])
    end[PIVOT_COL] = _move(col, seeds.pivot[pose, 1])
    end[POSE] = pose
    return _inside(counts, row, col) and _inside(counts, end[PIVOT_ROW], end[PIVOT_COL])


@compiled
def _extend(
    counts: Counts,
    turns: Turns,
    core: Ragged,
    areas: np.ndarray,
    end: np.ndarray,
    paddle: np.ndarray,
    rng: np.random.Generator,
) -> bool:
    """The next paddle of a contour; moves its end. False: it cannot go on."""
    row = _move(end[PIVOT_ROW], turns.step[end[POSE], 0])
    col = _move(end[PIVOT_COL], turns.step[end[POSE], 1])
    first, last = turns.near.begin[end[POSE]], turns.near.begin[end[POSE] + 1]
    sums = np.empty(last - first)
    total = 0.0
    for i in range(first, last):
        tip = turns.near.values[i]
        total += turns.weight[i] * _openness(
            counts, turns.disc, areas, row + turns.tips[tip, 0], col + turns.tips[tip, 1]
        )
        sums[i - first] = total
    if total < DEAD:
        return False
    for _ in range(counts.draws):
        which = np.searchsorted(sums, rng.random() * total, "right")
        tip = turns.near.values[first + min(which, last - first - 1)]
        paddle[0], paddle[1] = row + turns.tips[tip, 0], col + turns.tips[tip, 1]
        paddle[2] = DEGREES + tip
        if _fits(counts, core, areas, paddle):
            end[PIVOT_ROW], end[PIVOT_COL], end[POSE] = row, col, paddle[2]
            return True
    return False


@compiled
def _openness(counts: Counts, disc: np.ndarray, areas: np.ndarray, row: int, col: int) -> float:
    """How free a pixel and its neighbours are, 0 to 1; outside of the window 0."""
    if not _inside(counts, row, col):
        return 0.0
    level = 0
    for k in range(len(disc)):
        level = max(level, areas[row + disc[k, 0] + counts.reach, col + disc[k, 1] + counts.reach])
    return 1.0 - level / 255


@compiled
def _fits(counts: Counts, core: Ragged, areas: np.ndarray, paddle: np.ndarray) -> bool:
    row, col = paddle[0] + counts.reach, paddle[1] + counts.reach
    for k in range(core.begin[paddle[2]], core.begin[paddle[2] + 1]):
        if areas[row + core.values[k, 0], col + core.values[k, 1]] >= core.values[k, 2]:
            return False
    return True


@compiled
def _take(counts: Counts, area: Ragged, areas: np.ndarray, paddle: np.ndarray) -> None:
    """Takes what a paddle keeps free, inside the window."""
    for k in range(area.begin[paddle[2]], area.begin[paddle[2] + 1]):
        row, col = paddle[0] + area.values[k, 0], paddle[1] + area.values[k, 1]
        if _inside(counts, row, col):
            row, col = row + counts.reach, col + counts.reach
            areas[row, col] = max(areas[row, col], area.values[k, 2])


@compiled
def _seats(counts: Counts, seat: Ragged, areas: np.ndarray, pose: int, places: np.ndarray) -> int:
    """Writes the places where a contour may begin, row by row; returns how many there are.

    The outermost pixels of the window count as taken; the border of a law covers them.
    """
    taken = (areas >= TAKEN).astype(np.uint8)
    blocked = np.empty(counts.window, np.uint8)
    n = 0
    for row in range(counts.window):
        blocked[:] = 0
        for k in range(seat.begin[pose], seat.begin[pose + 1]):
            left = counts.reach + seat.values[k, 1]
            line = taken[row + counts.reach + seat.values[k, 0], left : left + counts.window]
            # bytes side by side: the compiler takes many at a time
            for col in range(counts.window):
                blocked[col] |= line[col]
        for col in range(counts.window):
            if not blocked[col]:
                places[n] = row * counts.window + col
                n += 1
    return n


@compiled
def _free_pixels(counts: Counts, areas: np.ndarray) -> int:
    inside = areas[
        counts.reach : counts.reach + counts.window, counts.reach : counts.reach + counts.window
    ]
    return (inside < TAKEN).sum()


@compiled
def _inside(counts: Counts, row: int, col: int) -> bool:
    return 0 <= row < counts.window and 0 <= col < counts.window


@compiled
def _move(start: int, distance: float) -> int:
    """The pixel that is at least so far on."""
    return int(math.ceil(start + distance))


@compiled
def _draw(rng: np.random.Generator, n: int) -> int:
    """One of ``n``, uniformly."""
    return int(rng.random() * n)
