"""The text task: ids by hand, splits, three layouts of sources, broken ones, the real reviews."""

import hashlib
import inspect
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf

from lra import presets
from lra.cli.main import main
from lra.data import store
from lra.data.characters import Bytes, Chars, vocabulary
from lra.data.columns import lists
from lra.data.splits import choose, duplicates, majority, stratified
from lra.errors import UserError
from lra.tasks.text import Text

CHECKOUT = Path(__file__).resolve().parents[2]


def reviews(n, seed=0):
    """Texts of 0 to 60 characters, some of two bytes, and their labels: first all bad ones."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh é.<br/>"))
    texts = ["".join(rng.choice(letters, rng.integers(1, 60))) + f" {seed}.{i}" for i in range(n)]
    return texts, sorted(i % 2 for i in range(n))


def write_parquet(folder, *, train=60, test=40, **columns):
    """A folder in the hub's layout; ``columns`` replace those of train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n, seed in (("train", train, 0), ("test", test, 1)):
        texts, labels = reviews(n, seed)
        table = {"text": pa.array(texts), "label": pa.array(labels, pa.int64())}
        if split == "train":
            table.update(columns)
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=16)
    return folder


@pytest.fixture
def source(tmp_path):
    return write_parquet(tmp_path / "source")


def make(tmp_path, source, **knobs):
    return Text(root=tmp_path / "data", source=str(source), **knobs)


def rows(task, split):
    data = task.build(split)
    return list(zip(data["x"], data["y"], strict=True))


def ids(text, cut):
    return [byte + 1 for byte in text.encode()[:cut]]


# -- ids ---------------------------------------------------------------------------------------


def golden(tmp_path, protocol, text="Aé!<br />"):
    """The stored ids of one text under the knobs of a protocol."""
    knobs = presets.compose(f"protocol={protocol}", "task=text").task
    knobs = {k: v for k, v in knobs.items() if k not in ("name", "_target_", "source")}
    texts = pa.array([text] * 60)
    source = write_parquet(tmp_path / "source", text=texts)
    task = Text(root=tmp_path / "data", source=str(source), **{**knobs, "n_train": None})
    return task.build("train")[0]["x"]


@pytest.mark.parametrize(
    "protocol", ["smoke", "laptop", "lra_paper", "lra_repo", "xformer_small", "mega"]
)
def test_golden_bytes(tmp_path, protocol):
    # A, the two bytes C3 A9, !, <br />
    assert golden(tmp_path, protocol) == [66, 196, 170, 34, 61, 99, 115, 33, 48, 63]


def test_golden_characters_of_the_s4_family(tmp_path):
    # all occur equally often: 0 pad, 1 unknown, 2 EOS, then by code point
    # ' ' 3, '!' 4, '/' 5, '<' 6, '>' 7, 'A' 8, 'b' 9, 'r' 10, 'é' 11
    assert golden(tmp_path, "s4") == [8, 11, 4, 6, 9, 10, 3, 5, 7, 2]


def test_bytes_are_cut_before_eos_and_inside_a_character():
    texts = ["aé".encode(), b"", b"xyz"]
    flat, lengths = Bytes(3, False).encode(texts)
    assert flat.tolist() == [98, 196, 170, 121, 122, 123] and lengths.tolist() == [3, 0, 3]
    flat, lengths = Bytes(3, True).encode(texts)
    assert flat.tolist() == [98, 196, 257, 257, 121, 122, 257] and lengths.tolist() == [3, 1, 3]
    assert Bytes(3, False).vocab == 257 and Bytes(3, True).vocab == 258
    assert Bytes(300, False).encode([bytes(range(256))])[0].tolist() == list(range(1, 257))


def test_characters_by_frequency_then_code_point():
    texts = [b"bbaac", "bbaaé\U0001f600".encode()]
    assert vocabulary([texts], 99, 1) == "abcé\U0001f600"
    assert vocabulary([texts], 99, 2) == "ab"
    # what is cut off is not counted
    assert vocabulary([texts], 2, 1) == "b"
    codec = Chars(4, True, "ab")
    flat, lengths = codec.encode(["abé".encode(), b"", b"aaaaaaa"])
    assert flat.tolist() == [3, 4, 1, 2, 2, 3, 3, 3, 2] and lengths.tolist() == [4, 1, 4]
    assert codec.vocab == 5 and flat.dtype == np.uint8
    assert Chars(4, False, "ab").encode([b"ba"])[0].tolist() == [3, 2]


def test_many_characters_take_two_bytes():
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    codec = Chars(999, False, symbols)
    flat, _ = codec.encode([symbols.encode()])
    assert flat.dtype == np.uint16 and flat.tolist() == list(range(2, 302))


# -- splits ------------------------------------------------------------------------------------


def test_an_honest_split_holds_a_stratified_tenth_of_train_out(tmp_path, source):
    task = make(tmp_path, source, max_length=50)
    train, val, test = (rows(task, split) for split in ("train", "val", "test"))
    assert [len(part) for part in (train, val, test)] == [54, 6, 40]
    assert sum(y for _, y in val) == 3 and sum(y for _, y in train) == 27
    texts, labels = reviews(60)
    known = {tuple(ids(text, 50)): label for text, label in zip(texts, labels, strict=True)}
    assert len(known) == 60
    together = [(tuple(x), y) for x, y in train + val]
    assert len(set(together)) == 60 and set(together) == set(known.items())
    assert test == [(ids(text, 50), y) for text, y in zip(*reviews(40, 1), strict=True)]


def test_a_legacy_split_validates_on_test_and_says_so(tmp_path, source):
    task = make(tmp_path, source, split="legacy")
    assert len(task.build("train")) == 60
    assert rows(task, "val") == rows(task, "test")
    assert "validated on the test split" in task.spec.notes
    assert make(tmp_path, source).spec.notes == ()


def test_the_seed_decides_what_is_held_out(tmp_path, source):
    first = rows(make(tmp_path, source), "val")
    assert rows(make(tmp_path / "again", source), "val") == first
    other = make(tmp_path, source, data_seed=1)
    assert rows(other, "val") != first
    assert other.build("val")["x"][:] == make(tmp_path, source).build("val", 1)["x"][:]


def test_limits_take_a_stratified_sample(tmp_path, source):
    task = make(tmp_path, source, n_train=10, n_val=2, n_test=8)
    for split, n in (("train", 10), ("val", 2), ("test", 8)):
        labels = task.build(split)["y"][:]
        assert len(labels) == n and sum(labels) == n // 2
    # the held-out rows are the same as without limits
    assert {tuple(x) for x, _ in rows(task, "val")} <= {
        tuple(x) for x, _ in rows(make(tmp_path, source), "val")
    }


def test_stratified_shares_are_as_near_as_can_be():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    picked = stratified(labels, 17, np.random.default_rng(0))
    assert len(set(picked.tolist())) == 17 and (np.diff(picked) > 0).all()
    assert np.bincount(labels[picked]).tolist() == [12, 3, 2]
    assert stratified(labels, 100, np.random.default_rng(0)).tolist() == list(range(100))


def test_too_few_rows_for_a_split_are_refused():
    labels = {"train": np.zeros(4, np.uint8), "test": np.zeros(4, np.uint8)}
    with pytest.raises(UserError, match="too few rows for a val split"):
        choose(labels, "honest", {"train": None, "val": None, "test": None}, 0)


def test_duplicates_are_counted_and_kept(tmp_path):
    texts, labels = reviews(60)
    again, _ = reviews(40, 1)
    texts[3], texts[50] = again[0], again[0]
    task = make(tmp_path, write_parquet(tmp_path / "s", text=pa.array(texts)), split="legacy")
    assert task.manifest()["duplicates"] == {"test in train": 1}
    assert len(task.build("train")) == 60
    parts = {"train": [b"a", b"b"], "val": [b"b"], "test": [b"a", b"a", b"b", b"c"]}
    assert duplicates(parts) == {"val in train": 1, "test in train": 3, "test in val": 1}


def test_the_majority_line(tmp_path, source):
    assert make(tmp_path, source).baselines() == {"majority": 0.5}
    assert majority(np.array([1, 1, 0]), np.array([1, 0, 0, 0])) == 0.25


# -- batches -----------------------------------------------------------------------------------


def test_a_batch_is_padded_with_zeros_to_its_longest_row(tmp_path, source):
    task = make(tmp_path, source)
    data = task.build("train")
    batch = task.collate(data, np.array([5, 0, 7]))
    wanted = [data[i] for i in (5, 0, 7)]
    lengths = [len(row["x"]) for row in wanted]
    assert batch.x.shape == batch.mask.shape == (3, max(lengths))
    assert (batch.x.dtype, batch.mask.dtype, batch.y.dtype) == (
        torch.int64, torch.bool, torch.int64,
    )  # fmt: skip
    assert batch.mask.sum(1).tolist() == lengths and (batch.x > 0).equal(batch.mask)
    assert batch.y.tolist() == [row["y"] for row in wanted]
    for row, got in zip(wanted, batch.x.tolist(), strict=True):
        assert got[: len(row["x"])] == row["x"]


def test_feeding_a_batch_takes_two_milliseconds(tmp_path):
    long = pa.array(["x" * 5000] * 600)
    source = write_parquet(tmp_path / "s", train=600, text=long)
    task = make(tmp_path, source, max_length=4096)
    data, spent = task.build("train"), []
    for i in range(40):
        numbers = np.random.default_rng(i).integers(0, len(data), 32)
        begin = time.perf_counter()
        batch = task.collate(data, numbers)
        spent.append(time.perf_counter() - begin)
    assert batch.x.shape == (32, 4096)
    # the fastest of many: other processes may share the core
    assert min(spent) < 2e-3


# -- sources -----------------------------------------------------------------------------------


def test_a_folder_of_files_is_the_same_data(tmp_path, source):
    folder = tmp_path / "aclImdb"
    for split, n, seed in (("train", 60, 0), ("test", 40, 1)):
        for i, (text, label) in enumerate(zip(*reviews(n, seed), strict=True)):
            path = folder / split / ("neg", "pos")[label] / f"{i}_7.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    (folder / "train" / "urls_pos.txt").write_text("no review")
    (folder / "train" / "pos" / "notes").write_text("no review")
    parquet = make(tmp_path, source)
    for place in (folder, tmp_path):
        task = make(tmp_path, place)
        assert rows(task, "train") == rows(parquet, "train")
        assert task.manifest()["source"] == "aclImdb"
        assert task.manifest()["sha256"] == parquet.manifest()["sha256"]


def test_sharded_files_one_folder_below_and_a_single_file(tmp_path, source):
    below = tmp_path / "clone" / "plain_text"
    below.mkdir(parents=True)
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}.parquet")
        pq.write_table(table[:30], below / f"{split}-00000-of-00002.parquet")
        pq.write_table(table[30:], below / f"{split}-00001-of-00002.parquet")
    whole = rows(make(tmp_path, source), "train")
    assert rows(make(tmp_path, tmp_path / "clone"), "train") == whole
    assert rows(make(tmp_path, source / "train.parquet"), "train") == whole


def test_a_changed_source_is_read_again_and_a_moved_one_is_the_same_data(tmp_path, source):
    before = make(tmp_path, source).manifest()
    moved = source.rename(tmp_path / "moved")
    assert make(tmp_path, moved).manifest() == before
    assert str(tmp_path) not in json.dumps(before)
    write_parquet(moved, text=pa.array(["other"] * 60))
    assert make(tmp_path, moved).manifest()["source_sha256"] != before["source_sha256"]


def test_a_set_that_is_not_the_whole_imdb_is_a_stand_in(tmp_path, source):
    spec = make(tmp_path, source).spec
    assert (spec.name, spec.tier, spec.published) == ("text_standin", "stand-in", None)


def test_the_hub_is_read_as_local_files_are(tmp_path, source, monkeypatch):
    import datasets

    def load(name, split):
        assert name == "stanfordnlp/imdb"
        return datasets.Dataset(pq.read_table(source / f"{split}.parquet"))

    local = make(tmp_path, source)
    wanted = rows(local, "train"), rows(local, "val"), rows(local, "test")
    monkeypatch.setattr(datasets, "load_dataset", load)
    task = Text(root=tmp_path / "hub")
    assert tuple(rows(task, split) for split in ("train", "val", "test")) == wanted
    assert task.manifest()["source"] == "hub stanfordnlp/imdb"
    # built once: afterwards no network is asked for
    monkeypatch.undo()
    assert len(Text(root=tmp_path / "hub").build("train")) == 54


def test_the_hub_out_of_reach_is_told_with_the_commands_that_help(tmp_path):
    # tests run with HF_HUB_OFFLINE
    with pytest.raises(UserError) as caught:
        Text(root=tmp_path).build("train")
    said = str(caught.value)
    assert said.startswith("cannot get stanfordnlp/imdb from the hub (") and "\n" not in said
    for part in (
        "hf download stanfordnlp/imdb --repo-type dataset --local-dir imdb",
        "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
        "python -m lra prepare text --source FOLDER",
    ):
        assert part in said
    assert not [path for path in (tmp_path / "text").iterdir() if path.is_dir()]


def test_prepare(tmp_path, source, capsys):
    root = str(tmp_path / "root")
    smoke = ("prepare", "text", "--protocol", "smoke", "--root", root)
    assert main([*smoke, "--source", str(source)]) == 0
    said = capsys.readouterr().out
    assert "train: 54 examples (stand-in)" in said and "majority: 50.00 % of test" in said
    assert main([*smoke, "--source", str(tmp_path / "none")]) == 2
    assert f"there is no {tmp_path / 'none'}: get IMDb" in capsys.readouterr().err


# -- what is broken ----------------------------------------------------------------------------


def nothing_built(tmp_path):
    folder = tmp_path / "data" / "text"
    return not folder.exists() or not [path for path in folder.iterdir() if path.is_dir()]


def not_utf8(texts):
    content = b"".join(texts)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )


@pytest.mark.parametrize(
    "columns, says",
    [
        (dict(text=pa.array([b"x"] * 60)), r"train.parquet has columns text \(binary\), label"),
        (dict(text=pa.array(range(60))), r"expected text \(string\)"),
        (dict(label=pa.array(["pos"] * 60)), r"expected label \(int\)"),
        (dict(label=pa.array([0] * 50 + [2] * 10)), "train.parquet, row 51: label 2 is not one of"),
        (dict(label=pa.array([0] * 50 + [-1] * 10)), "train.parquet, row 51: label -1 is not"),
        (dict(label=pa.array([0] * 50 + [None] * 10)), "train.parquet, row 51: label None is not"),
        (dict(text=pa.array(["x"] * 20 + [None] * 40)), "train.parquet, row 21: there is no text"),
        (
            dict(text=not_utf8([b"x"] * 20 + [b"ab\xff"] + [b"y"] * 39)),
            r"train.parquet, row 21: not UTF-8 text \(byte 0xff at 2\)",
        ),
    ],
)
def test_a_broken_table_names_file_and_row(tmp_path, columns, says):
    source = write_parquet(tmp_path / "source", **columns)
    with pytest.raises(UserError, match=says):
        make(tmp_path, source, split="legacy").build("train")
    assert nothing_built(tmp_path)


def test_a_missing_column_is_named(tmp_path, source):
    table = pq.read_table(source / "train.parquet").rename_columns(["sentence", "label"])
    pq.write_table(table, source / "train.parquet")
    with pytest.raises(UserError, match=r"has columns sentence \(string\), label \(int64\); expec"):
        make(tmp_path, source).build("train")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing", "no rows"])
def test_a_broken_file_is_named(tmp_path, source, damage):
    path = source / "train.parquet"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "garbage":
            path.write_bytes(b"no parquet" * 100)
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "no rows":
            pq.write_table(pq.read_table(path)[:0], path)
    with pytest.raises(UserError, match="train") as caught:
        make(tmp_path, source).build("train")
    assert "\n" not in str(caught.value)
    assert nothing_built(tmp_path)


def test_a_broken_review_file_is_named(tmp_path):
    folder = tmp_path / "aclImdb"
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            (folder / split / label).mkdir(parents=True)
            for i in range(10):
                (folder / split / label / f"{i}_1.txt").write_bytes(b"fine")
    bad = folder / "train" / "pos" / "3_1.txt"
    bad.write_bytes(b"caf\xe9 noir")
    with pytest.raises(UserError, match=f"^{bad}: not UTF-8 text .byte 0xe9 at 3.$"):
        make(tmp_path, folder).build("train")
    assert nothing_built(tmp_path)


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(split="honset"), "unknown value of split 'honset': did you mean 'honest'"),
        (dict(tokens="char"), "did you mean 'chars'"),
        (dict(eos="yes"), "eos=yes: write true or false"),
        (dict(eos=True, max_length=1), "max_length=1"),
        (dict(max_length=0), "max_length=0"),
        (dict(min_freq=0), "min_freq=0"),
        (dict(n_test=0), "n_test=0"),
        (dict(data_seed=-1), "data_seed=-1"),
    ],
)
def test_bad_knobs_are_refused_before_any_work(tmp_path, source, knobs, says):
    with pytest.raises(UserError, match=says):
        make(tmp_path, source, **knobs)
    assert nothing_built(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path, source):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full; free space"):
            make(tmp_path, source).build("train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert nothing_built(tmp_path)


def test_a_killed_build_is_not_served_and_is_built_again(tmp_path, source):
    code = (
        "import sys, time\n"
        "from lra.data import splits\n"
        "from lra.tasks.text import Text\n"
        "def stop(counts):\n"
        "    print('half', flush=True)\n"
        "    time.sleep(100)\n"
        "splits.duplicates = stop\n"
        "Text(root=sys.argv[1], source=sys.argv[2]).build('train')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data"), str(source)],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (folder,) = (path for path in (tmp_path / "data" / "text").iterdir() if path.is_dir())
    assert store.manifest(folder) is None
    assert len(make(tmp_path, source).build("train")) == 54
    assert store.manifest(folder) is not None


# -- configurations ----------------------------------------------------------------------------


def test_the_config_names_the_knobs_and_their_defaults():
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / "text.yaml"))
    assert (config.pop("name"), config.pop("_target_")) == ("text", "lra.tasks.text.Text")
    knobs = inspect.signature(Text).parameters
    assert config == {name: knobs[name].default for name in knobs if name != "root"}


def test_nothing_is_done_before_it_is_asked_for(tmp_path):
    Text(root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cell_on_text(fork, tmp_path, source):
    asked = (f"task.source='{source}'", "task.split=legacy", "task=text")
    ended = fork(*fork.tiny(tmp_path / "results", *asked))
    assert ended.code == 0, ended.err
    (path,) = (tmp_path / "results" / "runs").glob("*/row.json")
    row = json.loads(path.read_text())
    assert (row["status"], row["task"], row["tier"]) == ("ok", "text_standin", "stand-in")
    assert (row["n_test"], row["length"], row["chance_acc"]) == (40, 64, 0.5)
    assert row["label"].startswith("validated on the test split")
    # where the data lies is no departure from a protocol
    assert "task.split=legacy" in row["label"] and "source" not in row["label"]


# -- the real reviews --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(lra_data, tmp_path_factory):
    """IMDb at 1,000 bytes, and how long it took."""
    folder = lra_data / "imdb"
    if not (folder / "train.parquet").is_file():
        pytest.skip("IMDb is not in LRA_DATA")
    begin = time.monotonic()
    task = Text(root=tmp_path_factory.mktemp("imdb"), source=str(folder), max_length=1000)
    task.build("train")
    return task, folder, time.monotonic() - begin


def digest(parts):
    return hashlib.sha256(b"\0".join(sorted(parts))).hexdigest()


def test_real_reviews_agree_with_the_bytes_of_the_files(real):
    task, folder, _ = real
    for origin, parts in (("train", ("train", "val")), ("test", ("test",))):
        table = pq.read_table(folder / f"{origin}.parquet")
        raw = [
            bytes([label]) + text.encode()[:1000]
            for text, label in zip(
                table["text"].to_pylist(), table["label"].to_pylist(), strict=True
            )
        ]
        stored = []
        for split in parts:
            data = task.build(split)
            cuts = [(row - 1).astype(np.uint8) for row in lists(data, "x")[range(len(data))]]
            labels = data.data.table.column("y").to_pylist()
            assert len(cuts) == len(labels)
            stored += [bytes([y]) + cut.tobytes() for cut, y in zip(cuts, labels, strict=True)]
            if origin == "test":
                assert stored == raw
        assert len(stored) == len(raw) == 25_000
        assert digest(stored) == digest(raw)


def test_real_reviews_are_the_published_set(real):
    task, _, spent_s = real
    facts = task.manifest()
    assert facts["rows"] == {"train": 22_500, "val": 2_500, "test": 25_000}
    assert facts["labels"] == {
        "train": {"0": 11_250, "1": 11_250},
        "val": {"0": 1_250, "1": 1_250},
        "test": {"0": 12_500, "1": 12_500},
    }
    assert set(facts["source_sha256"]) == {"train.parquet", "test.parquet"}
    assert facts["duplicates"]["test in train"] > 100
    spec = task.spec
    assert (spec.name, spec.tier, spec.vocab, spec.length) == ("text", "official", 257, 1000)
    assert (spec.kind, spec.classes, spec.chance_acc, spec.notes) == ("classify", 2, 0.5, ())
    assert task.baselines() == {"majority": 0.5}
    assert spent_s < 60


def test_the_vocabulary_of_the_s4_family(real, tmp_path):
    _, folder, _ = real
    knobs = dict(tokens="chars", eos=True, split="legacy", max_length=4096, n_test=10)
    task = Text(root=tmp_path, source=str(folder), **knobs)
    counts = Counter()
    for text in pq.read_table(folder / "train.parquet")["text"].to_pylist():
        counts.update(text[:4095])
    known = [char for char, n in counts.items() if n >= 15]
    # configs/dataset/imdb.yaml of state-spaces/s4 says "about 135"
    assert task.spec.vocab == 3 + len(known) == 134
    symbols = task.manifest()["characters"]
    assert symbols == "".join(sorted(known, key=lambda char: (-counts[char], char)))
    texts = [t[:4095] for t in pq.read_table(folder / "test.parquet")["text"].to_pylist()]
    for ids in task.build("test")["x"]:
        assert ids[-1] == 2 and min(ids) > 0
        back = "".join(symbols[i - 3] if i > 2 else "?" for i in ids[:-1])
        alike = (text for text in texts if len(text) == len(back) and text[:9] == back[:9])
        assert back in ["".join(c if c in known else "?" for c in text) for text in alike]
