"""The ListOps task: knobs, splits, batches, baselines, and trees like the official sample's."""

import inspect
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy import stats

from lra.data.listops_set import distinct_trees
from lra.data.listops_trees import TreeLaw, Trees
from lra.data.listops_tsv import FILES, read_trees
from lra.errors import UserError
from lra.tasks.listops import ListOps

CHECKOUT = Path(__file__).resolve().parents[2]
SMALL = dict(
    n_train=300, n_val=40, n_test=50, max_depth=4, max_args=5, min_length=16, max_length=64
)
OPERATOR = range(11, 15)
CLOSE = 15


def value(tokens):
    """The value of a tree, by a stack of open operators; written apart from the generator."""
    stack = [(0, [])]
    for token in tokens:
        if token in OPERATOR:
            stack.append((token, []))
        elif token == CLOSE:
            operator, values = stack.pop()
            match operator:
                case 11:
                    result = min(values)
                case 12:
                    result = max(values)
                case 13:
                    result = int(np.median(values))
                case 14:
                    result = sum(values) % 10
            stack[-1][1].append(result)
        else:
            stack[-1][1].append(token - 1)
    ((_, (result,)),) = stack
    return result


def root_args(tokens):
    depth = n = 0
    for token in tokens:
        n += depth == 1 and token != CLOSE
        depth += (token in OPERATOR) - (token == CLOSE)
    return n


def joined(parts):
    return Trees(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def lists(trees):
    return [part.tolist() for part in np.split(trees.tokens, np.cumsum(trees.lengths))[:-1]]


@pytest.fixture(scope="module")
def official(listops_sample):
    return joined(
        part
        for name in FILES.values()
        for part in read_trees(listops_sample / name, 9999, 2000, ())
    )


@pytest.fixture(scope="module")
def generated(official):
    return joined(distinct_trees(TreeLaw(), official.labels.size, 1, 1))


def test_official_labels_are_the_values_of_their_trees(official):
    sample = list(islice(zip(lists(official), official.labels.tolist(), strict=True), 0, None, 3))
    assert len(sample) == 2000
    assert all(value(tokens) == label for tokens, label in sample)


def test_generated_lengths_are_distributed_as_the_official(official, generated):
    assert stats.ks_2samp(official.lengths, generated.lengths).pvalue > 1e-3
    assert official.lengths.min() > 500 and official.lengths.max() < 2000


@pytest.mark.parametrize("what", ["root operator", "root arguments", "label", "token"])
def test_generated_counts_are_distributed_as_the_official(official, generated, what):
    def count(trees):
        first = np.cumsum(trees.lengths) - trees.lengths
        match what:
            case "root operator":
                observed = trees.tokens[first]
            case "root arguments":
                observed = np.array([root_args(tokens) for tokens in lists(trees)])
            case "label":
                observed = trees.labels
            case _:
                # one token a tree: tokens of one tree are not independent
                observed = trees.tokens[first + trees.lengths // 2]
        return np.bincount(observed, minlength=16)

    table = np.stack([count(official), count(generated)])
    table = table[:, table.sum(axis=0) > 0]
    assert table.shape[1] >= 4
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_the_config_names_the_knobs_and_their_defaults():
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / "listops.yaml"))
    assert config.pop("name") == "listops"
    assert config.pop("_target_") == "lra.tasks.listops.ListOps"
    knobs = inspect.signature(ListOps).parameters
    defaults = {name: knobs[name].default for name in knobs if name != "root"}
    defaults["operators"] = list(defaults["operators"])
    assert config == defaults


def test_spec(tmp_path):
    spec = ListOps(root=tmp_path).spec
    assert (spec.length, spec.classes, spec.vocab, spec.chance_acc) == (2000, 10, 17, 0.1)
    assert (spec.kind, spec.tier, spec.causal) == ("classify", "regenerated", False)
    assert ListOps(root=tmp_path, operators=["MIN", "LAST"]).spec.vocab == 19
    # nothing is built before it is asked for
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return ListOps(root=tmp_path_factory.mktemp("data"), **SMALL)


def rows(task, split, seed=None):
    data = task.build(split, seed)
    return list(zip(map(tuple, data["x"]), data["y"], strict=True))


def test_splits_have_their_sizes_and_share_no_tree(small):
    splits = [rows(small, split) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [300, 40, 50]
    trees = [tokens for split in splits for tokens, _ in split]
    assert len(set(trees)) == len(trees)
    assert all(value(tokens) == label for split in splits for tokens, label in split)


def test_the_seed_decides(small, tmp_path):
    again = ListOps(root=tmp_path, **SMALL)
    assert again.manifest() == small.manifest()
    assert rows(again, "test") == rows(small, "test")
    other = rows(again, "test", seed=1)
    assert other != rows(again, "test")
    assert rows(ListOps(root=tmp_path, **SMALL, data_seed=1), "test") == other


def test_a_batch_is_padded_to_its_longest_row(small):
    batch = small.collate(small.build("train"), np.array([5, 0, 7]))
    wanted = [small.build("train")[i] for i in (5, 0, 7)]
    lengths = [len(row["x"]) for row in wanted]
    assert batch.x.shape == batch.mask.shape == (3, max(lengths))
    assert (batch.x.dtype, batch.mask.dtype, batch.y.dtype) == (
        torch.int64,
        torch.bool,
        torch.int64,
    )
    assert batch.mask.sum(dim=1).tolist() == lengths
    assert (batch.x > 0).equal(batch.mask)
    assert batch.y.tolist() == [row["y"] for row in wanted]
    for row, ids in zip(wanted, batch.x.tolist(), strict=True):
        assert ids[: len(row["x"])] == row["x"]


def test_baselines_are_learned_on_train_and_scored_on_test(small):
    train, test = rows(small, "train"), rows(small, "test")
    majority = Counter(y for _, y in train).most_common(1)[0][0]
    of_root = {op: Counter(y for x, y in train if x[0] == op) for op in OPERATOR}
    # no two values are equally frequent after one operator, so that the guess is clear
    assert all(a > b for (_, a), (_, b) in (n.most_common(2) for n in of_root.values()))
    guesses = [of_root[x[0]].most_common(1)[0][0] for x, _ in test]
    lines = small.baselines()
    assert lines["majority"] == sum(y == majority for _, y in test) / len(test)
    assert lines["first_operator"] == sum(
        guess == y for guess, (_, y) in zip(guesses, test, strict=True)
    ) / len(test)


def test_bad_knobs_are_refused_before_any_work(tmp_path):
    for knobs in (
        dict(n_train=0),
        dict(n_val=-1),
        dict(n_test=1.5),
        dict(max_length="long"),
        dict(data_seed=-1),
        dict(max_depth=True),
        dict(min_length=-5),
        dict(operators="MIN"),
        dict(operators=[]),
        dict(operators=[3]),
    ):
        (name,) = knobs
        with pytest.raises(UserError, match=f"^{name}=|unknown ListOps operator '3'"):
            ListOps(root=tmp_path, **knobs)
    assert not list(tmp_path.iterdir())


def test_impossible_sets_leave_nothing_behind(tmp_path):
    knobs = dict(max_depth=2, max_args=2, min_length=0, max_length=6)
    with pytest.raises(UserError, match="found only 400 of 1,000 different trees"):
        ListOps(root=tmp_path, n_train=998, n_val=1, n_test=1, **knobs).build("train")
    assert not [path for path in (tmp_path / "listops").iterdir() if path.is_dir()]


def test_two_processes_share_one_store_and_no_temporary_file_stays(tmp_path):
    code = (
        "import sys; from lra.tasks.listops import ListOps\n"
        "if __name__ == '__main__':\n"
        "    task = ListOps(root=sys.argv[1], n_train=2000, n_val=5, n_test=5, min_length=100)\n"
        "    print(task.manifest()['sha256']['train']['x'])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    children = [
        subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    digests = {child.communicate(timeout=120)[0] for child in children}
    assert len(digests) == 1 and len(digests.pop()) == 65
    (folder,) = (path for path in (tmp_path / "listops").iterdir() if path.is_dir())
    assert not list(folder.glob("*.tmp"))
    train = ListOps(root=tmp_path, n_train=2000, n_val=5, n_test=5, min_length=100).build("train")
    assert len(train) == 2000
