"""Drawing Pathfinder images: whose they are, what they depend on, and what must hold in each."""

import hashlib
from functools import partial
from itertools import islice

import numpy as np
import pytest
from scipy import ndimage

from lra.data.pathfinder_grow import grow
from lra.data.pathfinder_law import SIZES, law_of
from lra.data.pathfinder_paint import draw_image
from lra.data.pathfinder_set import draw_block
from lra.data.pathfinder_stencils import CROWDED, DEGREES, seed_angles
from lra.data.pathfinder_tables import tables
from lra.data.workers import ordered_map
from lra.errors import UserError

# sha256 of images of the 2019 generator (drewlinsley/pathfinder at ab9c130), its randint and rand
# drawing from the stream that default_rng(seed) gives draw_image, scipy.misc as in SciPy 1.1
GOLDEN = [
    (32, "hard", 1, 1, "69ac95f71b02e5e5"),
    (32, "hard", 2, 0, "664f3f3fff597e53"),
    (32, "hard", 4, 1, "32c29ba4f581bdc1"),
    (32, "intermediate", 0, 1, "4e41847dace6cbbd"),
    (32, "intermediate", 2, 0, "6e0cd794d41a55bb"),
    (32, "easy", 0, 1, "4ec7b944c3e59a1a"),
    (32, "easy", 2, 0, "38dc57dfcfbafad1"),
    (64, "hard", 0, 1, "7cdf51e6ec1daa9e"),
    (64, "hard", 2, 0, "daa2bc15e743043b"),
    (128, "hard", 0, 1, "150e090d9d18754c"),
    (128, "hard", 2, 0, "48576ecde23d0868"),
    (256, "hard", 0, 1, "f63359f55e134389"),
    (256, "hard", 2, 0, "8182637b101db607"),
]


@pytest.mark.parametrize("size, difficulty, seed, label, digest", GOLDEN)
def test_images_are_those_of_the_2019_generator(size, difficulty, seed, label, digest):
    drawn = draw_image(law_of(size, difficulty), np.random.default_rng(seed))
    assert drawn.label == label
    assert hashlib.sha256(drawn.pixels.tobytes()).hexdigest()[:16] == digest


def test_an_image_is_a_function_of_seed_split_and_number():
    law = law_of(32, "easy")
    pixels, labels = draw_block(law, 3, "val", 0, 40, 0)
    assert pixels.shape == (40, 1024) and labels.shape == (40,)
    # the same images from a later start, as a resumed build draws them
    later, later_labels = draw_block(law, 3, "val", 17, 40, 0)
    np.testing.assert_array_equal(later, pixels[17:])
    np.testing.assert_array_equal(later_labels, labels[17:])
    for other in (draw_block(law, 4, "val", 0, 40, 0), draw_block(law, 3, "test", 0, 40, 0)):
        assert not (other[0] == pixels).all(axis=1).any()


def test_any_number_of_processes_draws_the_same():
    draw = partial(draw_block, law_of(64, "easy"), 0, "train", 0, 300)
    one, two = (list(islice(ordered_map(draw, workers), 3)) for workers in (1, 2))
    assert [len(labels) for _, labels in one] == [128, 128, 44]
    for (pixels, labels), (others, other_labels) in zip(one, two, strict=True):
        np.testing.assert_array_equal(pixels, others)
        np.testing.assert_array_equal(labels, other_labels)


def windows(law, margin, kind, poses_and_places):
    """Each paddle's stencil alone in the window, ``(n, window, window)`` gray levels."""
    begin, values = getattr(tables(law, margin).paddles, kind)
    out = np.zeros((len(poses_and_places), law.window, law.window), np.uint8)
    for image, (row, col, pose) in zip(out, poses_and_places, strict=True):
        for r, c, gray in values[begin[pose] : begin[pose + 1]]:
            if 0 <= row + r < law.window and 0 <= col + c < law.window:
                image[row + r, col + c] = gray
    return out


@pytest.mark.parametrize("size", SIZES)
def test_paddles_of_different_contours_keep_their_distance(size):
    law = law_of(size, "hard")
    margin = law.margins[-1]
    for seed in range(3):
        grown = grow(tables(law, margin), np.random.default_rng(seed))
        paddles = grown.paddles[: grown.laid]
        areas = windows(law, margin, "area", paddles) / 255
        targets, short = 2 * law.contour_length, law.distractor_length
        border = np.ones((size, size))
        border[law.border : -law.border, law.border : -law.border] = 0
        for i in range(2, len(paddles)):
            # an area is taken when the next paddle of its contour lies
            first = i - (i - targets) % short
            if i < targets:
                taken = list(range(i - 2))
            elif i == first:
                continue  # it begins where pixels are free: another rule
            else:
                # that of the first target's last paddle is forgotten
                taken = [j for j in range(first) if j != targets - 2] + list(range(first, i - 1))
            before = np.maximum(areas[taken].max(axis=0, initial=0), border)
            assert (before + areas[i])[areas[i] > 0].max() < CROWDED, i


@pytest.mark.parametrize("size", [32, 128])
def test_where_the_first_target_may_begin(size):
    law = law_of(size, "hard")
    margin = law.margins[0]
    seeds, half = tables(law, margin).seeds, law.length + margin
    taken = np.ones((size, size))
    near = 2 * law.seed_distance
    taken[near:-near, near:-near] = 0
    found = 0
    for pose in range(0, DEGREES, 24):
        paddle = windows(law, margin, "area", [(size // 2, size // 2, pose)])[0]
        # the paddle as a structure whose middle is one up and left of its tail
        middle = size // 2 - 1
        window = paddle[middle - half : middle + half + 1, middle - half : middle + half + 1]
        dilated = ndimage.maximum_filter(
            taken, footprint=window == 255, mode="constant", cval=-np.inf
        )
        wanted = np.empty((0, 2)) if dilated.min() < 0 else np.argwhere(dilated <= 0.3)
        got = seeds.tails.values[seeds.tails.begin[pose] : seeds.tails.begin[pose + 1]]
        np.testing.assert_array_equal(got, wanted)
        found += len(got)
    assert found


def test_the_next_paddle_is_drawn_by_its_turn():
    # nothing in the way: the share of each turn is its weight, cos^2 of continuity times the angle
    law = law_of(256, "hard")
    margin = law.margins[0]
    found = tables(law, margin)
    turns = found.turns
    pose = DEGREES + 3
    first, last = turns.near.begin[pose], turns.near.begin[pose + 1]
    directions = np.arctan2(*turns.tips.T)
    angle = np.abs(directions - directions[3])
    angle = np.minimum(angle, 2 * np.pi - angle) * law.continuity
    weight = np.where(angle < np.pi / 2, np.cos(angle) ** 2, 0)
    np.testing.assert_allclose(turns.weight[first:last], weight[weight > 0], rtol=1e-12)
    np.testing.assert_array_equal(turns.near.values[first:last], np.flatnonzero(weight))
    assert np.abs(seed_angles()).max() == np.pi


@pytest.mark.parametrize("size", SIZES)
def test_discs_are_where_they_are_said_to_be(size):
    law = law_of(size, "easy")
    for seed in range(10):
        drawn = draw_image(law, np.random.default_rng(seed))
        assert drawn.pixels.max() == 255 and drawn.pixels.min() == 0
        # both are of one level; at 32 a distractor may be brighter
        levels = drawn.pixels[tuple(drawn.discs.T)].astype(int)
        assert abs(levels[0] - levels[1]) <= 1 and levels.min() >= 220
        assert drawn.margin in law.margins
        assert 0 <= drawn.distractors <= law.distractors


def test_distractors_are_brighter_than_targets_at_32():
    law = law_of(32, "hard")
    drawn = [draw_image(law, np.random.default_rng(seed)) for seed in range(40)]
    tops = {(d.distractors > 0, bool((d.pixels == 255).sum() > 20)) for d in drawn}
    # 255 is the dashes of distractors, or the discs where no distractor found a place
    with_some = [d.pixels for d in drawn if d.distractors]
    without = [d.pixels for d in drawn if not d.distractors]
    assert with_some and without and tops
    # dashes along the axes reach the peak: most images have some
    assert np.mean([{255, 221, 191} <= set(np.unique(pixels)) for pixels in with_some]) > 0.25
    assert all(pixels.max() == 255 for pixels in without)


def test_what_does_not_exist_is_named():
    with pytest.raises(UserError, match="did you mean 'hard'"):
        law_of(32, "har")
    with pytest.raises(UserError, match="size=96: choose from 32, 64, 128, 256"):
        law_of(96, "hard")
