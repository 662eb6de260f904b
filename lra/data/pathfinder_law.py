"""The distributions of Pathfinder images: four sizes, three lengths of the target contours.

Sources: Linsley et al. 2018 (arXiv 1805.08315) and the generator of its authors (drewlinsley/
pathfinder at ab9c130, 2019), with the parameters of Long Range Arena (google-research/
long-range-arena, lra_benchmarks/data/pathfinder.py). Divisions are of whole numbers there.
"""

import math
from dataclasses import dataclass

from lra.errors import UserError, nearest

# the task's name, and its name in results/published, by the rows of an image
NAMES = {
    32: ("pathfinder", "pathfinder"),
    64: ("pathfinder64", "path_64"),
    128: ("path_x", "path_x"),
    256: ("path_256", "path_256"),
}
# paddles of a target contour; the folders are those of the official release
CONTOUR = {"easy": 6, "intermediate": 9, "hard": 14}
FOLDERS = {
    "easy": "curv_baseline",
    "intermediate": "curv_contour_length_9",
    "hard": "curv_contour_length_14",
}


@dataclass(frozen=True)
class Law:
    """One distribution of images; lengths in pixels of the window unless said otherwise.

    Attributes:
        window: rows, and columns, of an image.
        border: width of the frame that no paddle may touch.
        margins: distances kept between paddles; one is drawn for each image.
        length: of a paddle, from tail to head.
        thickness: of a paddle.
        seed_distance: from the tail of one target contour to that of the other.
        marker_radius: of the two discs.
        contour_length: paddles of a target contour.
        distractors: contours beside the targets that are tried.
        distractor_length: paddles of each of them.
        continuity: how straight contours are.
        target_contrast, distractor_contrast: brightness of a paddle; a marker has 1.
        antialias: pixels are drawn that much finer and then scaled down.
        retries: further draws of a paddle that does not fit, before its contour is given up.
        distractor_retries: further tries of a distractor.
    """

    window: int
    border: int
    margins: tuple[int, ...]
    length: int
    thickness: float
    seed_distance: int
    marker_radius: float
    contour_length: int
    distractors: int
    distractor_length: int
    continuity: float
    target_contrast: float
    distractor_contrast: float
    antialias: int = 2
    retries: int = 2
    distractor_retries: int = 4

    def reach(self, margin: int) -> int:
        """How far from its tail a paddle, or what it keeps free, can touch a pixel."""
        return self.length + math.ceil(self.thickness) + margin


# of each size; distractor paddles are what is divided by the length of a distractor
SIZES = {
    32: dict(
        border=1, margins=(1,), length=2, thickness=0.5, seed_distance=7, marker_radius=1.5,
        continuity=1.0, target_contrast=0.75 * 2, distractor_contrast=2.0,
    ),
    64: dict(
        border=1, margins=(1,), length=5, thickness=1.0, seed_distance=12, marker_radius=2.5,
        continuity=1.8, target_contrast=0.8, distractor_contrast=0.8,
    ),
    128: dict(
        border=1, margins=(2, 3), length=5, thickness=1.5, seed_distance=20, marker_radius=3.0,
        continuity=1.8, target_contrast=0.9, distractor_contrast=0.9,
    ),
    256: dict(
        border=22, margins=(3,), length=5, thickness=2.0, seed_distance=27, marker_radius=5.0,
        continuity=1.8, target_contrast=1.0, distractor_contrast=1.0,
    ),
}  # fmt: skip
DISTRACTOR_PADDLES = {32: 20, 64: 22, 128: 35, 256: 30}


def law_of(size: int, difficulty: str) -> Law:
    """The distribution of a size and a difficulty.

    Raises:
        UserError: there is no such one.
    """
    if difficulty not in tuple(CONTOUR):
        raise nearest(str(difficulty), CONTOUR, kind="difficulty")
    if size not in tuple(SIZES):
        raise UserError(f"size={size}: choose from {', '.join(map(str, SIZES))}")
    contour = CONTOUR[difficulty]
    short = contour // 3
    return Law(
        window=size, contour_length=contour, distractor_length=short,
        distractors=DISTRACTOR_PADDLES[size] // short, **SIZES[size],  # type: ignore[arg-type]
    )  # fmt: skip
