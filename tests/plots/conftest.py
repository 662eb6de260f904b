"""Synthetic results: eight models, three seeds, accuracies close to each other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lra.results.csv_io import write_csv
from lra.results.schema import LengthRow, RunRow

# model: family, mean accuracy, step between seeds, steps/s, peak MiB
MODELS = {
    "transformer": ("exact", 0.455, 0.012, 21.3, 210.0),
    "linear_transformer": ("linear", 0.438, 0.010, 27.5, 120.0),
    "performer": ("linear", 0.431, 0.015, 17.1, 190.0),
    "linformer": ("low_rank", 0.349, 0.012, 26.0, 110.0),
    "local_attention": ("sparse", 0.447, 0.010, 19.8, 150.0),
    "nystromformer": ("low_rank", 0.442, 0.020, 14.2, 175.0),
    "s4d": ("ssm", 0.532, 0.008, 10.4, 260.0),
    "lru": ("recurrent", 0.556, 0.020, 8.8, 330.0),
}
DEVICE = "Some CPU @ 2.1GHz"


def _row(model, seed, /, **changes):
    family, accuracy, step, speed, memory = MODELS[model]
    row = RunRow(
        cell=f"{model}-{seed}",
        model=model,
        family=family,
        mixer=model,
        block="default",
        backbone="encoder",
        mixer_knobs="",
        task="listops",
        tier="regenerated",
        length=128,
        batch=32,
        causal=False,
        protocol="laptop",
        label="standard",
        seed=seed,
        status="ok",
        n_params=170000,
        test_acc=accuracy + step * (seed - 1),
        n_test=2000,
        chance_acc=0.1,
        trivial_acc=0.34,
        trivial_name="first_operator",
        steps_per_s=speed,
        peak_mem_mib=memory,
        degenerate=False,
        precision="fp32",
        device=DEVICE,
        n_threads=2,
        versions="torch 2.13.0",
        git_sha="abc",
        date=f"2026-11-2{seed}T10:00:00",
    )
    return replace(row, **changes)


@pytest.fixture
def make_row():
    """A finished row of one of the eight models; keyword arguments change its columns."""
    return _row


@pytest.fixture
def rows():
    """Three seeds of eight models on ListOps."""
    return [_row(model, seed) for model in MODELS for seed in range(3)]


@pytest.fixture
def results(tmp_path):
    """A function that makes a results folder of rows, with the published numbers beside them."""

    def make(rows):
        folder = tmp_path / "results"
        published = Path(__file__).parents[2] / "results" / "published"
        shutil.copytree(published, folder / "published", dirs_exist_ok=True)
        write_csv(folder / "measured" / "some-cpu-2.1ghz" / "runs.csv", rows, RunRow)
        return folder

    return make


LENGTHS = (256, 512, 1024, 2048)


def _length_row(model, length, /, **changes):
    row = LengthRow(
        cell=f"{model}", model=model, family="linear", level="model", mixer_knobs="{}",
        protocol="laptop",
        length=length, batch=1, causal=False, dim=64, heads=2, layers=2, pass_="forward",
        status="ok", n_params=1000, median_ms=length / 100, cv=0.05, n_samples=25,
        backend="some=eager", dtype="float32", device="Some CPU", n_threads=2,
    )  # fmt: skip
    return replace(row, **changes)


@pytest.fixture
def make_lengths():
    """A function that makes rows of one system at several lengths, in which a column may be a
    function of the length; without more they take N / 100 ms."""

    def make(model, lengths=LENGTHS, **changes):
        return [
            _length_row(model, n, **{k: v(n) if callable(v) else v for k, v in changes.items()})
            for n in lengths
        ]

    return make
