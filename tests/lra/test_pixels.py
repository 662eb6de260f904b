"""Rows of pixels as the inputs of models."""

import numpy as np
import pytest
import torch

from lra.data import store
from lra.data.columns import lists
from lra.data.feed_bench import fetch_ms
from lra.data.pixels import PixelInput
from lra.errors import UserError

PIXELS = np.array([[0, 51, 255], [204, 0, 0]], np.uint8)
LABELS = np.array([1, 0], np.uint8)


def test_ids_have_no_offset():
    batch = PixelInput().batch(PIXELS, LABELS)
    assert batch.x.dtype == torch.int64 and batch.x.tolist() == PIXELS.tolist()
    assert batch.mask.dtype == torch.bool and batch.mask.all()
    assert batch.y.dtype == torch.int64 and batch.y.tolist() == [1, 0]
    assert (PixelInput().vocab, PixelInput().features) == (256, None)


def test_scalars_of_s4_and_mega():
    for mean, std in ((0.0, 1.0), (0.5, 0.5), (122.6 / 255, 61 / 255)):
        batch = PixelInput("scalar", False, mean, std).batch(PIXELS, LABELS)
        assert batch.x.shape == (2, 3, 1) and batch.x.dtype == torch.float32
        wanted = (PIXELS / 255 - mean) / std
        np.testing.assert_allclose(batch.x[..., 0].numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert (PixelInput("scalar").vocab, PixelInput("scalar").features) == (None, 1)


@pytest.mark.parametrize("pixels", ["embed", "scalar"])
def test_black_pixels_are_masked_on_demand(pixels):
    batch = PixelInput(pixels, True).batch(PIXELS, LABELS)
    assert batch.mask.tolist() == [[False, True, True], [True, False, False]]


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(pixels="embedding"), "unknown .*'embedding': did you mean 'embed'"),
        (dict(mask_zero_pixels="yes"), "mask_zero_pixels=yes: write true or false"),
        (dict(mean="0,5"), "mean=0,5: write a number"),
        (dict(std=0.0), "std=0.0: write a number above 0"),
    ],
)
def test_wrong_knobs_are_named(knobs, says):
    with pytest.raises(UserError, match=says):
        PixelInput(**knobs)


def stored(tmp_path, rows, size, appends=1):
    values = np.random.default_rng(0).integers(0, 256, (rows, size), dtype=np.uint8)

    def build(out):
        for _ in range(appends):
            out.append("train", x=values, y=np.zeros(rows, np.uint8))
        return {}

    return store.load(store.ensure(tmp_path, "task", {}, build), "train"), values


def test_rows_of_any_chunk_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.data.writer.BATCH_BYTES", 100)
    dataset, values = stored(tmp_path, 7, 20, appends=3)
    assert dataset.data.table.column("x").num_chunks == 3 and dataset[8]["x"] == values[1].tolist()
    index = np.array([20, 0, 8, 8, 13])
    np.testing.assert_array_equal(np.stack(lists(dataset, "x")[index]), values[index % 7])
    with pytest.raises(IndexError):
        lists(dataset, "x")[np.array([21])]


@pytest.mark.parametrize("pixels", ["embed", "scalar"])
def test_a_batch_of_path_x_is_fetched_in_two_milliseconds(tmp_path, pixels):
    dataset, _ = stored(tmp_path, 1024, 128**2, appends=4)
    labels = dataset.data.table.column("y").to_numpy()
    found = PixelInput(pixels)

    def fetch(rows):
        return found.batch(np.stack(lists(dataset, "x")[rows]), labels[rows])

    assert np.median(fetch_ms(fetch, len(dataset), tries=100)) < 2
