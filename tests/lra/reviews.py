"""Made-up film reviews in the hub's layout, and the text task on them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lra.tasks.text import Text


def reviews(n: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """Texts of up to 70 characters, some of two bytes, and their labels: first all bad ones."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh é.<br/>"))
    texts = ["".join(rng.choice(letters, rng.integers(1, 60))) + f" {seed}.{i}" for i in range(n)]
    return texts, sorted(i % 2 for i in range(n))


def write_parquet(folder: Path, *, train: int = 60, test: int = 40, **columns: pa.Array) -> Path:
    """A folder in the hub's layout; ``columns`` replace those of train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n, seed in (("train", train, 0), ("test", test, 1)):
        texts, labels = reviews(n, seed)
        table = {"text": pa.array(texts), "label": pa.array(labels, pa.int64())}
        if split == "train":
            table.update(columns)
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=16)
    return folder


def make(tmp_path: Path, source: Path, **knobs) -> Text:
    """The task on a source, its data in a folder of the test's own."""
    return Text(root=tmp_path / "data", source=str(source), **knobs)
