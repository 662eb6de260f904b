"""The retrieval task: ids by hand, whose pairs they are, both heads, what is broken, real pairs."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lra import presets
from lra.cli.main import main
from lra.config import load
from lra.data import aan_tsv, writer
from lra.data.aan_tsv import FILES, pairs
from lra.data.feed_bench import fetch_ms
from lra.errors import UserError
from lra.model import make_model, model_spec
from lra.tasks.retrieval import Retrieval
from lra.tasks.spec import TaskSpec
from lra.training.score import loss_sum

CHECKOUT = Path(__file__).resolve().parents[2]
SIZES = {"train": 24, "val": 8, "test": 10}


def lines(n, seed):
    rng = np.random.default_rng(seed)
    letters = list("abc \"'é")
    made = []
    for i in range(n):
        a, b = ("".join(rng.choice(letters, rng.integers(1, 30))) for _ in range(2))
        made.append(f"{i % 2}.0\tA{i}\tB{i}\t{seed}{i}{a}\t{b}{i}\n")
    return made


def write(folder, sizes=SIZES, **change):
    """Files of pairs; ``change`` gives the lines of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, n) in enumerate(sizes.items()):
        content = change.get(split, "".join(lines(n, seed)))
        content = content if isinstance(content, bytes) else content.encode()
        (folder / FILES[split]).write_bytes(content)
    return folder


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source")


def make(tmp_path, source, **knobs):
    return Retrieval(root=tmp_path / "data", source=str(source), **knobs)


def nothing_built(tmp_path):
    folder = tmp_path / "data" / "retrieval"
    return not folder.exists() or not [path for path in folder.iterdir() if path.is_dir()]


# -- ids ---------------------------------------------------------------------------------------


def golden(tmp_path, protocol, text="1.0\tP1\tP2\t\"Aé' b\t!\n"):
    knobs = presets.compose(f"protocol={protocol}", "task=retrieval").task
    knobs = {k: v for k, v in knobs.items() if k not in ("name", "_target_", "source")}
    source = write(tmp_path / "source", train=text)
    return Retrieval(root=tmp_path / "data", source=str(source), **knobs).build("train")[0]


@pytest.mark.parametrize(
    "protocol", ["smoke", "laptop", "lra_paper", "lra_repo", "xformer_small", "mega"]
)
def test_golden_bytes(tmp_path, protocol):
    # quotes are text: " A C3 A9 ' space b, and !
    row = golden(tmp_path, protocol)
    assert row == {"x": [35, 66, 196, 170, 40, 33, 99], "x2": [34], "y": 1}


def test_golden_characters_of_the_s4_family(tmp_path):
    # all occur once: 2 is EOS, then ' ' 3, '!' 4, '"' 5, "'" 6, 'A' 7, 'b' 8, 'é' 9
    row = golden(tmp_path, "s4")
    assert row == {"x": [5, 7, 9, 6, 3, 8, 2], "x2": [4, 2], "y": 1}


def test_rows_are_the_files_lines_cut(tmp_path, source):
    task = make(tmp_path, source, max_length=12)
    for split, n in SIZES.items():
        data = task.build(split)
        assert len(data) == n
        for row, line in zip(data, (source / FILES[split]).read_bytes().splitlines(), strict=True):
            label, _, _, first, second = line.split(b"\t")
            assert row["y"] == int(float(label))
            assert row["x"] == [byte + 1 for byte in first[:12]]
            assert row["x2"] == [byte + 1 for byte in second[:12]]


def test_a_batch_holds_both_texts_padded_alike(tmp_path, source):
    task = make(tmp_path, source)
    data = task.build("train")
    batch = task.collate(data, np.array([5, 0, 7]))
    wanted = [data[i] for i in (5, 0, 7)]
    longest = max(len(row[side]) for row in wanted for side in ("x", "x2"))
    assert batch.x.shape == batch.mask.shape == (3, 2, longest)
    assert batch.x.is_contiguous() and batch.mask.is_contiguous()
    for i, row in enumerate(wanted):
        for j, side in enumerate(("x", "x2")):
            n = len(row[side])
            assert batch.x[i, j].tolist() == row[side] + [0] * (longest - n)
            assert batch.mask[i, j].tolist() == [True] * n + [False] * (longest - n)
    assert batch.y.tolist() == [row["y"] for row in wanted]


def test_feeding_a_batch_takes_two_milliseconds(tmp_path):
    line = f"1.0\ta\tb\t{'x' * 3000}\t{'y' * 3000}\n"
    task = make(tmp_path, write(tmp_path / "long", train=line * 400), max_length=2048)
    data = task.build("train")
    assert task.collate(data, np.arange(32)).x.shape == (32, 2, 2048)
    assert np.median(fetch_ms(lambda rows: task.collate(data, rows), len(data), tries=100)) < 2


# -- whose pairs -------------------------------------------------------------------------------


def test_a_set_of_other_size_is_a_stand_in_with_a_name_of_its_own(tmp_path, source):
    spec = make(tmp_path, source).spec
    assert (spec.name, spec.tier, spec.published) == ("retrieval_standin", "stand-in", None)
    named = make(tmp_path, source, set_name="acl_pairs").spec
    assert (named.name, named.tier) == ("acl_pairs", "stand-in")
    # the name alone makes no other data
    assert len([p for p in (tmp_path / "data" / "retrieval").iterdir() if p.is_dir()]) == 1


def test_a_set_of_the_published_size_is_official(tmp_path, source, monkeypatch):
    monkeypatch.setattr(aan_tsv, "ROWS", SIZES)
    spec = make(tmp_path, source).spec
    assert (spec.name, spec.tier, spec.published) == ("retrieval", "official", "retrieval")
    # also where only some of it is read
    assert make(tmp_path, source, n_train=4, n_test=2).spec.tier == "official"
    assert make(tmp_path, source, set_name="mine").spec.tier == "stand-in"
    monkeypatch.setattr(aan_tsv, "ROWS", {**SIZES, "test": 11})
    assert make(tmp_path, source).spec.tier == "stand-in"


def test_the_published_sizes():
    assert aan_tsv.ROWS == {"train": 147_086, "val": 18_090, "test": 17_437}


@pytest.mark.parametrize("name", ["retrieval", "aan", "my_aan", "ACL", "a b", "", "../x"])
def test_no_other_set_is_called_aan(tmp_path, source, name):
    with pytest.raises(UserError, match="set_name="):
        make(tmp_path, source, set_name=name)


def test_limits_take_a_stratified_sample(tmp_path, source):
    task = make(tmp_path, source, n_train=10, n_val=2, n_test=4)
    for split, n in (("train", 10), ("val", 2), ("test", 4)):
        labels = task.build(split)["y"][:]
        assert len(labels) == n and sum(labels) == n // 2
    known = [row["x"] for row in make(tmp_path, source).build("train")]
    assert all(row["x"] in known for row in task.build("train"))
    assert task.manifest()["source_rows"] == SIZES


def test_the_manifest_counts_what_recurs(tmp_path):
    line = "1.0\ta\tb\tsame\tother\n"
    train, test = line + "".join(lines(5, 0)), line + line + "0.0\ta\tc\tsame\tnew\n"
    task = make(tmp_path, write(tmp_path / "s", train=train, test=test))
    facts = task.manifest()
    assert facts["duplicates"] == {"val in train": 0, "test in train": 2, "test in val": 0}
    # of test's three documents two are train's
    assert facts["documents"] == {"val in train": 0, "test in train": 2, "test in val": 0}
    assert facts["labels"]["test"] == {"0": 1, "1": 2} and facts["empty_documents"] == 0
    assert facts["rows"] == {"train": 6, "val": 8, "test": 3}
    assert set(facts["source_sha256"]) == set(FILES.values())
    assert str(tmp_path) not in json.dumps(dict(facts))


def test_empty_documents_are_counted(tmp_path):
    task = make(tmp_path, write(tmp_path / "s", test="1.0\ta\tb\t\tx\n0.0\ta\tb\tx\ty\n"))
    assert task.manifest()["empty_documents"] == 1
    batch = task.collate(task.build("test"), np.array([0, 1]))
    assert batch.mask.sum(-1).tolist() == [[0, 1], [1, 1]]


# -- heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["nli", "concat"])
@pytest.mark.parametrize("pooling", ["mean", "mean_all", "cls", "first"])
def test_both_towers_reach_the_head(tmp_path, source, pairing, pooling):
    task = make(tmp_path, source, max_length=32)
    asked = (
        "protocol=smoke", "task=retrieval", "task.max_length=32", "recipe.dropout=0",
        "recipe.mixer_dropout=0", f"recipe.pairing={pairing}", f"recipe.pooling={pooling}",
    )  # fmt: skip
    config = load(presets.compose(*asked))
    torch.manual_seed(0)
    model = make_model(config, model_spec(config.recipe, task.spec, two_way=False)).eval()
    batch = task.collate(task.build("train"), np.arange(6))
    logits = model(batch.x, batch.mask)
    assert logits.shape == (6, 2)
    total, count = loss_sum(logits, batch.y)
    total.backward()
    assert count == 6 and all(p.grad is not None for p in model.parameters() if p.requires_grad)
    swapped = model(batch.x.flip(1), batch.mask.flip(1))
    assert not torch.allclose(logits, swapped, atol=1e-4)
    # the first byte alone decides where it alone is pooled and nothing is mixed
    for side in (0, 1):
        changed = batch.x.clone()
        changed[:, side, 0] = 1 + changed[:, side, 0] % 256
        assert not torch.allclose(logits, model(changed, batch.mask), atol=1e-6)
    # a pair's logits are its own
    alone = model(batch.x[2:3], batch.mask[2:3])
    torch.testing.assert_close(alone, logits[2:3], atol=1e-5, rtol=1e-4)


def test_a_cell_on_pairs(fork, tmp_path, source):
    asked = (f"task.source='{source}'", "task=retrieval", "task.set_name=made_up_pairs",
             "recipe.pooling=first", "recipe.pairing=concat")  # fmt: skip
    ended = fork(*fork.tiny(tmp_path / "results", *asked))
    assert ended.code == 0, ended.err
    (path,) = (tmp_path / "results" / "runs").glob("*/row.json")
    row = json.loads(path.read_text())
    assert (row["status"], row["task"], row["tier"]) == ("ok", "made_up_pairs", "stand-in")
    assert (row["n_test"], row["length"], row["majority_acc"]) == (10, 64, 0.5)
    assert "aan" not in json.dumps(row).lower() and "made_up_pairs" in ended.out


# -- what is broken ----------------------------------------------------------------------------

GOOD = "1.0\ta\tb\tx\ty\n"


@pytest.mark.parametrize(
    "content, says",
    [
        ("", "train.tsv: the file is empty"),
        (GOOD + "1.0\ta\tb\tx\n", "line 2: 4 columns, expected 5"),
        (GOOD + "1.0\ta\tb\tx\ty\tz\n", "line 2: 6 columns"),
        (GOOD + "\n" + GOOD, "line 2: 1 columns"),
        (GOOD + GOOD[:7], "line 2: 3 columns"),
        (GOOD + "2.0\ta\tb\tx\ty\n", "line 2: the label must be 0.0 or 1.0, not '2.0'"),
        (GOOD + "\ta\tb\tx\ty\n", "line 2: the label must be 0.0 or 1.0, not ''"),
        ("label\tid1\tid2\ttext1\ttext2\n" + GOOD, "line 1: the label must be"),
        (GOOD.encode() + b"\xff\ta\tb\tx\ty\n", r"line 2: the label must be .*not '.xff'"),
        (GOOD.encode() + b"1.0\ta\tb\tx\xe9\ty\n", r"line 2: not UTF-8 text \(byte 0xe9 at 9\)"),
    ],
)
def test_a_broken_line_is_named(tmp_path, content, says):
    source = write(tmp_path / "source", train=content)
    with pytest.raises(UserError, match=f"^{source / FILES['train']}.*{says}|{says}"):
        make(tmp_path, source).build("train")
    assert nothing_built(tmp_path)


def test_line_ends_and_the_last_line(tmp_path):
    source = write(tmp_path / "s", test="1.0\ta\tb\tx\ty\r\n0.0\ta\tb\tx\tz", val="1\ta\tb\tx\ty\n")
    task = make(tmp_path, source)
    assert task.build("test")["x2"][:] == [[122], [123]] and task.build("val")["y"][:] == [1]


def test_an_endless_line_is_not_read_into_memory(monkeypatch):
    monkeypatch.setattr(aan_tsv, "LONGEST_LINE", 2**16)
    with pytest.raises(UserError, match="line 1: too long"):
        list(pairs(Path("/dev/zero"), np.array([0])))


def test_a_missing_source_says_where_to_get_it(tmp_path, source, capsys):
    root = ("--root", str(tmp_path / "data"))
    assert main(["prepare", "retrieval", *root]) == 2
    said = capsys.readouterr().err
    for part in (
        "error: retrieval needs the AAN pairs of LRA",
        "https://storage.googleapis.com/long-range-arena/lra_release.gz",
        "python -m lra prepare retrieval --source lra_release/lra_release/tsv_data",
    ):
        assert part in said
    assert said.count("\n") == 1
    (source / FILES["test"]).unlink()
    assert main(["prepare", "retrieval", *root, "--source", str(source)]) == 2
    assert f"there is no {source / FILES['test']}" in capsys.readouterr().err
    assert nothing_built(tmp_path)


def test_prepare(tmp_path, source, capsys):
    root = ("--protocol", "smoke", "--root", str(tmp_path / "data"))
    assert main(["prepare", "retrieval", *root, "--source", str(source)]) == 0
    said = capsys.readouterr().out
    assert "test: 10 examples (stand-in)" in said and "majority: 50.00 % of test" in said


@pytest.mark.parametrize("name", ["retrieval.train.pickle", ""])
def test_pickles_are_refused_with_the_reason(tmp_path, name):
    (tmp_path / "retrieval.train.pickle").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match="a pickle can run code.*take the TSV files"):
        make(tmp_path, tmp_path / name).build("train")


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, source, monkeypatch):
    whole = make(tmp_path / "whole", source).manifest()
    monkeypatch.setattr(writer, "BATCH_BYTES", 1)
    monkeypatch.setattr(writer, "SHARD_BYTES", 300)
    monkeypatch.setattr(aan_tsv, "CHUNK", 2)
    appended, append = [], writer.Writer.append

    def counted(self, split, **columns):
        if len(appended) == 9:
            raise KeyboardInterrupt
        appended.append(len(columns["y"]))
        append(self, split, **columns)

    monkeypatch.setattr(writer.Writer, "append", counted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, source).build("train")
    (folder,) = (p for p in (tmp_path / "data" / "retrieval").iterdir() if p.is_dir())
    kept = {path.name for path in folder.glob("*.arrow")}
    assert kept and not list(folder.glob("*.tmp")) and not (folder / "manifest.json").exists()
    appended.clear()
    monkeypatch.setattr(writer.Writer, "append", append)
    again = make(tmp_path, source).manifest()
    assert kept <= {path.name for path in folder.glob("*.arrow")}
    for part in ("rows", "sha256", "labels", "duplicates", "documents", "empty_documents"):
        assert again[part] == whole[part], part


# -- configurations ----------------------------------------------------------------------------


def test_the_config_names_the_knobs_and_their_defaults():
    config = OmegaConf.to_container(OmegaConf.load(CHECKOUT / "conf" / "task" / "retrieval.yaml"))
    assert config.pop("name") == "retrieval"
    assert config.pop("_target_") == "lra.tasks.retrieval.Retrieval"
    knobs = inspect.signature(Retrieval).parameters
    assert config == {name: knobs[name].default for name in knobs if name != "root"}


def test_the_head_of_each_protocol():
    found = {
        protocol: (recipe.pairing, recipe.pooling)
        for protocol in ("lra_paper", "lra_repo", "xformer_small", "s4", "mega")
        for recipe in [load(presets.compose(f"protocol={protocol}", "task=retrieval")).recipe]
    }
    assert found == {
        "lra_paper": ("nli", "cls"), "lra_repo": ("concat", "first"), "s4": ("nli", "mean"),
        "xformer_small": ("nli", "mean_zero"), "mega": ("concat", "mean"),
    }  # fmt: skip


LRA_REPO = [
    name for name in presets.names("experiment")
    if name.startswith(("lra_repo_text_", "lra_repo_retrieval_"))
]  # fmt: skip


@pytest.mark.parametrize("name", LRA_REPO)
def test_the_knobs_of_models_in_lras_files(name):
    config = load(presets.compose(f"experiment={name}"))
    _, _, task, model = name.split("_", 3)
    assert (config.task["name"], config.model) == (task, model)
    assert config.protocol["name"] == "lra_repo" and config.recipe.steps > 0
    with torch.device("meta"):
        make_model(config, model_spec(config.recipe, SPEC[task], two_way=False))


SPEC = {
    "text": TaskSpec("text", "classify", 1000, 2, 0.5, "official", vocab=257),
    "retrieval": TaskSpec("retrieval", "match", 4000, 2, 0.5, "official", vocab=257),
}


# -- real pairs --------------------------------------------------------------------------------


def test_real_pairs_agree_with_the_bytes_of_the_files(lra_data, tmp_path):
    folder = lra_data / "lra_release" / "tsv_data"
    if not (folder / FILES["train"]).is_file():
        pytest.skip("there are no pairs in LRA_DATA")
    task = Retrieval(root=tmp_path, source=folder, max_length=1000)
    for split, name in FILES.items():
        data = task.build(split).data.table
        raw = (folder / name).read_bytes().split(b"\n")[:-1]
        assert data.num_rows == len(raw) == task.manifest()["source_rows"][split]
        for i in range(0, len(raw), 5):
            label, _, _, first, second = raw[i].split(b"\t")
            assert data["y"][i].as_py() == {b"0.0": 0, b"1.0": 1}[label]
            for side, text in (("x", first), ("x2", second)):
                got = np.array(data[side][i].as_py())
                assert (got - 1).astype(np.uint8).tobytes() == text[:1000]
    if task.manifest()["source_rows"] != aan_tsv.ROWS:
        assert (task.spec.tier, task.spec.name) == ("stand-in", "retrieval_standin")
