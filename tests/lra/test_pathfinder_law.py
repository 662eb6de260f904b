"""Our Pathfinder images against those of the original generator, statistic by statistic."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from lra.data.pathfinder_folder import find_folder, list_images, read_image
from lra.data.pathfinder_law import law_of
from lra.data.pathfinder_paint import draw_image
from lra.data.pathfinder_tables import tables

# a fixed seed, two samples of one distribution: each test fails by chance once in a thousand seeds
LEAST_P = 1e-3
SETS = [(32, "hard"), (32, "intermediate"), (32, "easy"), (64, "hard"), (128, "hard")]


def official(source: Path, size: int, difficulty: str) -> tuple[np.ndarray, np.ndarray]:
    folder = find_folder(source, size, difficulty)
    listed = list_images(folder, size, difficulty)
    pairs = zip(listed.names, listed.places, strict=True)
    images = [read_image(folder, name.decode(), size, place) for name, place in pairs]
    return np.stack(images), listed.labels


def ours(law, n: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [draw_image(law, np.random.default_rng([7, i])) for i in range(n)]
    return np.stack([d.pixels for d in drawn]), np.array([d.label for d in drawn])


def discs(images: np.ndarray, law) -> list[np.ndarray]:
    """Where a whole disc fits under an image: row and column of its middle."""
    markers = tables(law, law.margins[0]).markers
    disc = markers[len(markers) // 2, len(markers) // 2].astype(float)
    half = len(disc) // 2
    # at 32 a disc is 221 where the brighter distractors are 255
    peak = 2 * 147 / 255 if law.window == 32 else 1.0
    padded = np.pad(images * peak + 2.0, ((0, 0), (half, half), (half, half)))
    fits = np.ones(images.shape, bool)
    for r, c in np.argwhere(disc > 0):
        fits &= padded[:, r : r + law.window, c : c + law.window] >= disc[r, c]
    return [np.argwhere(found) for found in fits]


def pieces(images: np.ndarray, bridge: int) -> list[np.ndarray]:
    """Pixels of ink in each connected piece of an image, gaps of up to twice ``bridge`` closed."""
    near, found = np.ones((3, 3), bool), []
    for ink in images > 0:
        joined = ndimage.binary_dilation(ink, near, iterations=bridge) if bridge else ink
        piece, n = ndimage.label(joined, near)
        found.append(np.bincount(piece[ink], minlength=n + 1)[1:])
    return found


def lengths(images: np.ndarray) -> dict[str, np.ndarray]:
    """How long contours are, by the ink that hangs together: dashes that touch, and whole chains,
    which the gap between two dashes does not end."""
    dashes, chains = pieces(images, 0), pieces(images, 1)
    return {
        "pieces": np.array([len(sizes) for sizes in dashes]),
        "largest piece": np.array([sizes.max() for sizes in dashes]),
        "longest chain": np.array([sizes.max() for sizes in chains]),
    }


def summary(images: np.ndarray, law) -> dict[str, np.ndarray]:
    """Numbers of each image."""
    flat = images.reshape(len(images), -1)
    places = discs(images, law)
    pairs = [place for place in places if len(place) == 2]
    assert len(pairs) > 0.25 * len(images)
    return {
        "non-zero pixels": (flat > 0).mean(axis=1),
        "mean brightness": flat.mean(axis=1),
        "gray levels": np.array([len(np.unique(row)) for row in flat]),
        "pixels of 255": (flat == 255).sum(axis=1),
        "pixels of 221": (flat == 221).sum(axis=1),
        "pixels of 191": (flat == 191).sum(axis=1),
        "distance of the discs": np.array([np.hypot(*(a - b)) for a, b in pairs]),
        **lengths(images),
        "row of a disc": np.array([a[0] for a, _ in pairs]),
        "column of a disc": np.array([b[1] for _, b in pairs]),
    }


def p_values(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(stats.ks_2samp(a[name], b[name]).pvalue) for name in a}


@pytest.fixture(scope="module")
def source(lra_data):
    folder = lra_data / "lra_release"
    if not (folder / "lra_release" / "pathfinder32").is_dir():
        pytest.skip("images of the original generator are not here")
    return folder


@pytest.mark.parametrize("size, difficulty", SETS)
def test_statistics_are_those_of_the_original_generator(source, size, difficulty):
    law = law_of(size, difficulty)
    theirs, labels = official(source, size, difficulty)
    images, our_labels = ours(law, {32: len(theirs), 64: 120, 128: 120}[size])
    found = p_values(summary(theirs, law), summary(images, law))
    assert min(found.values()) > LEAST_P, found
    table = [np.bincount(labels, minlength=2), np.bincount(our_labels, minlength=2)]
    assert stats.chi2_contingency(table).pvalue > LEAST_P
    for heads, n in ((int(row[1]), int(sum(row))) for row in table):
        assert stats.binomtest(heads, n).pvalue > LEAST_P


@pytest.mark.parametrize(
    "change",
    [
        {"contour_length": 13},
        {"continuity": 1.3},
        {"distractors": 3},
        {"seed_distance": 6},
        {"target_contrast": 1.6},
    ],
)
def test_the_statistics_see_another_law(source, change):
    law = law_of(32, "hard")
    theirs, _ = official(source, 32, "hard")
    images, _ = ours(dataclasses.replace(law, **change), 600)
    assert min(p_values(summary(theirs, law), summary(images, law)).values()) < LEAST_P


@pytest.mark.parametrize("difficulty", ["hard", "intermediate", "easy"])
def test_contours_of_another_length_are_seen_in_the_pixels(source, difficulty):
    """By what hangs together alone, be they longer or shorter by two dashes."""
    law = law_of(32, difficulty)
    theirs, _ = official(source, 32, difficulty)
    for dashes in (-2, 2):
        other = dataclasses.replace(law, contour_length=law.contour_length + dashes)
        found = p_values(lengths(theirs), lengths(ours(other, 400)[0]))
        assert found["longest chain"] < LEAST_P, (dashes, found)


def test_the_metadata_say_what_the_law_says(source):
    for size, difficulty in SETS:
        law, folder = law_of(size, difficulty), find_folder(source, size, difficulty)
        lines = [
            line.split()
            for path in (folder / "metadata").glob("*.npy")
            for line in path.read_text().splitlines()
        ]
        assert {tuple(line[4:9]) for line in lines} == {
            (
                str(law.continuity), str(law.contour_length), str(law.distractor_length),
                str(law.length), f"{law.thickness:g}",
            )
        }  # fmt: skip
        assert {int(line[9]) for line in lines} == set(law.margins)
