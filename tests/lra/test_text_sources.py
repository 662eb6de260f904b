"""Film reviews as the hub, ``aclImdb`` and a clone lay them out: the same data, and whose it is."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lra.data.imdb import OFFER
from lra.errors import UserError
from lra.tasks.text import Text
from tests.lra.built import rows
from tests.lra.reviews import make, reviews, write_parquet


def test_a_folder_of_files_is_the_same_data(tmp_path, text_source):
    folder = tmp_path / "aclImdb"
    for split, n, seed in (("train", 60, 0), ("test", 40, 1)):
        for i, (text, label) in enumerate(zip(*reviews(n, seed), strict=True)):
            path = folder / split / ("neg", "pos")[label] / f"{i}_7.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    (folder / "train" / "urls_pos.txt").write_text("no review")
    (folder / "train" / "pos" / "notes").write_text("no review")
    parquet = make(tmp_path, text_source)
    for place in (folder, tmp_path):
        task = make(tmp_path, place)
        assert rows(task, "train") == rows(parquet, "train")
        assert task.manifest()["source"] == "aclImdb"
        assert task.manifest()["sha256"] == parquet.manifest()["sha256"]


def test_sharded_files_one_folder_below_and_a_single_file(tmp_path, text_source):
    below = tmp_path / "clone" / "plain_text"
    below.mkdir(parents=True)
    for split in ("train", "test"):
        table = pq.read_table(text_source / f"{split}.parquet")
        pq.write_table(table[:30], below / f"{split}-00000-of-00002.parquet")
        pq.write_table(table[30:], below / f"{split}-00001-of-00002.parquet")
    whole = rows(make(tmp_path, text_source), "train")
    assert rows(make(tmp_path, tmp_path / "clone"), "train") == whole
    assert rows(make(tmp_path, text_source / "train.parquet"), "train") == whole


def test_a_changed_source_is_read_again_and_a_moved_one_is_the_same_data(tmp_path, text_source):
    before = make(tmp_path, text_source).manifest()
    moved = text_source.rename(tmp_path / "moved")
    assert make(tmp_path, moved).manifest() == before
    assert str(tmp_path) not in json.dumps(before)
    write_parquet(moved, text=pa.array(["other"] * 60))
    assert make(tmp_path, moved).manifest()["source_sha256"] != before["source_sha256"]


def test_a_set_that_is_not_the_whole_imdb_is_a_stand_in(tmp_path, text_source):
    spec = make(tmp_path, text_source).spec
    assert (spec.name, spec.tier, spec.published) == ("text_standin", "stand-in", None)


def test_the_hub_is_read_as_local_files_are(tmp_path, text_source, monkeypatch):
    def load(name, revision, split):
        assert (name, revision) == ("stanfordnlp/imdb", OFFER.revision)
        return datasets.Dataset(pq.read_table(text_source / f"{split}.parquet"))

    local = make(tmp_path, text_source)
    wanted = rows(local, "train"), rows(local, "val"), rows(local, "test")
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Text(root=tmp_path / "hub")
    assert tuple(rows(task, split) for split in ("train", "val", "test")) == wanted
    assert task.manifest()["source"] == "hub stanfordnlp/imdb"
    assert (
        task.manifest()["revision"] == OFFER.revision == "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
    )
    # built once: afterwards no network is asked for
    monkeypatch.undo()
    assert len(Text(root=tmp_path / "hub").build("train")) == 54


def test_another_revision_is_other_data(tmp_path, text_source, monkeypatch):
    asked = []

    def load(name, revision, split):
        asked.append(revision)
        return datasets.Dataset(pq.read_table(text_source / f"{split}.parquet"))

    monkeypatch.setattr(datasets, "load_dataset", load)
    for revision in ("a" * 40, "b" * 40):
        facts = Text(root=tmp_path, source="me/reviews", revision=revision).manifest()
        assert (facts["source"], facts["revision"]) == ("hub me/reviews", revision)
    assert set(asked) == {"a" * 40, "b" * 40}
    assert len([path for path in (tmp_path / "text").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("revision", ["main", "e6281661", None, OFFER.revision])
def test_a_name_on_the_hub_needs_its_commit(tmp_path, revision):
    task = Text(root=tmp_path, source="me/reviews", revision=revision)
    with pytest.raises(UserError, match=f"revision={revision}: write the commit of me/reviews"):
        task.build("train")


def test_the_revision_says_nothing_of_local_files(tmp_path, text_source):
    facts = make(tmp_path, text_source).manifest()
    assert make(tmp_path, text_source, revision="main").manifest() == facts
    assert "revision" not in facts
    assert len([path for path in (tmp_path / "data" / "text").iterdir() if path.is_dir()]) == 1
