"""What the tasks of drawn rows share: splits, seeds, batches, trivial rules, configs."""

import hashlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats

from lra.data.synthetic import (
    CHUNK,
    distinct,
    draw_chunk,
    ids,
    key_of,
    labels,
    without_replacement,
)
from lra.data.synthetic_task import seen
from lra.errors import UserError
from lra.tasks.copying import Copying
from lra.tasks.mqar import MQAR
from lra.tasks.needle import Needle
from lra.tasks.selective_copying import SelectiveCopying

CHECKOUT = Path(__file__).resolve().parents[2]
COUNTS = dict(n_train=300, n_val=40, n_test=50)
TASKS = {
    "copying": (Copying, dict(max_length=20, n_symbols=9, n_values=8)),
    "selective_copying": (SelectiveCopying, dict(max_length=20, n_symbols=6, n_values=8)),
    "mqar": (MQAR, dict(max_length=24, num_pairs=4, vocab_size=40)),
    "needle": (Needle, dict(max_length=20, n_values=8, n_decoys=5)),
}
# published results name a seed: whoever changes what it draws must raise the law's version
DIGESTS = {
    "copying": "b8799b0ebea3884b",
    "selective_copying": "21b3099ae6d43816",
    "mqar": "b3a8a0514ef8a99e",
    "needle": "0ed6909b81641b45",
}
SMALLEST = [(100, np.int8), (128, np.int8), (129, np.int16), (32_768, np.int16), (40_000, np.int32)]


@pytest.fixture(scope="module", params=TASKS)
def task(request, tmp_path_factory):
    kind, knobs = TASKS[request.param]
    return kind(root=tmp_path_factory.mktemp("data"), **COUNTS, **knobs)


def rows(task, split, seed=None):
    data = task.build(split, seed)
    return list(zip(map(tuple, data["x"]), map(tuple, data["y"]), strict=True))


def test_facts(task):
    spec = task.spec
    assert (spec.kind, spec.causal, spec.tier) == ("token", True, "regenerated")
    assert spec.chance_acc == 1 / spec.classes
    assert spec.length == 24 if spec.name == "mqar" else 20
    x = np.array([x for x, _ in rows(task, "train")])
    y = np.array([y for _, y in rows(task, "train")])
    # every id occurs but padding, every value is asked for
    assert set(x.ravel()) == set(range(1, spec.vocab))
    assert set(y.ravel()) == {-100, *range(spec.classes)}


def test_splits_have_their_sizes_and_share_no_row(task):
    splits = [rows(task, split) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [300, 40, 50]
    inputs = [x for split in splits for x, _ in split]
    assert len(set(inputs)) == len(inputs)
    assert task.manifest()["rows"] == {"train": 300, "val": 40, "test": 50}


def test_the_seed_decides(task, tmp_path):
    kind, knobs = TASKS[task.spec.name]
    again = kind(root=tmp_path, **COUNTS, **knobs)
    assert again.manifest() == task.manifest()
    other = rows(again, "test", seed=1)
    assert not set(other) & set(rows(again, "test"))
    assert rows(kind(root=tmp_path, **COUNTS, **knobs, data_seed=1), "test") == other


def test_more_rows_begin_with_the_fewer(task, tmp_path):
    """A row is a function of seed, split and number, not of how many are asked for."""
    kind, knobs = TASKS[task.spec.name]
    more = kind(root=tmp_path, n_train=2000, n_val=60, n_test=70, **knobs)
    for split in ("train", "val", "test"):
        assert rows(more, split)[: len(task.build(split))] == rows(task, split)


@pytest.mark.parametrize("name", DIGESTS)
def test_a_seed_keeps_its_rows(name):
    kind, knobs = TASKS[name]
    law = kind(root="unused", **knobs)._law
    digest = hashlib.sha256()
    for _, column in sorted(draw_chunk(law, 0, 0, 0).items()):
        digest.update(column[:500].astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[name]


def test_a_batch_has_no_padding(task):
    data = task.build("train")
    batch = task.collate(data, np.array([5, 0, 7]))
    assert batch.x.dtype == batch.y.dtype == torch.int64
    assert batch.mask.all() and batch.mask.shape == batch.x.shape == batch.y.shape
    wanted = [data[i] for i in (5, 0, 7)]
    assert batch.x.tolist() == [row["x"] for row in wanted]
    assert batch.y.tolist() == [row["y"] for row in wanted]


def test_baselines_are_what_a_slow_count_gives(task):
    train, test = rows(task, "train"), rows(task, "test")
    first = task.spec.vocab - task.spec.classes
    asked = [y for _, ys in train for y in ys if y != -100]
    majority = max(range(task.spec.classes), key=lambda v: (asked.count(v), -v))
    n, hits = 0, {"majority": 0.0, "latest_value": 0.0, "context_value": 0.0}
    for xs, ys in test:
        for at, y in enumerate(ys):
            if y == -100:
                continue
            values = [x - first for x in xs[: at + 1] if x >= first]
            n += 1
            hits["majority"] += y == majority
            hits["latest_value"] += values[-1] == y
            hits["context_value"] += values.count(y) / len(values)
    assert task.baselines() == pytest.approx({name: sum / n for name, sum in hits.items()})


def test_nothing_is_built_before_it_is_asked_for(tmp_path):
    for kind, knobs in TASKS.values():
        assert kind(root=tmp_path, **knobs).spec.vocab
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TASKS)
def test_the_config_names_the_knobs_and_their_defaults(name):
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / f"{name}.yaml"))
    kind = TASKS[name][0]
    assert config.pop("name") == name
    assert config.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    knobs = inspect.signature(kind).parameters
    assert config == {knob: knobs[knob].default for knob in knobs if knob != "root"}


@pytest.mark.parametrize("name", TASKS)
def test_bad_knobs_are_refused_before_any_work(name, tmp_path):
    kind, knobs = TASKS[name]
    for wrong in (
        dict(n_train=0), dict(n_val=-1), dict(n_test=1.5), dict(max_length="long"),
        dict(max_length=2), dict(data_seed=-1), dict(n_train=True),
    ):  # fmt: skip
        ((knob, value),) = wrong.items()
        with pytest.raises(UserError, match=f"{knob}={value}: write|need max_length="):
            kind(root=tmp_path, **{**knobs, **wrong})
    assert not list(tmp_path.iterdir())


# -- rows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coins:
    """Few different rows: all that ``length`` throws of a coin can be."""

    length: int
    version: ClassVar[int] = 1

    def draw(self, rng, rows):
        x = rng.integers(2, size=(rows, self.length))
        return {"x": x, "y": x.sum(axis=1)}


def joined(parts):
    return np.concatenate([part["x"] for part in parts])


def test_splits_of_a_small_support_share_no_row_either():
    held: set[bytes] = set()
    train = joined(distinct(Coins(8), 0, 0, 200, held))
    test = joined(distinct(Coins(8), 0, 1, 256, held))
    assert (len(train), len(test)) == (200, 56)
    assert len({row.tobytes() for row in np.concatenate([train, test])}) == 256


def test_too_few_different_rows_are_told():
    with pytest.raises(UserError, match="found only 256 different rows: lower n_train"):
        list(distinct(Coins(8), 0, 0, 257, set()))


def test_an_impossible_set_leaves_nothing_behind(tmp_path):
    task = Copying(root=tmp_path, **COUNTS, max_length=5, n_symbols=2, n_values=2)
    with pytest.raises(UserError, match="found only 4 different rows"):
        task.build("train")
    assert not [path for path in (tmp_path / "copying").iterdir() if path.is_dir()]


def test_splits_and_chunks_are_drawn_apart():
    law = TASKS["needle"][0](root="unused", **TASKS["needle"][1])._law
    assert len(draw_chunk(law, 0, 0, 0)["x"]) == CHUNK // 20
    drawn = [draw_chunk(law, *at)["x"].tobytes() for at in ((0, 0, 0), (0, 0, 1), (0, 1, 0))]
    assert len(set(drawn)) == 3
    assert drawn[1] == draw_chunk(law, 0, 0, 1)["x"].tobytes()


def test_the_key_says_all_that_decides_the_rows():
    key = key_of(Coins(8), {"train": 3}, 5)
    assert key == {"generator": 1, "seed": 5, "asked": {"train": 3}, "law": {"length": 8}}


# -- parts of laws -----------------------------------------------------------------------------


def test_without_replacement_follows_the_weights():
    """The law of three draws out of four, against the product of its conditional chances."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    drawn = without_replacement(np.random.default_rng(0), 50_000, 3, weights)
    assert all(len(set(row)) == 3 for row in drawn[:1000].tolist())
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(found) == 24
    left = 10 - np.cumsum(np.pad(weights[found], ((0, 0), (1, 0))), axis=1)[:, :3]
    chance = (weights[found] / left).prod(axis=1)
    assert stats.chisquare(counts, chance * len(drawn)).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 4])
def test_one_or_all_can_be_drawn(k):
    drawn = without_replacement(np.random.default_rng(0), 1000, k, np.ones(4))
    assert drawn.shape == (1000, k) and set(drawn[:, 0]) == {0, 1, 2, 3}


@pytest.mark.parametrize("classes, dtype", SMALLEST)
def test_labels_are_stored_in_the_smallest_type(classes, dtype):
    y = labels(2, 3, classes)
    assert y.dtype == dtype and (y == -100).all()
    y[:] = classes - 1
    assert (y == classes - 1).all()


@pytest.mark.parametrize("vocab, dtype", [(256, np.uint8), (257, np.uint16), (65_537, np.uint32)])
def test_ids_are_stored_in_the_smallest_type(vocab, dtype):
    assert ids(2, 3, 1, vocab).dtype == dtype


def test_values_before_any_was_seen():
    value = np.array([[-1, -2, 3, 3, 0]])
    at = np.array([1, 2, 3, 4])
    latest, share = seen(value, np.zeros(4, int), at, np.array([3, 3, 0, 3]))
    assert latest[1:].tolist() == [3, 3, 0] and latest[0] < 0
    assert share.tolist() == [0, 1, 0, 2 / 3]
