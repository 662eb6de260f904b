"""Two processes under ``torchrun`` on the CPU do what one does with the same global batch."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from lra.resolvers import checkout

RUN = f"{checkout()}/run.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", RUN)


def folder_of(results: Path) -> Path:
    (folder,) = results.glob("runs/*")
    return folder


def test_two_processes_give_the_losses_of_one(fork, command, built_data, tmp_path):
    """Also across a stop, and with uneven shares: 41 rows in batches of 4 are 6 batches for one
    process and 5 for the other."""
    cell = (
        "recipe.eval_batch=4", "task.n_val=41", "task.n_test=41", "recipe.eval_every=3",
        "recipe.lr=0.01", "recipe.dropout=0", "recipe.mixer_dropout=0", "recipe.grad_clip=0.5",
        "mixer._target_=my_module.Asked",
    )  # fmt: skip
    one = fork(*fork.tiny(tmp_path / "one", *cell))
    assert one.code == 0, one.err

    # one process alone is asked to stop: both do, at the same step
    arguments = fork.tiny(tmp_path / "two", *cell, f"paths.data={built_data}")
    asked = command(*TORCHRUN, *arguments, env={**os.environ, "ASK_RANK": "1"})
    assert asked.returncode != 0
    row = json.loads((folder_of(tmp_path / "two") / "row.json").read_text())
    assert (row["status"], row["steps"]) == ("interrupted", 3)
    two = command(*TORCHRUN, *arguments)
    assert two.returncode == 0, two.stderr
    assert two.stderr.count("resumed at step 3 of 6") == 1

    folders = [folder_of(tmp_path / name) for name in ("one", "two")]
    histories = [pd.read_csv(folder / "history.csv") for folder in folders]
    for column in ("step", "train_loss", "train_acc", "val_loss", "val_acc", "lr"):
        expected, found = (list(history[column]) for history in histories)
        assert found == pytest.approx(expected, rel=1e-5), column
    rows = [json.loads((folder / "row.json").read_text()) for folder in folders]
    assert rows[1]["status"] == "ok"
    assert rows[1]["reason"] == "time, memory and FLOPs are measured in a run of one process"
    for column in ("test_acc", "val_acc", "n_test", "steps", "n_params", "batch"):
        assert rows[1][column] == pytest.approx(rows[0][column]), column
    # an own cell: sums in another order are other bits
    assert rows[0]["cell"] != rows[1]["cell"]
    models = [torch.load(folder / "model.pt", weights_only=True)["state"] for folder in folders]
    assert models[0].keys() == models[1].keys()
    for name, value in models[0].items():
        assert torch.allclose(models[1][name], value, rtol=1e-3, atol=1e-5), name

    # the first process alone speaks and writes
    assert two.stdout.count("a few steps to see") == two.stdout.count("first_operator") == 1
    assert two.stderr.count("6/6 steps") == 1
    assert [path.name for path in (tmp_path / "two" / "local" / "runs").iterdir()] == [
        f"{rows[1]['cell']}.json"
    ]

    # again: finished, in both processes
    again = command(*TORCHRUN, *arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 1 and "steps" not in again.stderr


def test_processes_end_together(command, built_data, fork, tmp_path):
    """NaN in the share of one process ends both, as a row and without a stack trace; until then
    each has its own dropout."""
    line = fork.tiny(
        tmp_path, f"paths.data={built_data}", "recipe.lr=1e30", "mixer._target_=my_module.Drawing"
    )
    drawn = tmp_path / "drawn"
    ended = command(*TORCHRUN, *line, env={**os.environ, "DRAWN": str(drawn)})
    assert ended.returncode != 0
    row = json.loads((folder_of(tmp_path) / "row.json").read_text())
    assert row["status"] == "nan"
    assert f"status nan: {row['reason']}" in ended.stdout
    numbers = [line.split() for line in drawn.read_text().splitlines()]
    first, second = ({n for rank, n in numbers if rank == of} for of in ("0", "1"))
    assert first and second and not first & second
    # torchrun says that a process failed; none of ours says anything else
    assert "NotFinite" not in ended.stderr and "Connection closed" not in ended.stderr
