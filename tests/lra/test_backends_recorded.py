"""Why a backend ran, and why those before it did not, is on record of each cell."""

import json

import pytest

from lra import presets
from lra.config import load
from lra.lengths.config import settings
from lra.lengths.runner import Runner

REFUSAL = "its CPU kernel has no dropout"


def test_a_run_says_it_in_a_file(fork, tmp_path):
    ended = fork(
        "model=transformer", "task=listops", "protocol=smoke", "logger=none", "recipe.steps=2",
        "recipe.eval_every=2", "recipe.batch=8", "recipe.mixer_dropout=0.1", "task.n_train=64",
        "task.n_val=16", "task.n_test=16", f"paths.results={tmp_path}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (path,) = tmp_path.glob("runs/*/backends.json")
    train, test = json.loads(path.read_text())
    assert train == {
        "op": "attention", "backend": "eager", "reason": "first that can on cpu",
        "rejected": {"sdpa": REFUSAL},
    }  # fmt: skip
    assert test["backend"] == "sdpa" and test["rejected"] == {}
    assert "backends.json" in ended.out


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_length_says_it_once(tmp_path, backend):
    config = settings(load(presets.compose(
        "task=lengths", "protocol=smoke", "model=transformer", "task.lengths=[16]", "device=cpu",
        "recipe.dim=16", "recipe.depth=1", "recipe.mixer_dropout=0.1", "task.budget_s=0.001",
        f"backend={backend}", f"paths.results={tmp_path}",
    )))  # fmt: skip
    reasons = [row.reason or "" for row in Runner(config).run().rows]
    said = [reason for reason in reasons if f"no sdpa for attention: {REFUSAL}" in reason]
    assert len(said) == (1 if backend == "auto" else 0)
