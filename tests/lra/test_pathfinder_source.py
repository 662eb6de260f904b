"""Pathfinder from the official folders: splits, whose images they are, what recurs or changed."""

import hashlib
import logging
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lra.cli.main import main
from lra.config import load
from lra.data import pathfinder_official
from lra.errors import UserError
from lra.presets import compose
from lra.runner import make_task
from lra.tasks import pathfinder
from lra.tasks.pathfinder import Pathfinder

S4_ORDER = torch.randperm(20, generator=torch.Generator().manual_seed(42)).tolist()


@pytest.fixture
def folder(tmp_path):
    """A folder in the official layout, its images all different but two."""
    folder = tmp_path / "release" / "pathfinder32" / "curv_contour_length_14"
    (folder / "metadata").mkdir(parents=True)
    for k in range(2):
        (folder / "imgs" / str(k)).mkdir(parents=True)
        lines = []
        for i in range(10):
            number = 10 * k + i
            pixels = np.full((32, 32), min(number, 18), np.uint8)
            Image.fromarray(pixels).save(folder / "imgs" / str(k) / f"sample_{i}.png")
            lines.append(f"imgs/{k} sample_{i}.png {i} {number % 2} 1.0 14 4 2 0.5 1 1\n")
        (folder / "metadata" / f"{k}.npy").write_text("".join(lines))
    return folder


def make(tmp_path, source, **knobs):
    return Pathfinder(root=tmp_path / "data", source=source, **knobs)


def first_pixels(task, split):
    return [pixels[0] for pixels in task.build(split)["x"]]


def test_images_are_split_and_counted(folder, tmp_path):
    task = make(tmp_path, tmp_path / "release", split_rule="s4")
    assert first_pixels(task, "train") == [min(i, 18) for i in S4_ORDER[:16]]
    assert first_pixels(task, "test") == [min(i, 18) for i in S4_ORDER[18:]]
    assert task.build("val")["y"][:] == [i % 2 for i in S4_ORDER[16:18]]
    facts = task.manifest()
    assert facts["source_rows"] == 20 and facts["empty_images_skipped"] == 0
    assert (facts["split_rule"], facts["split_seed"]) == ("s4", 42)
    # of the two equal images
    places = {S4_ORDER.index(18), S4_ORDER.index(19)}
    splits = {"train": range(16), "val": range(16, 18), "test": range(18, 20)}
    there = [name for name, rows in splits.items() if places & set(rows)]
    pairs = ("val in train", "test in train", "test in val")
    assert facts["duplicates"] == {pair: int(pair == " in ".join(there[::-1])) for pair in pairs}
    limited = make(tmp_path, folder, n_train=3)
    assert limited.manifest()["rows"] == {"train": 3, "val": 2, "test": 2}
    assert limited.manifest()["split_seed"] == 0


def test_the_manifest_has_the_digests_of_the_files(folder, tmp_path):
    facts = make(tmp_path, folder, split_rule="s4").manifest()
    digest = hashlib.sha256()
    for number in S4_ORDER[:16]:
        path = folder / "imgs" / str(number // 10) / f"sample_{number % 10}.png"
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    assert facts["images_sha256"]["train"] == digest.hexdigest()
    assert len(set(facts["images_sha256"].values())) == 3
    lines = b"".join((folder / "metadata" / f"{k}.npy").read_bytes() for k in range(2))
    assert facts["metadata_sha256"] == hashlib.sha256(lines).hexdigest()


def test_all_images_test_a_saved_model(folder, tmp_path):
    task = make(tmp_path, folder, split_rule="all")
    assert first_pixels(task, "test") == [min(i, 18) for i in range(20)]
    assert task.manifest()["rows"] == {"test": 20}
    # what else asks for rows gets these, and the row says so
    assert first_pixels(task, "train") == first_pixels(task, "val") == first_pixels(task, "test")
    assert task.spec.notes == ("train and val are the test images",)
    assert task.baselines()["majority"] == 0.5
    assert make(tmp_path, folder, split_rule="all", n_test=7).manifest()["rows"] == {"test": 7}
    # it is a rule for a source: what is drawn has splits
    drawn = Pathfinder(root=tmp_path, split_rule="all", n_train=3, n_val=2, n_test=1)
    assert len(drawn.build("train")) == 3 and drawn.spec.notes == ()


def test_the_command_of_the_cross_experiment_reads_every_image(folder, tmp_path):
    """As its comment has it, but for the model."""
    cfg = compose("experiment=pathfinder_cross", f"task.source='{folder}'", "task.split_rule=all",
                  f"paths.data='{tmp_path / 'data'}'")  # fmt: skip
    task = make_task(load(cfg))
    assert len(task.build("test")) == 20
    assert (task.spec.vocab, task.spec.features) == (None, 1)


def test_a_folder_of_another_size_is_a_stand_in(folder, tmp_path, monkeypatch):
    spec = make(tmp_path, folder).spec
    assert (spec.name, spec.tier, spec.published) == ("pathfinder_standin", "stand-in", None)
    assert pathfinder.ROWS == 200_000
    monkeypatch.setattr(pathfinder, "ROWS", 20)
    spec = make(tmp_path, folder, n_train=2, pixels="scalar").spec
    assert (spec.name, spec.tier, spec.published) == ("pathfinder", "official", "pathfinder")
    assert spec.notes == ()


def test_a_changed_source_is_read_again_and_a_moved_one_is_the_same_data(folder, tmp_path):
    first = make(tmp_path, folder).manifest()
    moved = tmp_path / "elsewhere" / "curv_contour_length_14"
    shutil.copytree(folder, moved)
    assert make(tmp_path, moved).manifest() == first
    path = folder / "metadata" / "0.npy"
    path.write_text(path.read_text().replace("sample_3.png 3 1", "sample_3.png 3 0"))
    changed = make(tmp_path, folder).manifest()
    assert changed["sha256"] != first["sha256"]
    # also an image that is written over: its folder keeps its time
    image = folder / "imgs" / "1" / "sample_4.png"
    later_ns = image.stat().st_mtime_ns + 10**9
    Image.fromarray(np.full((32, 32), 99, np.uint8)).save(image)
    os.utime(image, ns=(later_ns, later_ns))
    assert make(tmp_path, folder).manifest()["images_sha256"] != changed["images_sha256"]


def test_a_broken_image_leaves_no_store(folder, tmp_path):
    (folder / "imgs" / "1" / "sample_4.png").write_bytes(b"")
    with pytest.raises(UserError, match="sample_4.png: empty"):
        make(tmp_path, folder).build("train")
    assert not [path for path in (tmp_path / "data" / "pathfinder").iterdir() if path.is_dir()]


def test_a_missing_source_says_where_to_get_it(tmp_path, capsys):
    root = ("--root", str(tmp_path / "data"))
    asked = ("task.difficulty=hard", "--source", str(tmp_path))
    assert main(["prepare", "pathfinder64", *asked, *root]) == 2
    said = capsys.readouterr().err
    for part in (
        f"error: no pathfinder64/curv_contour_length_14 in {tmp_path}: take LRA's archive",
        "https://storage.googleapis.com/long-range-arena/lra_release.gz",
        "python -m lra prepare pathfinder64 --source lra_release",
        "leave out task.source",
    ):
        assert part in said
    assert said.count("\n") == 1


def test_an_interrupted_reading_goes_on(folder, tmp_path, monkeypatch):
    whole = make(tmp_path / "whole", folder).manifest()
    monkeypatch.setattr("lra.data.writer.BATCH_BYTES", 1)
    monkeypatch.setattr("lra.data.writer.SHARD_BYTES", 4000)
    monkeypatch.setattr(pathfinder_official, "BLOCK_BYTES", 3 * 1024)
    decoded, decode = [], pathfinder_official.decode_image

    def stopping(path, content, size):
        if len(decoded) == 11:
            raise KeyboardInterrupt
        decoded.append(path)
        return decode(path, content, size)

    monkeypatch.setattr(pathfinder_official, "decode_image", stopping)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, folder).build("train")
    (store,) = (path for path in (tmp_path / "data" / "pathfinder").iterdir() if path.is_dir())
    kept = {path.name for path in store.iterdir()}
    assert "train-00000.arrow" in kept and "manifest.json" not in kept
    assert not any(name.endswith(".tmp") for name in kept)
    first, decoded[:] = decoded[:3], []

    def going_on(path, content, size):
        decoded.append(path)
        return decode(path, content, size)

    monkeypatch.setattr(pathfinder_official, "decode_image", going_on)
    facts = make(tmp_path, folder).manifest()
    # what was stored is not decoded again
    assert len(decoded) < 20 and not set(decoded) & set(first)
    for part in ("rows", "sha256", "images_sha256", "duplicates"):
        assert facts[part] == whole[part], part


def test_the_real_sample_is_read(lra_data, tmp_path, caplog):
    source = lra_data / "lra_release"
    if not (source / "lra_release" / "pathfinder128").is_dir():
        pytest.skip("images of the original generator are not here")
    with caplog.at_level(logging.WARNING):
        task = Pathfinder(root=tmp_path, size=128, source=source)
        assert task.manifest()["rows"] == {"train": 32, "val": 4, "test": 4}
    assert "long-range-arena#38" in caplog.text
    batch = task.collate(task.build("train"), np.arange(32))
    assert batch.x.shape == (32, 16384) and 0.1 < (batch.x > 0).float().mean() < 0.2
    assert (task.spec.name, task.spec.tier) == ("path_x_standin", "stand-in")
