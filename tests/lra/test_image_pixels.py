"""From pictures to batches: gray values by hand, every protocol's inputs, black, rows, speed."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Pillow

from lra import presets
from lra.data.cifar import to_gray
from lra.data.feed_bench import fetch_ms
from models.embedding import Embedding
from tests.lra.pictures import batch, images, make, pictures, png, write_parquet


def test_gray_values_by_hand():
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255],
                        [10, 20, 30], [123, 45, 67]], np.uint8)  # fmt: skip
    # floor((0.2989 R + 0.5870 G + 0.1140 B) / 255 * 255.5), e.g. 0.2989 * 255.5 = 76.37
    assert to_gray(colours, "tf").tolist() == [0, 255, 76, 149, 29, 18, 70]
    # (19595 R + 38470 G + 7471 B + 32768) >> 16
    assert to_gray(colours, "pil").tolist() == [0, 255, 76, 150, 29, 18, 71]


def test_pil_gray_is_pillows():
    pixels = pictures(1)[0]
    wanted = np.asarray(Pillow.fromarray(pixels).convert("L"))
    assert to_gray(pixels, "pil").tolist() == wanted.tolist()


def golden(tmp_path, protocol):
    """A batch of the test pictures under the knobs of a protocol; their first pixels are known."""
    knobs = presets.compose(f"protocol={protocol}", "task=image").task
    knobs = {k: v for k, v in knobs.items() if k not in ("name", "_target_", "source")}
    corner = np.zeros((20, 32, 32, 3), np.uint8)
    corner[:, 0, :4] = [[123, 45, 67], [0, 0, 0], [255, 255, 255], [0, 255, 0]]
    corner[:, 1, 0] = 51
    source = write_parquet(tmp_path / "source")
    table = {"img": images([png(p) for p in corner]), "label": pa.array([7] * 20, pa.int64())}
    pq.write_table(pa.table(table), source / "test.parquet")
    return batch(make(tmp_path, source, **knobs))


@pytest.mark.parametrize(
    "protocol", ["smoke", "laptop", "lra_paper", "lra_repo", "xformer_small", "s4", "mega"]
)
def test_golden_pixels(tmp_path, protocol):
    got = golden(tmp_path, protocol)
    assert got.y.tolist() == [7, 7, 7]
    # the first pixel of the second row is number 32
    first = got.x[0].flatten()[[0, 1, 2, 3, 32]].tolist()
    masked = protocol in ("lra_paper", "lra_repo", "xformer_small")
    assert got.mask[0, [0, 1, 2, 3, 32]].tolist() == [True, not masked, True, True, True]
    assert got.mask[0].all() == (not masked)
    if protocol == "s4":
        wanted = [(v / 255 - 122.6 / 255) / (61 / 255) for v in (71, 0, 255, 150, 51)]
        assert first == pytest.approx(wanted, abs=1e-5)
    elif protocol == "mega":
        wanted = [(v / 255 - 0.48) / 0.24 for v in (71, 0, 255, 150, 51)]
        assert first == pytest.approx(wanted, abs=1e-5)
    else:
        assert first == [70, 0, 255, 149, 51]
    if protocol in ("s4", "mega"):
        assert got.x.shape == (3, 1024, 1) and got.x.dtype == torch.float32
    else:
        assert got.x.shape == (3, 256 if protocol == "smoke" else 1024)
        assert got.x.dtype == torch.int64


def test_gray_pictures_stay_as_they_are(tmp_path):
    source = write_parquet(tmp_path / "gray", colours=False)
    for gray in ("tf", "pil"):
        task = make(tmp_path, source, gray=gray)
        assert task.build("test")[0]["x"] == pictures(1, 1, False)[0].ravel().tolist()


def test_black_is_a_token_of_its_own():
    """No vector is held at zero for id 0, and an unmasked black pixel reaches the model."""
    embedding = Embedding(8, vocab=256, features=None, max_len=4, positions="none", cls=False,
                          std=1.0, dropout=0.0)  # fmt: skip
    black, other = torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), 9)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert embedding(black, mask)[0].abs().min() > 0
    assert not embedding(black, mask)[0].equal(embedding(other, mask)[0])


def test_black_pixels_are_masked_by_name_only(tmp_path, image_source):
    plain = batch(make(tmp_path, image_source), range(20))
    assert (plain.x == 0).any() and plain.mask.all()
    masked, scalar = (
        batch(make(tmp_path, image_source, mask_zero_pixels=True, pixels=kind), range(20))
        for kind in ("embed", "scalar")
    )
    assert masked.mask.equal(plain.x > 0) and masked.x.equal(plain.x)
    assert scalar.mask.equal(plain.x > 0)
    # one store serves all of them
    assert len([p for p in (tmp_path / "data" / "image").iterdir() if p.is_dir()]) == 1


def test_fewer_pixels_are_the_upper_rows(tmp_path, image_source):
    whole, upper = make(tmp_path, image_source), make(tmp_path, image_source, max_length=64)
    assert batch(upper).x.equal(batch(whole).x[:, :64])
    assert (upper.spec.length, upper.spec.grid) == (64, (2, 32))


def test_spec(tmp_path, image_source):
    spec = make(tmp_path, image_source).spec
    assert (spec.kind, spec.length, spec.classes, spec.grid) == ("classify", 1024, 10, (32, 32))
    assert (spec.vocab, spec.features, spec.chance_acc) == (256, None, 0.1)
    assert (spec.name, spec.tier, spec.published) == ("image_standin", "stand-in", None)
    scalar = make(tmp_path, image_source, pixels="scalar").spec
    assert (scalar.vocab, scalar.features) == (None, 1)


def test_feeding_a_batch_takes_two_milliseconds(tmp_path, image_source):
    for knobs in ({}, {"pixels": "scalar"}, {"mask_zero_pixels": True}):
        task = make(tmp_path, image_source, **knobs)
        data = task.build("train")
        fetch = partial(task.collate, data)
        assert np.median(fetch_ms(fetch, len(data), tries=100)) < 2
