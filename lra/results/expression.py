"""Complexity expressions of cards: ``"N w d"``, ``"N log N d + N n d"``, ``"N m d + m^3"``."""

import re
from dataclasses import dataclass

FACTOR = re.compile(r"(?P<log>log )?(?P<name>[A-Za-z_]\w*)(?:\^(?P<power>\d+(?:\.\d+)?))?$")


@dataclass(frozen=True, order=True)
class Degree:
    """Growth in N: a power, and how many factors ``log N`` besides."""

    power: float
    logs: int


def degree(expression: str) -> Degree:
    """The largest growth in N of a sum of products.

    Terms are joined by ``+``, factors by spaces; a factor is a number, a name, a name with ``^``
    and a power, or ``log`` of a name. ``sqrt(N)`` is written ``N^0.5``.

    Raises:
        ValueError: it cannot be read so.
    """
    return max(_term(term.strip()) for term in expression.split("+"))


def most(claimed: Degree) -> float:
    """The fastest growth that a claim allows; a log factor adds up to a third from N = 256 on."""
    return claimed.power + 0.05 + 0.3 * claimed.logs


def _term(term: str) -> Degree:
    power, logs = 0.0, 0
    for factor in re.sub(r"\blog ", "log~", term).split():
        if re.fullmatch(r"\d+", factor):
            continue
        match = FACTOR.match(factor.replace("~", " "))
        if match is None:
            raise ValueError(f"'{factor}' in the complexity '{term}' is no factor")
        if match["name"] == "N" and match["log"]:
            logs += 1
        elif match["name"] == "N":
            power += float(match["power"] or 1)
    if not term:
        raise ValueError("a complexity term is empty")
    return Degree(power, logs)
