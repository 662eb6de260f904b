"""W&B: without an account a real offline run with config, history and summary; a mirror only, so
that whatever goes wrong with it costs no result."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lra.results.schema import RunRow
from lra.tracking import Tracker

OFFLINE = {"name": "wandb", "mode": "offline", "project": "lra"}
BLOCK = 2**15


def records(path: Path) -> Iterator:
    """The records of a run's file: a log of LevelDB's format after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(part)
            part = b""
            yield record


def mirrored(folder: Path) -> tuple[dict, list[dict], dict]:
    """Config, history and summary of the one offline run in the folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    config, history, summary = {}, [], {}

    def values(items) -> dict:
        return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}

    for record in records(path):
        config |= values(record.run.config.update)
        summary |= values(record.summary.update)
        if record.history.item:
            history.append(values(record.history.item))
    return config, history, summary


def row(**values) -> RunRow:
    facts = {
        "cell": "abc", "model": "m", "family": "exact", "mixer": "M", "block": "B",
        "backbone": "E", "mixer_knobs": "{}", "task": "t", "tier": "official", "length": 8,
        "batch": 2, "causal": False, "protocol": "smoke", "label": "standard", "seed": 0,
        "status": "ok",
    }  # fmt: skip
    return RunRow(**{**facts, **values})


def test_a_cell_without_an_account_makes_an_offline_run(fork, tmp_path):
    ended = fork(*fork.tiny(tmp_path, "logger=wandb_offline"))
    assert ended.code == 0, ended.err
    config, history, summary = mirrored(tmp_path / "local")
    (path,) = tmp_path.glob("runs/*/row.json")
    final = json.loads(path.read_text())
    assert config["cell"] == final["cell"]
    assert (
        config["recipe"]["steps"] == 6
        and config["layers"][0]["mixer"]["_target_"] == "my_module.MyMixer"
    )
    assert [line["step"] for line in history] == [2, 4, 6]
    assert {"train_loss", "val_loss", "val_acc", "lr"} <= history[0].keys()
    expected = {key: value for key, value in final.items() if value is not None}
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    # the files are named, and W&B itself is silent
    (line,) = [line for line in ended.out.splitlines() if "offline-run" in line]
    assert line.startswith("wrote ")
    assert "wandb" not in ended.err


def test_the_final_row_is_the_summary(tmp_path):
    """Also where the best validation was not the last one."""
    tracker = Tracker.start(OFFLINE, name="cell", config={"seed": 3}, folder=tmp_path)
    assert tracker.folder.is_dir() and tracker.folder.parent == tmp_path / "wandb"
    tracker.log({"step": 5, "val_acc": 0.75, "train_s": 1.0})
    tracker.log({"step": 10, "val_acc": 0.5, "train_s": 2.0})
    tracker.finish(row(val_acc=0.75, test_acc=0.7, train_s=2.0, n_params=None))
    config, history, summary = mirrored(tmp_path)
    assert config["seed"] == 3
    assert [(line["step"], line["val_acc"]) for line in history] == [(5, 0.75), (10, 0.5)]
    assert (summary["val_acc"], summary["test_acc"], summary["status"]) == (0.75, 0.7, "ok")
    # what is missing is missing
    assert "n_params" not in summary


def test_none_makes_nothing(tmp_path):
    tracker = Tracker.start({"mode": "disabled"}, name="cell", config={}, folder=tmp_path)
    tracker.log({"step": 1, "val_acc": 0.5})
    tracker.finish(row())
    assert tracker.folder is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_what_goes_wrong_is_said_once_and_costs_nothing(tmp_path, monkeypatch, caplog, broken):
    import wandb

    class Run:
        dir, summary = str(tmp_path / "files"), {}

        def log(self, *args, **kwargs):
            if broken == "log":
                raise ConnectionError("no network\nat all")

        def finish(self, **kwargs):
            if broken == "finish":
                raise wandb.errors.CommError("gone")

    def init(**kwargs):
        if broken == "init":
            raise wandb.errors.UsageError("api_key not configured (no-tty)")
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    tracker = Tracker.start({**OFFLINE, "mode": "online"}, name="cell", config={}, folder=tmp_path)
    for step in (1, 2):
        tracker.log({"step": step, "val_acc": 0.5})
    tracker.finish(row())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("W&B: ")
    assert record.getMessage().endswith(": this run is not mirrored")
    assert "\n" not in record.getMessage()
    assert tracker.folder is None


def test_a_signal_is_not_forgiven(tmp_path, monkeypatch):
    """Only errors are: a run that is asked to stop while W&B starts must stop."""
    import wandb

    def init(**kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(KeyboardInterrupt):
        Tracker.start(OFFLINE, name="cell", config={}, folder=tmp_path)
