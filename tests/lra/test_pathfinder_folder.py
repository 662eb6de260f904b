"""Reading the official Pathfinder folders: what is right is read, what is wrong is named."""

import logging

import numpy as np
import pytest
from PIL import Image

from lra.data.pathfinder_folder import find_folder, list_images, read_image
from lra.data.pathfinder_official import split
from lra.errors import UserError

LINE = "imgs/0 sample_{i}.png {i} {label} 1.0 14 4 2 0.5 1 1"


def images(folder, n, *, file=0, size=32):
    (folder / "imgs" / str(file)).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        pixels = np.full((size, size), i + 10 * file, np.uint8)
        Image.fromarray(pixels).save(folder / "imgs" / str(file) / f"sample_{i}.png")


def metadata(folder, text, *, file=0):
    (folder / "metadata").mkdir(parents=True, exist_ok=True)
    (folder / "metadata" / f"{file}.npy").write_bytes(
        text if isinstance(text, bytes) else text.encode()
    )


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "pathfinder32" / "curv_contour_length_14"
    images(folder, 3)
    metadata(folder, "".join(LINE.format(i=i, label=i % 2) + "\n" for i in range(3)))
    return folder


def lists(folder, difficulty="hard"):
    return list_images(folder, 32, difficulty)


def test_text_in_numerical_order_of_the_files(folder):
    for file in (10, 2):
        images(folder, 1, file=file)
        metadata(folder, f"imgs/{file} sample_0.png 0 1 1.0 14 4 2 0.5 1 1\n", file=file)
    found = lists(folder)
    assert found.names.tolist() == [
        b"imgs/0/sample_0.png", b"imgs/0/sample_1.png", b"imgs/0/sample_2.png",
        b"imgs/2/sample_0.png", b"imgs/10/sample_0.png",
    ]  # fmt: skip
    assert found.labels.tolist() == [0, 1, 0, 1, 1]
    assert found.places.tolist() == [[0, 1], [0, 2], [0, 3], [2, 1], [10, 1]]
    pixels = read_image(folder, "imgs/10/sample_0.png", 32, (10, 1))
    assert pixels.shape == (32, 32) and set(pixels.ravel()) == {100}


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_arrays_of_numpy_save(folder, dtype):
    text = (folder / "metadata" / "0.npy").read_text()
    rows = [line.split() for line in text.splitlines()]
    as_text = lists(folder)
    np.save(folder / "metadata" / "0.npy", np.array(rows, dtype))
    found = lists(folder)
    assert found.names.tolist() == as_text.names.tolist()
    assert found.labels.tolist() == as_text.labels.tolist()


def test_the_release_is_found_from_any_of_its_folders(folder, tmp_path):
    for source in (tmp_path, folder.parent, folder):
        assert find_folder(source, 32, "hard") == folder
    outer = tmp_path / "outer"
    (outer / "lra_release").mkdir(parents=True)
    folder.parent.rename(outer / "lra_release" / "pathfinder32")
    found = find_folder(outer, 32, "hard")
    assert found == outer / "lra_release" / "pathfinder32" / "curv_contour_length_14"


def test_the_outer_copy_of_path_x_is_preferred_and_the_inner_one_warned_of(tmp_path, caplog):
    outer = tmp_path / "lra_release" / "pathfinder128" / "curv_contour_length_14"
    inner = tmp_path / "lra_release" / "lra_release" / outer.relative_to(tmp_path / "lra_release")
    (inner / "metadata").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert find_folder(tmp_path / "lra_release", 128, "hard") == inner
        assert "long-range-arena#38" in caplog.text
        caplog.clear()
        (outer / "metadata").mkdir(parents=True)
        assert find_folder(tmp_path / "lra_release", 128, "hard") == outer
        assert f"reading {outer}, not {inner}" in caplog.text


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="no pathfinder64/curv_baseline in .*lra_release.gz.*leave"):
        find_folder(tmp_path, 64, "easy")


def test_only_the_image_that_is_known_to_be_empty_is_skipped(tmp_path):
    folder = tmp_path / "curv_baseline"
    line = "imgs/0 sample_{i}.png {i} 1 1.0 6 2 2 0.5 1 1\n"
    metadata(folder, line.format(i=171) + line.format(i=172))
    (folder / "imgs" / "0").mkdir(parents=True)
    for i in (171, 172):
        (folder / "imgs" / "0" / f"sample_{i}.png").touch()
    found = lists(folder, "easy")
    assert found.names.tolist() == [b"imgs/0/sample_171.png"] and found.skipped == 1
    with pytest.raises(UserError, match="sample_171.png: empty"):
        read_image(folder, "imgs/0/sample_171.png", 32, (0, 1))
    # at another size it is an image like others
    assert len(list_images(folder, 64, "easy").names) == 2


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "the file is empty"),
        (LINE.format(i=0, label=1)[:-2] + "\n", "line 1: 10 columns, expected 11"),
        (LINE.format(i=0, label=1) + "\nimgs/0 sam", "line 2: 2 columns, expected 11"),
        (LINE.format(i=0, label=1) + "\n\n" + LINE.format(i=1, label=1), "line 2: 0 columns"),
        (LINE.format(i=0, label=2), "line 1: the label must be 0 or 1, not '2'"),
        (LINE.format(i=0, label="1.0"), "line 1: the label must be 0 or 1, not '1.0'"),
        (LINE.format(i=0, label=1).replace(" 14 ", " 9 "), "line 1: contours of 9 paddles"),
        ("../0" + LINE.format(i=0, label=1)[6:], "line 1: '../0/sample_0.png' is no image"),
        ("/etc" + LINE.format(i=0, label=1)[6:], "line 1: '/etc/sample_0.png' is no image"),
        ("im\0s" + LINE.format(i=0, label=1)[4:], "line 1: .* is no image"),
        (b"imgs/0 \xff", "line 1: neither text nor an array"),
        (b"\x93NUMPY\x01\x00", "never loaded"),
    ],
)
def test_wrong_metadata_name_file_and_line(folder, text, says):
    metadata(folder, text)
    with pytest.raises(UserError, match=f"{folder}/metadata/0.npy.*{says}"):
        lists(folder)


def test_pickles_and_other_arrays_are_refused(folder):
    path = folder / "metadata" / "0.npy"
    np.save(path, np.array([["imgs/0", 1]], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="0.npy: Object arrays.*never loaded"):
        lists(folder)
    np.save(path, np.zeros((2, 11)))
    with pytest.raises(UserError, match="expected rows of strings, got float64"):
        lists(folder)


def test_wrong_files(folder):
    (folder / "metadata" / "combined.npy").touch()
    with pytest.raises(UserError, match="combined.npy: metadata files are named by numbers"):
        lists(folder)
    (folder / "metadata" / "combined.npy").unlink()
    (folder / "metadata" / "0.npy").unlink()
    with pytest.raises(UserError, match="no metadata"):
        lists(folder)


def test_wrong_images_are_named(folder):
    def read(i):
        return read_image(folder, f"imgs/0/sample_{i}.png", 32, (0, i + 1))

    image = folder / "imgs" / "0" / "sample_1.png"
    whole = image.read_bytes()
    for content, says in (
        (b"", "sample_1.png: empty"),
        (whole[: len(whole) // 2], "sample_1.png: no readable PNG"),
        (whole[:20] + b"\xff" * 9 + whole[29:], "sample_1.png: no readable PNG"),
        (b"BM" + whole, "sample_1.png: no readable PNG"),
    ):
        image.write_bytes(content)
        with pytest.raises(UserError, match=says):
            read(1)
    images(folder, 1, size=64)
    with pytest.raises(UserError, match="sample_0.png: 64 x 64 pixels, expected 32"):
        read(0)
    image.unlink()
    with pytest.raises(
        UserError, match="metadata/0.npy, line 2: names .*sample_1.png, which is mi"
    ):
        read(1)


def test_the_split_of_s4_is_random_split_of_torch():
    import torch

    parts = split(57, "s4", 7)
    generator = torch.Generator().manual_seed(42)
    wanted = torch.utils.data.random_split(range(57), [47, 5, 5], generator=generator)
    assert [parts[name].tolist() for name in ("train", "val", "test")] == [
        list(part.indices) for part in wanted
    ]


def test_the_seeded_split_has_every_image_once():
    parts = split(100, "seeded", 0)
    assert [len(part) for part in parts.values()] == [80, 10, 10]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
    assert parts["test"].tolist() != split(100, "seeded", 1)["test"].tolist()
    with pytest.raises(UserError, match="9 images are too few"):
        split(9, "seeded", 0)
