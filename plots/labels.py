"""Labels beside their points without covering each other: a small search in points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

DIRECTIONS = 16
# gap between a bubble's edge and its label; the nearest that is free is taken
GAPS = (2.0, 6.0, 12.0, 20.0, 30.0, 44.0, 60.0)
PASSES = 4


@dataclass(frozen=True)
class Box:
    """A rectangle in points."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: "Box") -> float:
        """Common area."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def place(
    points: Sequence[tuple[float, float]],
    radii: Sequence[float],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    bounds: Box,
) -> list[Box]:
    """A box for each label: near its point, inside the bounds, off obstacles and other labels.

    Each label takes its cheapest place while the others stay; repeated until none moves.

    Args:
        points: centres of the bubbles, in points.
        radii: of the bubbles.
        sizes: (width, height) of the labels.
        obstacles: what must not be covered, the bubbles among them.
        bounds: what the labels must stay in.
    """
    candidates = [
        [(_box(point, radius, size, gap, k), gap) for gap in GAPS for k in range(DIRECTIONS)]
        for point, radius, size in zip(points, radii, sizes, strict=True)
    ]
    base = [[_cost(*pair, obstacles, bounds) for pair in pairs] for pairs in candidates]
    chosen = [pairs[c.index(min(c))][0] for pairs, c in zip(candidates, base, strict=True)]
    for _ in range(PASSES):
        before = list(chosen)
        for i, (pairs, costs) in enumerate(zip(candidates, base, strict=True)):
            others = chosen[:i] + chosen[i + 1 :]
            total = [
                cost + 8.0 * sum(box.overlap(other) for other in others)
                for (box, _), cost in zip(pairs, costs, strict=True)
            ]
            chosen[i] = pairs[total.index(min(total))][0]
        if chosen == before:
            break
    return chosen


def _cost(box: Box, gap: float, obstacles: Sequence[Box], bounds: Box) -> float:
    """What a place costs whatever the other labels do."""
    covered = sum(box.overlap(other) for other in obstacles)
    return gap + 4.0 * covered + 20.0 * (box.area - box.overlap(bounds))


def _box(
    point: tuple[float, float], radius: float, size: tuple[float, float], gap: float, k: int
) -> Box:
    """The label's box in direction k (0 is right, then counter-clockwise), touching the gap."""
    angle = 2 * math.pi * k / DIRECTIONS
    x = point[0] + (radius + gap) * math.cos(angle)
    y = point[1] + (radius + gap) * math.sin(angle)
    width, height = size
    # the box's own corner or side faces the point
    x0 = x - width * (1 - math.cos(angle)) / 2
    y0 = y - height * (1 - math.sin(angle)) / 2
    return Box(x0, y0, x0 + width, y0 + height)
