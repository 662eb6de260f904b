"""The image task on the real pictures: CIFAR-10's own pixels and counts."""

import io
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from lra.data.cifar import to_gray
from lra.data.columns import lists
from lra.tasks.image import Image


@pytest.fixture(scope="module")
def real(lra_data, tmp_path_factory):
    """CIFAR-10, and how long it took."""
    folder = lra_data / "cifar10"
    if not (folder / "train.parquet").is_file():
        pytest.skip("CIFAR-10 is not in LRA_DATA")
    begin = time.monotonic()
    task = Image(root=tmp_path_factory.mktemp("cifar"), source=str(folder))
    task.build("train")
    return task, folder, time.monotonic() - begin


def test_real_pictures_are_the_published_set(real):
    task, _, spent_s = real
    facts = task.manifest()
    assert facts["rows"]["train"] == 45_000 and facts["rows"]["val"] == 5_000
    assert facts["labels"]["train"] == {str(i): 4_500 for i in range(10)}
    assert facts["labels"]["val"] == {str(i): 500 for i in range(10)}
    assert (task.spec.name, task.spec.tier) == ("image", "official")
    if facts["rows"]["test"] < 10_000:
        n = facts["rows"]["test"]
        assert task.spec.notes == (f"only {n:,} of the 10,000 test examples are there",)
    assert 0.09 < task.baselines()["majority"] < 0.11
    assert spent_s < 60


def gray(table, row):
    """The gray values that a row of the file must become."""
    pixels = np.asarray(Pillow.open(io.BytesIO(table["img"][int(row)]["bytes"].as_py())))
    return (pixels if pixels.ndim == 2 else to_gray(pixels, "tf")).tobytes()


def test_real_pictures_agree_with_the_files(real):
    task, folder, _ = real
    table = pq.read_table(folder / "test.parquet")
    data = task.build("test")
    stored = np.stack(lists(data, "x")[range(len(data))])
    assert stored.shape == (table.num_rows, 1024)
    for i in range(0, table.num_rows, 7):
        assert stored[i].tobytes() == gray(table, i)
    assert data["y"][:] == table["label"].to_pylist()
    # what train and val hold together is the file's
    table = pq.read_table(folder / "train.parquet")
    seen = set()
    for split in ("train", "val"):
        data = task.build(split)
        seen |= {row.tobytes() for row in lists(data, "x")[range(len(data))]}
    assert all(gray(table, i) in seen for i in range(0, table.num_rows, 97))
