"""How long a batch takes to fetch: ``python -m lra.data.feed_bench``.

A training step must never wait for data: 32 rows of 4,096 positions take less than 2 ms.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.app import set_up_logging
from lra.data import store
from lra.data.columns import labels, lists, padded
from lra.data.pixels import PixelInput
from lra.data.writer import Writer
from lra.tasks.spec import Batch

if TYPE_CHECKING:
    import datasets

log = logging.getLogger("lra.feed_bench")
BATCH = 32
TRIES = 400
ROWS = 20_000
LENGTH = 4096


def fetch_ms(fetch: Callable[[np.ndarray], Any], rows: int, tries: int = TRIES) -> np.ndarray:
    """Milliseconds of each of some batches of random rows, in the order of a training run.

    Args:
        fetch: makes a batch of row numbers.
        rows: of the split.
        tries: batches.
    """
    rng, spent_ms = np.random.default_rng(0), []
    for _ in range(tries):
        numbers = rng.integers(0, rows, BATCH)
        begin = time.perf_counter()
        fetch(numbers)
        spent_ms.append(1e3 * (time.perf_counter() - begin))
    return np.array(spent_ms)


def main() -> None:
    """Logs the median and the slowest twentieth, for ids and for pixels."""
    set_up_logging()
    with tempfile.TemporaryDirectory() as folder:
        data = store.load(store.ensure(Path(folder), "feed", {}, _write), "train")
        ways: dict[str, Callable[[np.ndarray], Any]] = {
            "ids": lambda rows: padded(data, rows),
            "ids, padded to the full length": lambda rows: padded(data, rows, length=LENGTH),
        }
        for pixels in ("embed", "scalar"):
            ways[f"pixels as {pixels}"] = partial(_batch, PixelInput(pixels), data)
        for name, fetch in ways.items():
            spent_ms = fetch_ms(fetch, len(data))
            log.info(
                "%d x %d %s: median %.2f ms a batch, 95 %% below %.2f ms",
                BATCH, LENGTH, name, np.median(spent_ms), np.quantile(spent_ms, 0.95),
            )  # fmt: skip


def _batch(found: PixelInput, data: "datasets.Dataset", rows: np.ndarray) -> Batch:
    return found.batch(np.stack(lists(data, "pixels")[rows]), labels(data)[rows])


def _write(writer: Writer) -> Mapping[str, Any]:
    rng = np.random.default_rng(0)
    for _ in range(ROWS // 1000):
        lengths = rng.integers(1, LENGTH + 1, 1000, dtype=np.int32)
        writer.append(
            "train", x=(rng.integers(1, 256, lengths.sum(), dtype=np.uint8), lengths),
            pixels=rng.integers(0, 256, (1000, LENGTH), dtype=np.uint8),
            y=np.zeros(1000, np.uint8),
        )  # fmt: skip
    return {}


if __name__ == "__main__":
    main()
