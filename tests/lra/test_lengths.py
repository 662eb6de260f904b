"""The length sweep: what is measured, what is left out and why, and what is resumed."""

import json
from dataclasses import replace

import pytest
import torch

from lra import presets
from lra.config import load
from lra.errors import CellFailed, UserError
from lra.lengths import main
from lra.lengths.config import LengthsConfig, Point, settings
from lra.lengths.decoding import Decoder
from lra.lengths.outcome import Frontier
from lra.lengths.runner import Runner
from lra.lengths.subject import make_subject
from lra.measurement.memory import MIB
from lra.results.collect import read_rows
from lra.results.schema import LengthRow

CPU = torch.device("cpu")
OWN = ("model=custom", "mixer._target_=my_module.MyMixer")
QUICK = (
    "task=lengths", "protocol=smoke", "task.lengths=[16,32]", "recipe.dim=16", "recipe.ffn_dim=16",
    "task.min_samples=1", "task.max_samples=1", "task.budget_s=0.001", "device=cpu",
)  # fmt: skip


def configured(tmp_path, *words: str) -> LengthsConfig:
    return settings(load(presets.compose(*QUICK, f"paths.results={tmp_path}", *words)))


def measured(tmp_path, *words: str) -> dict[tuple[int, str], LengthRow]:
    outcome = Runner(configured(tmp_path, *words)).run()
    return {(row.length, row.pass_): row for row in outcome.rows}


def own(name: str) -> tuple[str, str]:
    return "model=custom", f"mixer._target_=my_module.{name}"


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_for_each_length_and_pass_and_resumption(tmp_path):
    config = configured(tmp_path, "model=transformer")
    first = Runner(config).run()
    assert first.n_new == 2
    assert [(row.length, row.pass_) for row in first.rows] == [
        (n, name) for n in (16, 32) for name in ("forward", "forward_backward", "step")
    ]
    for row in first.rows:
        assert row.status == "ok" and row.median_ms and row.gflop and row.n_params
        assert row.pred_mem_mib == pytest.approx(row.peak_mem_mib, rel=0.05)
        assert row.backend == "attention=sdpa" and row.layers == 1 and row.level == "model"
    again = Runner(config).run()
    assert again.n_new == 0 and list(again.rows) == list(first.rows)
    assert sorted(read_rows(tmp_path / "local", "lengths"), key=str) == sorted(first.rows, key=str)
    # another length adds its own
    more = settings(load(presets.compose(
        *QUICK, f"paths.results={tmp_path}", "model=transformer", "task.lengths=[8,16,32]"
    )))  # fmt: skip
    assert Runner(more).run().n_new == 1
    anew = replace(config, run=replace(config.run, rerun=True))
    assert Runner(anew).run().n_new == 2


def test_backward_costs_more_and_attention_grows_with_the_square(tmp_path):
    rows = measured(
        tmp_path, "model=transformer", "task.level=mixer", "task.lengths=[256,512,1024]"
    )
    assert rows[256, "forward_backward"].gflop > 2 * rows[256, "forward"].gflop
    grown = [rows[n, "forward"].gflop - n * 4 * 2 * 16 * 16 / 1e9 for n in (256, 512, 1024)]
    assert grown[1] / grown[0] == pytest.approx(4) and grown[2] / grown[1] == pytest.approx(4)


def test_the_naive_line_holds_n_by_n_numbers(tmp_path):
    fused, naive = (
        measured(
            tmp_path, "model=transformer", "task.level=mixer", "task.lengths=[512]",
            f"backend={{attention: {backend}}}",
        )[512, "forward_backward"]
        for backend in ("sdpa", "reference")
    )  # fmt: skip
    assert (fused.backend, naive.backend) == ("attention=sdpa", "attention=reference")
    assert naive.peak_mem_mib > 2 * 512 * 512 * 4 / MIB > fused.peak_mem_mib


def test_levels_nest(tmp_path):
    mixer, block, model = (
        measured(tmp_path, "model=linear_transformer", f"task.level={level}")[32, "step"]
        for level in ("mixer", "block", "model")
    )
    assert mixer.n_params < block.n_params < model.n_params
    assert mixer.gflop < block.gflop < model.gflop


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model=perceiver", "task.level=mixer"), "whole model"),
        (("model=mega", "task.level=mixer"), "is a block"),
        (("model=bigbird", "task.causal=true"), "cannot be causal"),
        (("model=s4d", "task.passes=[decode]"), "task.level=mixer or block"),
        (("model=s4d", "task.passes=[decode]", "task.level=mixer"), "task.causal=true"),
        (
            (
                "model=s4d",
                "task.passes=[decode]",
                "task.level=mixer",
                "task.causal=true",
                "recipe.precision=bf16-mixed",
            ),
            "kept in float32",
        ),
    ],
)
def test_what_cannot_be_is_unsupported_with_its_reason(tmp_path, words, reason):
    rows = measured(tmp_path, *words)
    assert {row.status for row in rows.values()} == {"unsupported"}
    assert all(reason in row.reason for row in rows.values())


def test_batch_holds_tokens_constant(tmp_path):
    config = configured(tmp_path, "model=transformer", "task.tokens=64", "task.lengths=[128,16,32]")
    assert config.points("cpu") == [Point(16, 4), Point(32, 2), Point(128, 1)]


# -- limits ----------------------------------------------------------------------------------------


def test_what_would_not_fit_is_not_run_and_says_how_much_it_needs(tmp_path):
    rows = measured(
        tmp_path, "model=transformer", "backend={attention: reference}", "task.level=mixer",
        "task.lengths=[16,256,512]", "limits.memory_gib=0.001",
    )  # fmt: skip
    assert rows[16, "step"].status == "ok"
    for n in (256, 512):
        row = rows[n, "forward_backward"]
        assert row.status == "oom" and row.median_ms is None and row.pred_mem_mib > 1
        # the curve that it belongs to is known
        assert row.backend == "attention=reference"
    assert "needs" in rows[256, "step"].reason
    assert "oom at N=256 already" in rows[512, "step"].reason


def test_a_call_that_takes_too_long_ends_its_pass_at_greater_lengths_too(tmp_path):
    rows = measured(
        tmp_path, *own("SlowByLength"), "task.lengths=[16,64,128]", "task.limit_s=0.04",
        "task.passes=[forward]",
    )  # fmt: skip
    assert [rows[n, "forward"].status for n in (16, 64, 128)] == ["ok", "timeout", "timeout"]
    assert "task.limit_s=0.04" in rows[64, "forward"].reason
    assert "at N=64 already" in rows[128, "forward"].reason


def test_a_pass_that_kills_its_process_costs_that_pass_only(command, tmp_path):
    run = f"{presets.CONF.parent}/run.py"
    words = ("-m", *QUICK, *own("KillsAtLength32"), f"paths.results={tmp_path}")
    ended = command(run, *words)
    rows = {(r.length, r.pass_): r.status for r in read_rows(tmp_path / "local", "lengths")}
    assert "cell 1 of 1, about" in ended.stderr
    assert {name for name, status in rows.items() if status == "ok"} == {
        (16, "forward"), (16, "forward_backward"), (16, "step"), (32, "forward"),
    }  # fmt: skip
    # its parent knows how it ended
    assert rows[32, "step"] == rows[32, "forward_backward"] == "oom"


# -- trust -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("Deaf", "error", "same output for other inputs"),
        ("NotANumber", "nan", "not finite"),
        ("Tires", "error", "what was timed gives another output"),
    ],
)
def test_what_computes_nothing_is_not_fast(tmp_path, name, status, reason):
    rows = measured(tmp_path, *own(name), "task.level=mixer")
    assert {row.status for row in rows.values()} == {status}
    assert all(reason in row.reason and row.median_ms is None for row in rows.values())


def test_faster_than_the_device_is_flagged(tmp_path, monkeypatch):
    monkeypatch.setattr("lra.lengths.runner.Roofline.tflop_per_s", lambda self, dtype: 1e-9)
    rows = measured(tmp_path, "model=transformer")
    assert all("too fast to be true" in row.reason for row in rows.values())


# -- decoding --------------------------------------------------------------------------------------


def test_a_cache_grows_with_the_length_and_a_recurrent_state_does_not(tmp_path):
    words = ("task.level=mixer", "task.causal=true", "task.passes=[decode]")
    cache = measured(tmp_path, "model=transformer", *words)
    state = measured(tmp_path, "model=linear_transformer", *words)
    for n in (16, 32):
        assert cache[n, "decode"].state_mib == pytest.approx(2 * n * 16 * 4 / MIB)
    assert state[16, "decode"].state_mib == state[32, "decode"].state_mib > 0
    assert all(row.median_ms for row in (*cache.values(), *state.values()))
    # what is read of a cache grows with it
    work = [cache[n, "decode"].gflop for n in (16, 32)]
    assert 0 < work[0] < work[1] and state[16, "decode"].gflop == state[32, "decode"].gflop > 0
    assert all(r.peak_mem_mib > r.state_mib for r in (*cache.values(), *state.values()))


@pytest.mark.parametrize("level", ["mixer", "block"])
def test_the_decoder_gives_the_token_after_those_it_read(tmp_path, level):
    """And gives it at every call: a cache does not grow while it is timed."""
    words = ("model=transformer", f"task.level={level}", "task.causal=true")
    subject = make_subject(configured(tmp_path, *words), Point(16, 2), CPU)
    x = subject.inputs(0).x
    decoder = Decoder(subject.part.eval(), x)
    with torch.no_grad():
        parallel = subject.system(torch.cat([x, x[:, -1:]], dim=1))
    for _ in range(3):
        torch.testing.assert_close(decoder.step(), parallel[:, -1], rtol=1e-4, atol=1e-5)
    assert decoder.state_mib == pytest.approx(2 * 2 * 16 * 16 * 4 / MIB)


# -- every model -----------------------------------------------------------------------------------


MODELS = [n for n in presets.names("model") if n != "custom"]
# blocks of their own
DECODING_BLOCKS = ["luna", "mega", "mega_chunk"]


@pytest.mark.parametrize("name", MODELS)
def test_work_and_memory_of_every_model_are_known(tmp_path, name):
    """Predicted within 5 % of measured; no model is without operations or of unknown ones. The
    length is beyond most blocks, so that sparse systems are sparse."""
    rows = measured(tmp_path, f"model={name}", "task.lengths=[513]", "task.passes=[step]")
    row = rows[513, "step"]
    assert row.status == "ok", row.reason
    assert row.pred_mem_mib == pytest.approx(row.peak_mem_mib, rel=0.05)
    assert row.gflop > 0 and row.flop_coverage > 0.99


@pytest.mark.parametrize(
    ("level", "name"),
    [*(("mixer", name) for name in MODELS), *(("block", name) for name in DECODING_BLOCKS)],
)
def test_work_of_a_token_is_known(tmp_path, level, name):
    words = (f"task.level={level}", "task.causal=true", "task.passes=[decode]")
    rows = measured(tmp_path, f"model={name}", *words, "task.lengths=[33]")
    row = rows[33, "decode"]
    if row.status == "unsupported" and level == "mixer":
        assert row.state_mib is None and row.reason
        return
    assert row.status == "ok", row.reason
    assert row.gflop > 0 and row.flop_coverage > 0.99 and row.peak_mem_mib > row.state_mib


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("task.lengths=[]",), "task.lengths is empty"),
        (("task.lengths=[0]",), "at least 1, got 0"),
        (("task.lengths=[1.5]",), "got 1.5"),
        (("task.level=mixr",), "mixer"),
        (("task.passes=[backward]",), "forward_backward"),
        (("task.min_samples=5",), "at most task.max_samples"),
        (("task.batch=0",), "task.batch"),
        (("+task.lenghts=[8]",), "task.lengths"),
        (("backend=sdp",), "sdpa"),
        (("+mixer.windw=3",), "has no knob 'windw'"),
        (("+mixer.windw=3", "task.level=mixer"), "has no knob 'windw'"),
        (("mixer._target_=nowhere.Nothing",), "cannot import 'nowhere'"),
        (("task.vocab=1",), "at least 2"),
        (("checkpoint=x.pt",), "checkpoint has no meaning"),
        (("init=x.pt",), "init has no meaning"),
    ],
)
def test_wrong_input_is_named(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        Runner(configured(tmp_path, "model=transformer", *words)).run()


def test_nothing_that_can_be_done_is_exit_code_2(tmp_path, caplog):
    cfg = presets.compose(*QUICK, f"paths.results={tmp_path}", "model=mega", "task.level=mixer")
    with pytest.raises(CellFailed) as failed:
        main.run(cfg, [])
    assert failed.value.exit_code == 2 and "is a block" in caplog.text


def test_another_recipe_is_another_experiment(tmp_path):
    words = ("model=transformer", "task.lengths=[16]")
    changed = ["recipe.positions=rope", "recipe.dim=16", "limits.time_s=100"]
    config = settings(load(
        presets.compose(*QUICK, f"paths.results={tmp_path}", *words, *changed), changed
    ))  # fmt: skip
    (row, *_) = Runner(config).run().rows
    # sizes have columns of their own
    assert row.variant == "recipe.positions=rope" and row.protocol == "smoke" and row.dim == 16


def test_what_a_killed_pass_leaves_is_not_tried_at_greater_lengths(tmp_path):
    frontier = Frontier()
    row = measured(tmp_path, "model=transformer", "task.lengths=[16]")[16, "step"]
    frontier.note(replace(row, status="error"), killed=False)
    assert not frontier.ends
    frontier.note(replace(row, status="error"), killed=True)
    assert frontier.ends == {"step": (16, "error")}


def test_what_is_remembered_by_tensor_is_not_fast(tmp_path):
    """Each sample has inputs of its own."""
    rows = measured(
        tmp_path, *own("Remembers"), "task.lengths=[64]", "task.passes=[forward]",
        "task.level=mixer", "task.min_samples=3", "task.max_samples=3",
    )  # fmt: skip
    assert rows[64, "forward"].median_ms > 50


def test_knobs_are_on_record(tmp_path):
    words = ("model=local_attention", "mixer.block_size=8", "task.lengths=[16]")
    row = measured(tmp_path, *words)[16, "step"]
    assert json.loads(row.mixer_knobs) == {"block_size": 8}
