"""Broken pictures, tables and batch files, wrong knobs: one line, and nothing half built."""

import numpy as np
import pyarrow as pa
import pytest

from lra.data.cifar import RECORD, gray_png
from lra.errors import UserError
from tests.lra.built import nothing_built
from tests.lra.pictures import images, make, pictures, png, write_binary, write_parquet

GOOD = png(pictures(1)[0])
BROKEN = {
    "cut": (GOOD[: len(GOOD) // 2], "not a whole PNG"),
    "header only": (GOOD[:40], "not a whole PNG"),
    "changed": (GOOD[:60] + b"\0" * 20 + GOOD[80:], "not a whole PNG"),
    "zero length": (b"", "the picture has no bytes"),
    "null": (None, "the picture has no bytes"),
    "text": (b"not a picture", "not a whole PNG"),
    "gif": (b"GIF89a" + b"\0" * 50, "not a whole PNG"),
    "size": (png(np.zeros((31, 32), np.uint8)), "32 x 31 pixels in mode L, expected 32 x 32"),
    "alpha": (png(np.zeros((32, 32, 4), np.uint8)), "mode RGBA"),
    "huge": (png(np.zeros((1, 30000), np.uint8)), "30000 x 1 pixels"),
}


@pytest.mark.parametrize("content, says", BROKEN.values(), ids=BROKEN)
def test_a_broken_picture_is_named(tmp_path, content, says):
    contents = [png(pixels) for pixels in pictures(40)]
    contents[20] = content
    source = write_parquet(tmp_path / "source", img=images(contents))
    with pytest.raises(UserError, match=f"train.parquet, row 21: .*{says}") as caught:
        make(tmp_path, source).build("train")
    assert "\n" not in str(caught.value)
    assert nothing_built(tmp_path / "data")


def test_any_damage_to_a_picture_is_a_value_error():
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(GOOD)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(len(content)))
            if rng.random() < 0.5:
                content[at] = int(rng.integers(256))
            else:
                del content[at : at + int(rng.integers(1, 30))]
        try:
            assert len(gray_png(bytes(content), "tf")) == 1024
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "columns, says",
    [
        (dict(label=pa.array([0] * 30 + [10] * 10)), "train.parquet, row 31: label 10 is not one"),
        (dict(label=pa.array(["cat"] * 40)), r"expected label \(int\)"),
        (dict(img=pa.array([GOOD] * 40)), r"has columns img \(binary\)"),
    ],
)
def test_a_broken_table_names_file_and_row(tmp_path, columns, says):
    source = write_parquet(tmp_path / "source", **columns)
    with pytest.raises(UserError, match=says):
        make(tmp_path, source).build("train")
    assert nothing_built(tmp_path / "data")


@pytest.mark.parametrize(
    "damage, says",
    [
        ("cut", f"data_batch_2.bin, record 8: 3000 bytes instead of {RECORD}: the file is cut"),
        ("empty", "data_batch_2.bin, record 1: 0 bytes"),
        ("label", "data_batch_2.bin, record 3: label 10 is not one of 0 to 9"),
        ("missing", "cannot read .*data_batch_2.bin: No such file"),
    ],
)
def test_a_broken_batch_file_names_the_record(tmp_path, damage, says):
    folder = write_binary(tmp_path / "bin")
    path = folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    match damage:
        case "cut":
            path.write_bytes(content[: 7 * RECORD + 3000])
        case "empty":
            path.write_bytes(b"")
        case "label":
            content[2 * RECORD] = 10
            path.write_bytes(content)
        case "missing":
            path.unlink()
    with pytest.raises(UserError, match=says):
        make(tmp_path, folder).build("train")
    assert nothing_built(tmp_path / "data")


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(pixels="embedd"), "did you mean 'embed'"),
        (dict(gray="pli"), "did you mean 'pil'"),
        (dict(mask_zero_pixels=1), "mask_zero_pixels=1: write true or false"),
        (dict(max_length=1000), "max_length=1000: write a multiple of 32 up to 1024"),
        (dict(max_length=2048), "max_length=2048"),
        (dict(std=0), "std=0: write a number above 0"),
        (dict(n_val=0), "n_val=0"),
    ],
)
def test_bad_knobs_are_refused_before_any_work(tmp_path, image_source, knobs, says):
    with pytest.raises(UserError, match=says):
        make(tmp_path, image_source, **knobs)
    assert nothing_built(tmp_path / "data")
