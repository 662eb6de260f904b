"""The benchmark of what the harness costs a step."""

import logging

from lra import presets
from lra.config import load
from lra.measurement import overhead


def test_both_loops_take_the_same_steps(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(overhead, "PAIRS", 5)
    monkeypatch.setattr(overhead, "WARMUP", 1)
    words = ("model=linear_transformer", "protocol=smoke", "task.n_train=64", "task.n_val=16",
             "task.n_test=16", "recipe.batch=8", f"paths.data={tmp_path}")  # fmt: skip
    found = overhead.overhead(load(presets.compose(*words)))
    assert {name: len(ms) for name, ms in found.items()} == {"bare": 5, "harness": 5}
    assert min(min(ms) for ms in found.values()) > 0


def test_the_command_says_the_ratio(monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["overhead", "model=linear_transformer"])
    times = {"bare": [10.0] * 4 + [9.0], "harness": [10.2] * 4 + [9.1]}
    monkeypatch.setattr(overhead, "overhead", lambda config: times)
    with caplog.at_level(logging.INFO, logger="lra.overhead"):
        overhead.main()
    assert "linear_transformer: bare loop 10.00 ms a step, harness 10.20 ms: ratio 1.020" in (
        caplog.text
    )
