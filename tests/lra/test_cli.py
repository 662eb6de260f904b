"""``python -m lra``: each command says what it found or wrote; each mistake is one line, exit 2."""

from dataclasses import replace
from pathlib import Path

import pytest

from lra import presets
from lra.cli.main import COMMANDS, main
from lra.results.collect import publish, write_row
from lra.results.csv_io import read_csv
from lra.results.schema import RunRow

ROW = RunRow(
    cell="abc", model="transformer", family="exact", mixer="Transformer", block="ResidualBlock",
    backbone="Encoder", mixer_knobs="{}", task="listops", tier="regenerated", length=64, batch=16,
    causal=False, protocol="smoke", label="standard", seed=0, status="ok", test_acc=0.25,
    n_test=100, device="a CPU", versions="torch=2.13.0", date="2026-01-02T03:04:05Z",
)  # fmt: skip


@pytest.fixture
def said(capsys):
    """Runs a command; its exit code, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def results(tmp_path) -> Path:
    """Three finished cells and one interrupted, in a folder whose name looks like markup."""
    folder = tmp_path / "results [bold]"
    for seed, status in enumerate(("ok", "nan", "ok", "interrupted")):
        row = replace(ROW, cell=f"cell{seed}", seed=seed, status=status)
        write_row(row, folder / "local")
    return folder


# -- what is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["shw"], "unknown command 'shw': did you mean 'show'?"),
        (["show", "performr"], "unknown model 'performr': did you mean 'performer'?"),
        (["list", "--family", "sm"], "unknown family 'sm': did you mean 'ssm'?"),
        (["prepare", "listop"], "unknown task 'listop': did you mean 'listops'?"),
        (
            ["prepare", "listops", "--protocol", "smok"],
            "unknown protocol 'smok': did you mean 'smo",
        ),
        (["prepare"], "the following arguments are required: task; `python -m lra prepare --help`"),
        (["merge"], "the following arguments are required: files"),
        (["collect", "--publsh"], "unrecognized arguments: --publsh"),
        (
            ["collect", "--results", "/nowhere"],
            "no finished cells in /nowhere/local: first `python",
        ),
        (["merge", "/nowhere.csv"], "/nowhere.csv: cannot be read as CSV: No such file"),
        (["prepare", "listops", "--source", "/nowhere"], "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(said, arguments, expected):
    code, out, err = said(*arguments)
    assert code == 2 and not out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line


def test_help_lists_every_command(said):
    for arguments in ([], ["--help"], ["-h"]):
        code, out, err = said(*arguments)
        assert code == 0 and not err
        assert all(name in out and about in out for name, about in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: python -m lra {name}" in capsys.readouterr().out


# -- what there is -----------------------------------------------------------------------------


def test_list_names_every_model_task_and_protocol(said):
    code, out, _ = said("list")
    assert code == 0
    for name in (*presets.models(), *presets.names("task"), *presets.names("protocol")):
        assert name in out
    assert "custom" not in out


def test_list_by_family_and_ability(said):
    _, ssm, _ = said("list", "--family", "ssm")
    assert "s4d" in ssm and "performer" not in ssm
    _, causal, _ = said("list", "--causal")
    assert "transformer" in causal and "nystromformer" not in causal
    _, recurrent, _ = said("list", "--recurrent")
    assert "lru" in recurrent and "linformer" not in recurrent


def test_list_takes_a_family_of_two_words_as_it_is_written_anywhere(said):
    listed = said("list", "--family", "low_rank")
    assert "linformer" in listed[1] and said("list", "--family", "low rank") == listed


def test_list_says_the_time_of_a_causal_form_that_takes_another(said, monkeypatch):
    # wide enough that no cell is folded
    monkeypatch.setenv("COLUMNS", "250")
    _, out, _ = said("list", "--family", "sparse", "--causal")
    (line,) = [line for line in out.splitlines() if "transformer_ls" in line]
    time = "N window d + N num_landmarks d (causal: N window d + N^2 chunk_rank d)"
    assert time in line and out.count("(causal: ") == 1


def test_show_prints_card_and_knobs(said, tmp_path):
    code, out, _ = said("show", "performer", "--results", tmp_path)
    assert code == 0
    assert "Rethinking Attention with Performers" in out and "linear_attention" in out
    for knob in presets.compose("model=performer").mixer:
        assert knob == "_target_" or f"{knob}=" in out
    assert "no conformance on record" in out


def test_show_prints_what_passed(said, tmp_path):
    measured = tmp_path / "measured"
    measured.mkdir()
    (measured / "conformance.csv").write_text(
        "model,check,status,reason,source\n"
        "performer,padding,pass,,\n"
        "performer,causal,refuses,it cannot [yet],\n"
        "lru,secret,pass,,\n"
    )
    _, out, _ = said("show", "performer", "--results", tmp_path)
    assert "padding" in out and "it cannot [yet]" in out and "secret" not in out


# -- data and results --------------------------------------------------------------------------


def test_prepare_builds_what_a_run_will_use(said, fork, tmp_path, monkeypatch):
    code, out, _ = said("prepare", "listops", "--protocol", "smoke", "--root", tmp_path / "data")
    assert code == 0
    assert "train: 512 examples (regenerated)" in out and "test: 128 examples" in out
    assert "first_operator: " in out and "majority: " in out
    (manifest,) = tmp_path.rglob("manifest.json")
    assert f"in {manifest.parent}" in out
    ended = fork(
        "protocol=smoke", "protocol.parameter_budget=null", "model=custom", "logger=none",
        "mixer._target_=my_module.MyMixer", "recipe.steps=1", f"paths.data={tmp_path / 'data'}",
        f"paths.results={tmp_path / 'results'}",
    )  # fmt: skip
    assert ended.code == 0
    assert "making ListOps" not in ended.err
    assert list(tmp_path.rglob("manifest.json")) == [manifest]


def test_prepare_reads_official_files(said, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / f"basic_{split}.tsv").write_text(
            "Source\tTarget\n( ( ( [MAX 2 ) 9 ) ] )\t9\n( ( ( [MIN 3 ) 4 ) ] )\t3\n"
        )
    code, out, err = said("prepare", "listops", "--source", tmp_path, "--root", tmp_path / "data")
    assert code == 0, err
    assert "train: 2 examples (stand-in)" in out


def test_collect_and_publish(said, results):
    code, out, _ = said("collect", "--results", results)
    assert code == 0
    assert f"4 rows in {results / 'local' / 'runs.csv'}" in out
    assert len(read_csv(results / "local" / "runs.csv", RunRow)) == 4
    assert not (results / "measured").exists()
    code, out, _ = said("collect", "--publish", "--results", results)
    (pack,) = results.glob("measured/*/runs.csv")
    assert code == 0 and f"wrote {pack}" in out
    # a cell that was interrupted is nobody's result
    assert [row.seed for row in read_csv(pack, RunRow)] == [0, 1, 2]


def test_merge_takes_a_good_pack_and_refuses_a_bad_one(said, results, tmp_path):
    (pack,) = publish(results)
    mine = tmp_path / "mine"
    code, out, _ = said("merge", pack, "--results", mine)
    (written,) = mine.glob("measured/*/runs.csv")
    assert code == 0 and f"wrote {written}" in out
    before = written.read_bytes()
    bad = tmp_path / "runs.csv"
    bad.write_text(pack.read_text().replace("0.25", "25", 1))
    code, out, err = said("merge", bad, "--results", mine)
    assert code == 2 and not out
    assert f"{bad}: row 2, column 'test_acc': " in err
    assert written.read_bytes() == before


def test_module_can_be_called(command):
    ended = command("-m", "lra", "show", "performr", cwd=Path(presets.CONF).parent)
    assert ended.returncode == 2
    assert ended.stderr == "error: unknown model 'performr': did you mean 'performer'?\n"
