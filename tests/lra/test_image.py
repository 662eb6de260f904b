"""The image task: pixels by hand, gray values, inputs, sources, broken ones, real pictures."""

import inspect
import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image as Pillow

from lra import presets
from lra.cli.main import main
from lra.data.cifar import RECORD, gray_png, to_gray
from lra.data.columns import lists
from lra.errors import UserError
from lra.model import model_spec
from lra.tasks.image import Image
from lra.tasks.spec import TaskSpec
from models.embedding import Embedding

CHECKOUT = Path(__file__).resolve().parents[2]
PROTOCOLS = ("smoke", "laptop", "lra_paper", "lra_repo", "xformer_small", "s4", "mega")


def pictures(n, seed=0, colours=True):
    rng = np.random.default_rng(seed)
    shape = (n, 32, 32, 3) if colours else (n, 32, 32)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    pixels[:, 5, 7] = 0
    return pixels


def png(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images(contents):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": None} for content in contents], kind)


def write_parquet(folder, *, train=40, test=20, colours=True, **columns):
    """A folder in the hub's layout; ``columns`` replace those of train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n, seed in (("train", train, 0), ("test", test, 1)):
        contents = [png(pixels) for pixels in pictures(n, seed, colours)]
        table = {"img": images(contents), "label": pa.array([i % 10 for i in range(n)], pa.int64())}
        if split == "train":
            table.update(columns)
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=16)
    return folder


def write_binary(folder):
    """The same pictures as ``write_parquet``, five times eight of them and twenty."""
    folder.mkdir(parents=True, exist_ok=True)

    def records(pixels, first):
        planes = pixels.reshape(len(pixels), 1024, 3).swapaxes(1, 2).reshape(len(pixels), 3072)
        labels = np.array([(first + i) % 10 for i in range(len(pixels))], np.uint8)
        return np.concatenate([labels[:, None], planes], axis=1).tobytes()

    train = pictures(40, 0)
    for i in range(5):
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records(train[8 * i : 8 * i + 8], 8 * i))
    (folder / "test_batch.bin").write_bytes(records(pictures(20, 1), 0))
    return folder


@pytest.fixture
def source(tmp_path):
    return write_parquet(tmp_path / "source")


def make(tmp_path, source, **knobs):
    return Image(root=tmp_path / "data", source=str(source), **knobs)


def rows(task, split):
    data = task.build(split)
    return list(zip(data["x"], data["y"], strict=True))


def batch(task, split="test", numbers=(0, 1, 2)):
    return task.collate(task.build(split), np.array(numbers))


# -- pixels ------------------------------------------------------------------------------------


def test_gray_values_by_hand():
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255],
                        [10, 20, 30], [123, 45, 67]], np.uint8)  # fmt: skip
    # floor((0.2989 R + 0.5870 G + 0.1140 B) / 255 * 255.5), e.g. 0.2989 * 255.5 = 76.37
    assert to_gray(colours, "tf").tolist() == [0, 255, 76, 149, 29, 18, 70]
    # (19595 R + 38470 G + 7471 B + 32768) >> 16
    assert to_gray(colours, "pil").tolist() == [0, 255, 76, 150, 29, 18, 71]


def test_pil_gray_is_pillows():
    pixels = pictures(1)[0]
    assert (
        to_gray(pixels, "pil").tolist()
        == np.asarray(Pillow.fromarray(pixels).convert("L")).tolist()
    )


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
    return batch(Image(root=tmp_path / "data", source=str(source), **knobs))


@pytest.mark.parametrize("protocol", PROTOCOLS)
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
        assert first[1] == pytest.approx(-122.6 / 61, abs=1e-5)
    elif protocol == "mega":
        assert first == pytest.approx(
            [(v / 255 - 0.48) / 0.24 for v in (71, 0, 255, 150, 51)], abs=1e-5
        )
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


def test_black_is_a_token_of_its_own(tmp_path, source):
    """No vector is held at zero for id 0, and an unmasked black pixel reaches the model."""
    embedding = Embedding(8, vocab=256, features=None, max_len=4, positions="none", cls=False,
                          std=1.0, dropout=0.0)  # fmt: skip
    black, other = torch.zeros(1, 4, dtype=torch.int64), torch.full((1, 4), 9)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert embedding(black, mask)[0].abs().min() > 0
    assert not embedding(black, mask)[0].equal(embedding(other, mask)[0])


def test_black_pixels_are_masked_by_name_only(tmp_path, source):
    plain = make(tmp_path, source)
    pixels = batch(plain, numbers=range(20)).x
    assert (pixels == 0).any() and batch(plain, numbers=range(20)).mask.all()
    masked, scalar = (
        batch(make(tmp_path, source, mask_zero_pixels=True, pixels=kind), numbers=range(20))
        for kind in ("embed", "scalar")
    )
    assert masked.mask.equal(pixels > 0) and masked.x.equal(pixels)
    assert scalar.mask.equal(pixels > 0)
    # one store serves all of them
    assert len([p for p in (tmp_path / "data" / "image").iterdir() if p.is_dir()]) == 1


def test_fewer_pixels_are_the_upper_rows(tmp_path, source):
    whole, upper = make(tmp_path, source), make(tmp_path, source, max_length=64)
    assert batch(upper).x.equal(batch(whole).x[:, :64])
    assert (upper.spec.length, upper.spec.grid) == (64, (2, 32))


def test_spec(tmp_path, source):
    spec = make(tmp_path, source).spec
    assert (spec.kind, spec.length, spec.classes, spec.grid) == ("classify", 1024, 10, (32, 32))
    assert (spec.vocab, spec.features, spec.chance_acc) == (256, None, 0.1)
    assert (spec.name, spec.tier, spec.published) == ("image_standin", "stand-in", None)
    scalar = make(tmp_path, source, pixels="scalar").spec
    assert (scalar.vocab, scalar.features) == (None, 1)


def test_feeding_a_batch_takes_two_milliseconds(tmp_path, source):
    for knobs in ({}, {"pixels": "scalar"}, {"mask_zero_pixels": True}):
        task = make(tmp_path, source, **knobs)
        data, spent = task.build("train"), []
        for i in range(40):
            numbers = np.random.default_rng(i).integers(0, len(data), 32)
            begin = time.perf_counter()
            task.collate(data, numbers)
            spent.append(time.perf_counter() - begin)
        assert min(spent) < 2e-3


# -- splits and sources ------------------------------------------------------------------------


def test_a_stratified_tenth_of_train_validates(tmp_path, source):
    task = make(tmp_path, write_parquet(tmp_path / "more", train=200))
    train, val = rows(task, "train"), rows(task, "val")
    assert (len(train), len(val), len(task.build("test"))) == (180, 20, 20)
    assert np.bincount([y for _, y in val]).tolist() == [2] * 10
    assert task.manifest()["duplicates"] == {
        "test in train": 0,
        "test in val": 0,
        "val in train": 0,
    }
    assert len({tuple(x) for x, _ in train + val}) == 200
    other = make(tmp_path, tmp_path / "more", data_seed=1)
    assert rows(other, "val") != val
    assert rows(make(tmp_path, tmp_path / "more", n_val=3), "val") != []


@pytest.mark.parametrize("gray", ["tf", "pil"])
def test_the_binary_version_is_the_same_data(tmp_path, source, gray):
    folder = write_binary(tmp_path / "cifar-10-batches-bin")
    parquet = make(tmp_path, source, gray=gray)
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


def test_the_hub_is_read_as_local_files_are(tmp_path, source, monkeypatch):
    import datasets

    def load(name, split):
        assert name == "uoft-cs/cifar10"
        table = datasets.Dataset(pq.read_table(source / f"{split}.parquet"))
        return table.cast_column("img", datasets.Image())

    wanted = rows(make(tmp_path, source), "train")
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Image(root=tmp_path / "hub")
    assert rows(task, "train") == wanted
    assert task.manifest()["source"] == "hub uoft-cs/cifar10"


def test_the_hub_out_of_reach_is_told_with_the_commands_that_help(tmp_path, capsys):
    asked = ("prepare", "image", "--protocol", "smoke", "--root", str(tmp_path))
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot get uoft-cs/cifar10 from the hub (")
    assert said.count("\n") == 1
    for part in (
        "hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "python -m lra prepare image --source FOLDER",
    ):
        assert part in said
    assert not [path for path in (tmp_path / "image").iterdir() if path.is_dir()]


def test_prepare(tmp_path, source, capsys):
    asked = ("prepare", "image", "--protocol", "smoke", "--root", str(tmp_path / "root"))
    assert main([*asked, "--source", str(source)]) == 0
    said = capsys.readouterr().out
    assert "train: 36 examples (stand-in)" in said and "majority: 10.00 % of test" in said


# -- what is broken ----------------------------------------------------------------------------


def nothing_built(tmp_path):
    folder = tmp_path / "data" / "image"
    return not folder.exists() or not [path for path in folder.iterdir() if path.is_dir()]


def with_one(content, row=20):
    contents = [png(pixels) for pixels in pictures(40)]
    contents[row] = content
    return {"img": images(contents)}


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
    source = write_parquet(tmp_path / "source", **with_one(content))
    with pytest.raises(UserError, match=f"train.parquet, row 21: .*{says}") as caught:
        make(tmp_path, source).build("train")
    assert "\n" not in str(caught.value)
    assert nothing_built(tmp_path)


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
    assert nothing_built(tmp_path)


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
    assert nothing_built(tmp_path)


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
def test_bad_knobs_are_refused_before_any_work(tmp_path, source, knobs, says):
    with pytest.raises(UserError, match=says):
        make(tmp_path, source, **knobs)
    assert nothing_built(tmp_path)


# -- configurations ----------------------------------------------------------------------------


def test_the_config_names_the_knobs_and_their_defaults():
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / "image.yaml"))
    assert (config.pop("name"), config.pop("_target_")) == ("image", "lra.tasks.image.Image")
    knobs = inspect.signature(Image).parameters
    assert config == {name: knobs[name].default for name in knobs if name != "root"}


# LRA's per-model sizes: heads, layers, dim, qkv, ffn, pooling
LRA_REPO = {
    "transformer": (8, 1, 128, 64, 128, "cls"),
    "linear_transformer": (8, 1, 128, 64, 128, "cls"),
    "linformer": (8, 1, 128, 64, 128, "cls"),
    "performer": (8, 1, 128, 64, 128, "cls"),
    "sparse_transformer": (8, 1, 128, 64, 128, "cls"),
    "synthesizer": (8, 1, 128, 64, 128, "cls"),
    "local_attention": (2, 1, 128, 64, 128, "mean_all"),
    "longformer": (4, 4, 128, 64, 128, "mean_all"),
    "reformer": (8, 4, 64, 32, 64, "cls"),
    "bigbird": (1, 1, 128, 64, 128, "cls"),
    "sinkhorn_transformer": (1, 1, 32, 32, 64, "cls"),
}


@pytest.mark.parametrize("model", LRA_REPO)
def test_the_sizes_of_each_model_in_lras_files(model):
    from lra.config import load

    config = load(presets.compose(f"experiment=lra_repo_image_{model}"))
    recipe = config.recipe
    sizes = (recipe.heads, recipe.depth, recipe.dim, recipe.qkv_dim, recipe.ffn_dim, recipe.pooling)
    assert sizes == LRA_REPO[model]
    assert (config.model, config.task["name"], config.protocol["name"]) == (
        model, "image", "lra_repo",
    )  # fmt: skip
    assert config.task["mask_zero_pixels"] is True
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.selection) == (35_000, 256, 5e-4, "last")
    # a constructor takes these sizes and knobs
    task = TaskSpec(name="image", kind="classify", length=1024, classes=10, vocab=256,
                    chance_acc=0.1, tier="official", grid=(32, 32))  # fmt: skip
    from lra.model import make_model

    with torch.device("meta"):
        make_model(config, model_spec(recipe, task, two_way=False))


def test_a_cell_on_images(fork, tmp_path, source):
    asked = (f"task.source='{source}'", "task=image", "task.max_length=64", "task.pixels=scalar")
    ended = fork(*fork.tiny(tmp_path / "results", *asked))
    assert ended.code == 0, ended.err
    (path,) = (tmp_path / "results" / "runs").glob("*/row.json")
    row = json.loads(path.read_text())
    assert (row["status"], row["task"], row["n_test"]) == ("ok", "image_standin", 20)
    assert (row["length"], row["chance_acc"], row["majority_acc"]) == (64, 0.1, 0.1)


# -- the real pictures -------------------------------------------------------------------------


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


def test_real_pictures_agree_with_the_files(real):
    task, folder, _ = real
    table = pq.read_table(folder / "test.parquet")
    data = task.build("test")
    stored = np.stack(lists(data, "x")[range(len(data))])
    assert stored.shape == (table.num_rows, 1024)
    for i in range(0, table.num_rows, 7):
        picture = Pillow.open(io.BytesIO(table["img"][i]["bytes"].as_py()))
        if picture.mode == "L":
            assert stored[i].tobytes() == picture.tobytes()
    assert task.build("test")["y"][:] == table["label"].to_pylist()
    # train and val together are the file's pictures, each once
    table = pq.read_table(folder / "train.parquet")
    numbers = np.arange(0, 50_000, 97)
    wanted = [
        Pillow.open(io.BytesIO(table["img"][int(i)]["bytes"].as_py())).convert("L").tobytes()
        for i in numbers
    ]
    seen = set()
    for split in ("train", "val"):
        data = task.build(split)
        seen |= {row.tobytes() for row in lists(data, "x")[range(len(data))]}
    assert all(picture in seen for picture in wanted)
