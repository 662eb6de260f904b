"""What the tests of the harness share: mixers from outside, made-up sources, tiny cells."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = Path(__file__).parent / "mixers_outside"

# one small cell: seconds of data, a few steps; dropout so that random states matter
TINY = (
    "protocol=smoke", "protocol.parameter_budget=null", "model=custom",
    "mixer._target_=my_module.MyMixer", "task.n_train=64", "task.n_val=40", "task.n_test=40",
    "recipe.dim=16", "recipe.steps=6", "recipe.batch=8", "recipe.eval_every=2",
    "recipe.dropout=0.1", "recipe.mixer_dropout=0.1", "logger=none",
)  # fmt: skip


@pytest.fixture(scope="session")
def listops_sample() -> Path:
    """The official sample of ListOps."""
    folder = Path(os.environ.get("LRA_DATA", "/nowhere")) / "lra_release" / "listops-1000"
    if not folder.is_dir():
        pytest.skip("the official ListOps sample is not here: set LRA_DATA")
    return folder


@pytest.fixture(scope="session")
def built_data(tmp_path_factory) -> Path:
    """A folder of built data for all cells of this process."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def outside_mixers(monkeypatch):
    """``my_module`` can be imported, here and in child processes."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    paths = [str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def command(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a Python command of the checkout from another folder, as a user would."""

    def run(*arguments: str, timeout: float = 240, **options) -> subprocess.CompletedProcess[str]:
        options = {"cwd": tmp_path, **options}
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=timeout, **options
        )

    return run


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Iterator[Callable[..., Any]]:
    """Makes the op ``toy`` of these backends, and gives a configuration that times it."""
    # most tests need no torch: neither it nor a data library is imported for all of them
    from tests.lra import toy_op

    yield from toy_op.installed(tmp_path, monkeypatch)


@pytest.fixture
def text_source(tmp_path) -> Path:
    """A folder of made-up reviews, 60 to train and 40 to test."""
    from tests.lra import reviews

    return reviews.write_parquet(tmp_path / "source")


@pytest.fixture
def image_source(tmp_path) -> Path:
    """A folder of made-up pictures, 40 to train and 20 to test."""
    from tests.lra import pictures

    return pictures.write_parquet(tmp_path / "source")


@dataclass
class Ended:
    """How a run ended, and what it said."""

    code: int
    out: str
    err: str


class Forks:
    """``drivers/forks.py`` at work: runs of ``run.py`` without the seconds that imports take."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.data, self.orders = folder, data, 0
        paths = [str(ROOT), str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(folder)}
        # no account, no wish about W&B
        env = {name: value for name, value in env.items() if not name.startswith("WANDB")}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "drivers" / "forks.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )  # fmt: skip

    @staticmethod
    def tiny(results: Path, *more: str) -> list[str]:
        """Arguments of the tiny cell, its results in that folder."""
        return [*TINY, f"paths.results={results}", *more]

    def together(
        self, *runs: list[str], at: str = "", count: int = 1, kind: str = "SIGKILL"
    ) -> list[Ended]:
        """Runs with these arguments at the same time, each killed at the ``count``-th coming of
        the moment ``at``, if there is one."""
        folder = self.folder / f"order{self.orders}"
        folder.mkdir()
        self.orders += 1
        order = {
            "runs": [[f"paths.data={self.data}", *run] for run in runs], "folder": str(folder),
            "at": at, "count": count, "signal": kind,
        }  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return [
            Ended(code, (folder / f"{i}.out").read_text(), (folder / f"{i}.err").read_text())
            for i, code in enumerate(codes)
        ]

    def __call__(self, *arguments: str, **kill: Any) -> Ended:
        """One run."""
        (ended,) = self.together([*arguments], **kill)
        return ended


@pytest.fixture(scope="session")
def fork(tmp_path_factory, built_data) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("forks"), built_data)
    yield forks
    forks.process.stdin.close()
    forks.process.wait(30)
