"""Pictures as the hub and the binary version lay them out: the same data, and its splits."""

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from lra.data.cifar import OFFER, to_gray
from lra.errors import UserError
from lra.tasks.image import Image
from tests.lra.built import rows
from tests.lra.pictures import make, pictures, write_binary, write_parquet


def test_a_stratified_tenth_of_train_validates(tmp_path):
    source = write_parquet(tmp_path / "source", train=200)
    task = make(tmp_path, source)
    train, val = rows(task, "train"), rows(task, "val")
    assert (len(train), len(val), len(task.build("test"))) == (180, 20, 20)
    assert np.bincount([y for _, y in val]).tolist() == [2] * 10
    assert task.manifest()["duplicates"] == {
        "test in train": 0,
        "test in val": 0,
        "val in train": 0,
    }
    assert len({tuple(x) for x, _ in train + val}) == 200
    assert rows(make(tmp_path, source, data_seed=1), "val") != val
    assert len(rows(make(tmp_path, source, n_val=3), "val")) == 3


@pytest.mark.parametrize("gray", ["tf", "pil"])
def test_the_binary_version_is_the_same_data(tmp_path, image_source, gray):
    folder = write_binary(tmp_path / "cifar-10-batches-bin")
    parquet = make(tmp_path, image_source, gray=gray)
    for place in (folder, tmp_path):
        task = make(tmp_path, place, gray=gray)
        assert rows(task, "train") == rows(parquet, "train")
        assert task.manifest()["sha256"] == parquet.manifest()["sha256"]
        assert len(task.manifest()["source_sha256"]) == 6
    assert rows(task, "test")[0][0] == to_gray(pictures(1, 1)[0], gray).ravel().tolist()


def test_pickles_are_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    with pytest.raises(UserError, match="pickles, which can run code.*cifar-10-binary.tar.gz"):
        make(tmp_path, tmp_path).build("train")


def test_the_hub_is_read_as_local_files_are(tmp_path, image_source, monkeypatch):
    def load(name, revision, split):
        assert (name, revision) == ("uoft-cs/cifar10", OFFER.revision)
        table = datasets.Dataset(pq.read_table(image_source / f"{split}.parquet"))
        return table.cast_column("img", datasets.Image())

    wanted = rows(make(tmp_path, image_source), "train")
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Image(root=tmp_path / "hub")
    assert rows(task, "train") == wanted
    assert task.manifest()["source"] == "hub uoft-cs/cifar10"
    assert (
        task.manifest()["revision"] == OFFER.revision == "0b2714987fa478483af9968de7c934580d0bb9a2"
    )
