"""What is drawn against length: points, lines of them, panels of lines."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A value with its band, such as a median with its 20 % and 80 % quantiles.

    Attributes:
        hollow: not like the others, which the legend explains.
    """

    length: int
    value: float
    low: float
    high: float
    marker: str = "o"
    hollow: bool = False


@dataclass(frozen=True)
class End:
    """Where a line ends because something was tried and failed, and the symbol that says how."""

    length: int
    value: float
    marker: str


@dataclass(frozen=True)
class Line:
    """Points by length.

    Attributes:
        name: identifies the line in the figure, and is its label.
        dashed: what was not measured; only hollow ones have a marker.
        reference: what the others are compared with: without markers or label, in this style.
    """

    name: str
    colour: str
    points: Sequence[Point]
    dashed: Sequence[Point] = ()
    ends: Sequence[End] = ()
    reference: str | tuple[int, tuple[int, ...]] | None = None

    @property
    def values(self) -> dict[int, float]:
        """All that is drawn, by length."""
        return {
            **{end.length: end.value for end in self.ends},
            **{point.length: point.value for point in (*self.dashed, *self.points)},
        }  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One pair of axes; ``unit`` names its y axis where not all panels share one."""

    title: str
    lines: Sequence[Line]
    unit: str = ""
