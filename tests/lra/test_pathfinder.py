"""The Pathfinder tasks on drawn images: knobs, splits, batches, baselines, resuming."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lra.data import pathfinder_set
from lra.errors import UserError
from lra.presets import compose, names
from lra.tasks.pathfinder import NAMES, Pathfinder

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = dict(difficulty="easy", n_train=300, n_val=20, n_test=40)
NONE = {"val in train": 0, "test in train": 0, "test in val": 0}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Pathfinder(root=tmp_path_factory.mktemp("data"), **SMALL)


def rows(task, split, seed=None):
    data = task.build(split, seed)
    return list(zip(map(tuple, data["x"]), data["y"], strict=True))


@pytest.mark.parametrize("size", NAMES)
def test_the_configs_name_the_knobs_and_their_defaults(size):
    name = NAMES[size][0]
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / f"{name}.yaml"))
    assert config.pop("name") == name
    assert config.pop("_target_") == "lra.tasks.pathfinder.Pathfinder"
    knobs = inspect.signature(Pathfinder).parameters
    defaults = {name: knobs[name].default for name in knobs if name != "root"}
    assert config == {**defaults, "size": size}


@pytest.mark.parametrize("size", NAMES)
def test_every_recipe_composes(size):
    name = NAMES[size][0]
    found = [path.stem for path in (CHECKOUT / "conf" / "recipe").glob(f"*_{name}.yaml")]
    assert {f"{protocol}_{name}" for protocol in ("laptop", "smoke", "lra_repo")} <= set(found)
    for recipe in found:
        protocol = recipe.removesuffix(f"_{name}")
        assert protocol in names("protocol")
        config = compose(f"task={name}", f"protocol={protocol}")
        assert config.task.size == size
        assert config.recipe.steps and config.recipe.batch and config.recipe.dim
        # LRA's code and its ports mask black pixels; S4 and Mega feed numbers
        assert config.task.mask_zero_pixels == (
            protocol in ("lra_repo", "lra_paper", "xformer_small")
        )
        if protocol in ("s4", "mega"):
            assert config.task.pixels == "scalar"


def test_deviations_of_lra_by_model():
    found = sorted((CHECKOUT / "conf" / "experiment").glob("lra_repo_pathfinder_*.yaml"))
    assert len(found) == 11
    for path in found:
        model = path.stem.removeprefix("lra_repo_pathfinder_")
        if model in names("model"):
            config = compose(f"experiment={path.stem}")
            assert (config.task.name, config.recipe.steps) == ("pathfinder", 62400)


def test_spec(tmp_path):
    spec = Pathfinder(root=tmp_path).spec
    assert (spec.name, spec.length, spec.classes, spec.vocab) == ("pathfinder", 1024, 2, 256)
    assert (spec.grid, spec.chance_acc, spec.published) == ((32, 32), 0.5, "pathfinder")
    assert (spec.kind, spec.tier, spec.causal) == ("classify", "regenerated", False)
    spec = Pathfinder(root=tmp_path, size=128, pixels="scalar").spec
    assert (spec.name, spec.length, spec.vocab, spec.features) == ("path_x", 16384, None, 1)
    assert (spec.tier, spec.published) == ("regenerated", "path_x")
    # only the hard contours are LRA's
    assert Pathfinder(root=tmp_path, difficulty="easy").spec.published is None
    # nothing is built before it is asked for
    assert not list(tmp_path.iterdir())


# restarts make images of 64 slow to draw
@pytest.mark.parametrize("size, difficulty, n", [(32, "hard", 400), (64, "hard", 60)])
def test_no_hard_image_comes_twice(tmp_path, size, difficulty, n):
    task = Pathfinder(
        root=tmp_path, size=size, difficulty=difficulty, n_train=n, n_val=n // 10, n_test=n // 10
    )
    assert task.manifest()["duplicates"] == {
        "val in train": 0,
        "test in train": 0,
        "test in val": 0,
    }
    pictures = [pixels for split in ("train", "val", "test") for pixels, _ in rows(task, split)]
    assert len(set(pictures)) == len(pictures) == n + 2 * (n // 10)


def test_repeated_images_are_counted(tmp_path, monkeypatch):
    def same(law, seed, split, first, end, block):
        n = end - first
        return np.zeros((n, 1024), np.uint8) + (split == "val"), np.zeros(n, np.uint8)

    monkeypatch.setattr(pathfinder_set, "draw_block", same)
    task = Pathfinder(root=tmp_path, n_train=3, n_val=2, n_test=4)
    assert task.manifest()["duplicates"] == {
        "val in train": 0,
        "test in train": 4,
        "test in val": 0,
    }


def test_splits_have_their_sizes_and_share_no_image(small):
    splits = [rows(small, split) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [300, 20, 40]
    pictures = [pixels for split in splits for pixels, _ in split]
    assert len(set(pictures)) == len(pictures)
    assert {len(pixels) for pixels in pictures} == {1024}
    assert 100 < sum(label for _, label in splits[0]) < 200


def test_the_seed_decides_and_other_splits_do_not(small, tmp_path):
    again = Pathfinder(root=tmp_path, **{**SMALL, "n_train": 10})
    assert rows(again, "test") == rows(small, "test")
    assert rows(again, "train") == rows(small, "train")[:10]
    other = rows(again, "test", seed=1)
    assert other != rows(again, "test")
    assert rows(Pathfinder(root=tmp_path, **SMALL, data_seed=1), "test") == other
    facts = small.manifest()
    assert facts["generator"] == "pathfinder-1" and facts["rows"]["train"] == 300


def test_an_interrupted_build_goes_on(small, tmp_path, monkeypatch):
    monkeypatch.setattr("lra.data.writer.BATCH_BYTES", 30_000)
    monkeypatch.setattr("lra.data.writer.SHARD_BYTES", 60_000)
    monkeypatch.setattr(pathfinder_set, "BLOCK_BYTES", 2**14)
    task, drawn = Pathfinder(root=tmp_path, **SMALL), []
    draw = pathfinder_set.draw_block

    def stopping(law, seed, split, first, end, block):
        drawn.append((split, first))
        if len(drawn) == 15:
            raise KeyboardInterrupt
        return draw(law, seed, split, first, end, block)

    monkeypatch.setattr(pathfinder_set, "draw_block", stopping)
    with pytest.raises(KeyboardInterrupt):
        task.build("train")
    assert rows(task, "train") == rows(small, "train")
    # it went on behind the whole shards
    assert drawn[15][0] == "train" and drawn[15][1] >= 128
    for part in ("sha256", "duplicates"):
        assert task.manifest()[part] == small.manifest()[part]


def test_a_batch_is_what_is_stored(small, tmp_path):
    data = small.build("train")
    batch = small.collate(data, np.array([5, 0, 7]))
    assert batch.x.shape == batch.mask.shape == (3, 1024) and batch.mask.all()
    assert batch.x.tolist() == [data[i]["x"] for i in (5, 0, 7)]
    assert batch.y.tolist() == [data[i]["y"] for i in (5, 0, 7)]
    other = Pathfinder(root=small._root, **SMALL, pixels="scalar", mask_zero_pixels=True)
    scalars = other.collate(other.build("train"), np.array([5, 0, 7]))
    # the encoding is no part of what is stored
    assert other.manifest() == small.manifest()
    assert scalars.x.shape == (3, 1024, 1)
    torch.testing.assert_close(scalars.x[..., 0], batch.x / 255)
    assert scalars.mask.equal(batch.x > 0)


def test_baselines_are_learned_on_train_and_scored_on_test(small):
    train, test = (
        [(np.mean(pixels), label) for pixels, label in rows(small, split)]
        for split in ("train", "test")
    )
    lines = small.baselines()
    ones = sum(label for _, label in train)
    majority = ones >= len(train) / 2
    assert lines["majority"] == np.mean([label == majority for _, label in test])
    best = max(
        (np.mean([(value >= cut) == (label == side) for value, label in train]), cut, side)
        for cut in [*sorted(value for value, _ in train), np.inf]
        for side in (0, 1)
    )
    score = np.mean([(value >= best[1]) == (label == best[2]) for value, label in test])
    assert lines["brightness"] == pytest.approx(score, abs=0.1)


def test_bad_knobs_are_refused_before_any_work(tmp_path):
    for knobs, says in (
        (dict(n_train=0), "n_train=0"),
        (dict(data_seed=-1), "data_seed=-1"),
        (dict(size=48), "size=48"),
        (dict(difficulty="medium"), "unknown difficulty 'medium'"),
        (dict(pixels="token"), "unknown .*'token'"),
        (dict(split_rule="S4"), "unknown split rule 'S4': did you mean 's4'"),
    ):
        with pytest.raises(UserError, match=says):
            Pathfinder(root=tmp_path, **knobs)
    assert not list(tmp_path.iterdir())
