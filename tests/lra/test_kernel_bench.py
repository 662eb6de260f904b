"""``task=kernels``: right before fast, every end has a row, finished cases are kept, mistakes are
one line."""

import importlib
import json
import math
import signal
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

import kernels
from kernels.dispatch import all_ops
from kernels.tolerance import Closeness
from lra import presets, sweep
from lra.config import Limits
from lra.errors import CellFailed, UserError
from lra.kernel_bench import main, report, rows
from lra.kernel_bench.bench import Frontier
from lra.kernel_bench.call import Call, Truth
from lra.kernel_bench.config import KernelConfig, load
from lra.kernel_bench.draw import Case, Draw, Inputs
from lra.kernel_bench.entry import Entry
from lra.kernel_bench.inputs.attention import visible
from lra.kernel_bench.runner import Runner
from lra.measurement.attempt import CallTooLong, DeviceLost, Wrong, at_most
from lra.measurement.lock import DeviceLock
from lra.measurement.roofline import Roofline, ideal_ms
from lra.results.collect import publish, read_rows
from lra.results.csv_io import read_csv
from lra.results.schema import KernelRow
from lra.results.store import Store

# -- configuration -----------------------------------------------------------------------------


def loaded(*overrides: str) -> KernelConfig:
    return load(presets.compose("task=kernels", *overrides))


def test_every_op_has_a_config_and_every_config_an_op():
    assert set(presets.names("op")) == set(all_ops())


@pytest.mark.parametrize("op", presets.names("op"))
def test_every_preset_loads_and_its_variants_fit(op):
    config = loaded(f"op={op}")
    assert config.op == op and config.backend == "auto"
    assert config.lengths["cpu"] and config.dtypes["cuda"]
    # makes the inputs of every variant
    Runner(config)


def test_lists_and_single_values():
    config = loaded("op=attention", "op.lengths=[512,64,512]", "op.dtypes=float16", "backend=all")
    assert config.lengths == {"cpu": [64, 512], "cuda": [64, 512]}
    assert config.dtypes["cpu"] == ["float16"]
    assert loaded("op=attention", "op.lengths=64").lengths["cpu"] == [64]
    assert loaded("op=attention").lengths["cuda"][-1] == 65536
    assert loaded("op=attention", "task.lengths.cpu=[8]").lengths["cpu"] == [8]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "task=kernels needs an op: op=attention"),
        (["op=attnetion"], "unknown op 'attnetion': did you mean 'attention'?"),
        (["op=attention", "op.lengths=[]"], "op.lengths is empty"),
        (["op=attention", "op.lengths=[0]"], "op.lengths must be a whole number of at least 1"),
        (["op=attention", "op.lengths=[64,-1]"], "at least 1, got -1"),
        (["op=attention", "op.lengths=[6.5]"], "at least 1, got 6.5"),
        (["op=attention", "op.dtypes=[]"], "op.dtypes is empty"),
        (["op=attention", "op.dtypes=[float31]"], "unknown dtype in op.dtypes 'float31': did you"),
        (["op=attention", "op.dtypes=[float64]"], "unknown dtype in op.dtypes 'float64'"),
        (["op=attention", "op.batch=0"], "op.batch must be a whole number of at least 1, got 0"),
        (["op=attention", "op.variants=[]"], "op.variants is empty"),
        (["op=attention", "op.variants=[causal]"], "op.variants must be a list of {option: value}"),
        (["op=attention", "op.lenths=[4]"], "unknown key 'op.lenths': did you mean 'op.lengths'?"),
        (["op=attention", "task.passes=[backward]"], "unknown pass in task.passes 'backward'"),
        (["op=attention", "task.budget_s=0"], "task.budget_s must be more than 0"),
        (["op=attention", "task.min_samples=9", "task.max_samples=3"], "at most task.max_samples"),
        (["op=attention", "device=gpu"], "unknown device 'gpu'"),
        (["op=attention", "rerun=2"], "rerun must be true or false"),
        (["op=attention", "backend=3"], "backend must be auto, all, a name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_values_are_said_before_torch_is_asked(overrides, said):
    with pytest.raises(UserError) as caught:
        loaded(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backend=eagr"], "unknown backend 'eagr': did you mean 'eager'?"),
        (["backend={atention: eager}"], "unknown op in backend 'atention': did you mean 'att"),
        (
            ["op.variants=[{causl: true}]"],
            "unknown option in op.variants 'causl': did you",
        ),
        (["op.variants=[{window: 3}]"], "op.variants: window must be [left, right], got 3"),
        (["op._target_=lra.nothing.here"], "cannot find op._target_ 'lra.nothing.here'"),
    ],
    ids=str,
)
def test_wrong_names_are_said_before_anything_runs(overrides, said):
    with pytest.raises(UserError) as caught:
        Runner(loaded("op=attention", "device=cpu", *overrides))
    assert said in str(caught.value)


def test_a_gpu_that_is_not_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch sees no GPU here"):
        Runner(loaded("op=attention", "device=cuda"))


# -- a toy op whose backends do all that can go wrong --------------------------------------------

RIGHT = "def run(x): return x.cumsum(1)"
BACKENDS = {
    "reference": RIGHT,
    "eager": RIGHT,
    "wrong": "def run(x): return 1.01 * x.cumsum(1)",
    "backward": """
        import torch
        class F(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.cumsum(1)
            @staticmethod
            def backward(ctx, g): return 2 * g.flip(1).cumsum(1).flip(1)
        def run(x): return F.apply(x)
        """,
    "caching": """
        kept = []
        def run(x):
            y = x.cumsum(1)
            kept.append(y) if not kept else None
            return y if y.requires_grad else kept[0].detach()
        """,
    "refusing": f"def supports(x): return 'no [even] N' if x.shape[1] % 2 == 0 else None\n{RIGHT}",
    "needy": f"def available(): return 'it needs a GPU'\n{RIGHT}",
    "hungry": "def run(x): raise MemoryError('too large') if x.shape[1] > 4 else x.cumsum(1)",
    "raising": "def run(x): raise KeyError('lost')",
    "slow": "import time\ndef run(x): time.sleep(0.12); return x.cumsum(1)",
    "late": """
        calls = [0]
        def run(x):
            calls[0] += 1
            if calls[0] > 6: raise RuntimeError('worn out')
            return x.cumsum(1)
        """,
}
BACKENDS["hungry"] = """
    def run(x):
        if x.shape[1] > 4: raise MemoryError('too large')
        return x.cumsum(1)
    """
INIT = """
    from kernels.dispatch import Op
    OP = Op("toy", backends={backends}, auto={{"cpu": ("eager",)}})
    def toy(x, *, backend="auto"): return OP(backend, x)
    """
MAKER = """
    from lra.kernel_bench.draw import Draw, Inputs
    def toy(draw: Draw, *, causal: bool = True) -> Inputs:
        case = draw.case
        return Inputs(tensors={"x": draw.normal(case.batch, case.length)}, causal=causal)
    """


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Makes the op ``toy`` of these backends, and gives a configuration that times it."""

    def make(*names: str, **changes) -> KernelConfig:
        folder = tmp_path / "kernels" / "toy"
        folder.mkdir(parents=True, exist_ok=True)
        init = textwrap.dedent(INIT).format(backends=(*BACKENDS, "compile"))
        (folder / "__init__.py").write_text(init)
        for name, code in BACKENDS.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(code))
        (tmp_path / "toy_inputs.py").write_text(textwrap.dedent(MAKER))
        config = KernelConfig(
            op="toy", target="toy_inputs.toy", variants=[{"causal": True}], batch=2, heads=1,
            head_dim=1, lengths={"cpu": [4, 8]}, dtypes={"cpu": ["float32"]},
            passes=["forward", "forward_backward"], reference_longest=1024, budget_s=0.01,
            min_samples=5, max_samples=10, limit_s=0.1, backend=list(names), device="cpu",
            rerun=False, limits=Limits(), results=tmp_path / "results",
        )  # fmt: skip
        return replace(config, **changes)

    monkeypatch.setattr(Roofline, "tflop_per_s", lambda self, dtype: 1e-3)
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path / "kernels")])
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield make
    for name in [name for name in sys.modules if name.startswith(("kernels.toy", "toy_inputs"))]:
        del sys.modules[name]
    vars(kernels).pop("toy", None)


def _entry(**facts) -> Entry:
    return Entry(backend="eager", pass_="forward", **facts)


def ends(outcome) -> dict[tuple[str, int, str], KernelRow]:
    return {
        (row.backend, row.length, row.pass_): row
        for _, finished in outcome.cases
        for row in finished.rows
    }


def test_what_is_right_is_timed_in_every_column(toy):
    outcome = Runner(toy("reference", "eager")).run()
    found = ends(outcome)
    assert len(found) == 8 and outcome.statuses == {"ok"} and outcome.n_new == 2
    row = found["eager", 8, "forward_backward"]
    assert (row.op, row.batch, row.heads, row.head_dim, row.key_length) == ("toy", 2, 1, 1, 8)
    assert (row.causal, row.window, row.variant, row.dtype) == (True, None, "", "float32")
    assert row.p20_ms <= row.median_ms <= row.p80_ms and row.n_samples >= 5 and row.cv >= 0
    assert 0 <= row.rel_error <= row.tolerance < 1e-5
    # inputs, output, cotangent and gradient of 2 x 8 floats
    assert row.gb_per_s == pytest.approx(4 * 2 * 8 * 4 / 1e6 / row.median_ms)
    assert found["eager", 8, "forward"].gb_per_s == pytest.approx(
        2 * 2 * 8 * 4 / 1e6 / found["eager", 8, "forward"].median_ms
    )
    # running sums have a FLOP formula
    assert row.tflop_per_s > 0 and row.roofline_frac > 0
    assert row.peak_mem_mib >= 3 * 2 * 8 * 4 / 2**20
    assert row.n_threads == torch.get_num_threads() and "torch=" in row.versions and row.date


@pytest.mark.parametrize(
    ("backend", "pass_", "status", "reason"),
    [
        ("wrong", "forward", "wrong", "output: relative error 0.01"),
        ("backward", "forward", "ok", None),
        ("backward", "forward_backward", "wrong", "grad x: relative error 1"),
        ("caching", "forward", "wrong", "it gives the same output for other inputs"),
        ("caching", "forward_backward", "ok", None),
        ("refusing", "forward", "unsupported", "no [even] N"),
        ("needy", "forward", "unsupported", "needy: it needs a GPU"),
        ("raising", "forward", "error", "KeyError: 'lost'"),
        ("slow", "forward", "timeout", "a call takes 0.1 s, more than task.limit_s=0.1"),
        ("late", "forward", "error", "RuntimeError: worn out"),
        ("sdpa", "forward", "unsupported", "there is no backend 'sdpa': it has reference, eager"),
    ],
)
def test_every_end_is_a_row_and_the_others_go_on(toy, backend, pass_, status, reason):
    # one that is right beside it is timed whatever happens
    config = toy(backend, "eager", lengths={"cpu": [4]})
    found = ends(Runner(config).run())
    row = found[backend, 4, pass_]
    assert row.status == status
    if reason is not None:
        assert reason in row.reason
    assert (row.median_ms is None) == (status != "ok")
    assert found["eager", 4, pass_].status == "ok"
    # every row is on record, one file each
    assert {r.status for r in read_rows(config.results / "local", "kernels")} == {
        r.status for r in found.values()
    }


def test_greater_lengths_are_not_tried_where_a_shorter_one_had_no_room(toy):
    found = ends(Runner(toy("hungry", "eager", lengths={"cpu": [4, 8, 16]})).run())
    assert [found["hungry", n, "forward"].status for n in (4, 8, 16)] == ["ok", "oom", "oom"]
    assert found["hungry", 8, "forward"].reason == "MemoryError: too large"
    assert found["hungry", 16, "forward"].reason == "oom at N=8 already"
    assert found["eager", 16, "forward"].status == "ok"


def test_the_reference_is_not_timed_far_but_checks_near(toy):
    config = toy("reference", "eager", reference_longest=4)
    found = ends(Runner(config).run())
    assert found["reference", 4, "forward"].status == "ok"
    far = found["reference", 8, "forward"]
    assert far.status == "unsupported" and far.reason == "the reference is not timed above N=4"
    assert found["eager", 8, "forward"].rel_error is not None


def test_without_a_truth_nothing_is_timed(toy, monkeypatch):
    monkeypatch.setitem(BACKENDS, "reference", BACKENDS["raising"])
    found = ends(Runner(toy("eager", lengths={"cpu": [4]})).run())
    row = found["eager", 4, "forward"]
    assert (row.status, row.median_ms) == ("error", None)
    assert row.reason == "no truth to check against: KeyError: 'lost'"


def test_all_is_what_works_here_and_auto_what_it_takes(toy):
    runner = Runner(toy(backend="all"))
    assert "needy" not in runner.backends and runner.absent == {"needy": "it needs a GPU"}
    assert {"reference", "eager", "compile", "wrong"} <= set(runner.backends)
    (row,) = {
        (row.backend, row.status, (row.reason or "").partition(";")[0])
        for row in ends(Runner(toy(backend="auto", lengths={"cpu": [4]})).run()).values()
    }
    assert row == ("eager", "ok", "auto took it: first choice on cpu")
    assert Runner(toy(backend={"toy": "eager"})).backends == ["eager"]
    assert Runner(toy(backend={"attention": "eager"})).backends == ["auto"]


# -- once, and again -----------------------------------------------------------------------------


def test_finished_cases_are_kept_and_errors_tried_again(toy):
    config = toy("eager", "raising", lengths={"cpu": [4]})
    first = Runner(config).run()
    again = Runner(config).run()
    assert (first.n_new, again.n_new) == (1, 1)
    config = toy("eager", "wrong", "slow", lengths={"cpu": [4]})
    first = Runner(config).run()
    again = Runner(config).run()
    assert (first.n_new, again.n_new) == (1, 0)
    assert ends(again) == ends(first) and again.cases[0][1].samples == first.cases[0][1].samples
    longer = Runner(replace(config, lengths={"cpu": [4, 8]})).run()
    assert longer.n_new == 1
    # what is on record of the shorter one counts for the longer
    assert ends(longer)["slow", 8, "forward"].reason == "timeout at N=4 already"
    assert Runner(replace(config, rerun=True)).run().n_new == 1


def test_a_backend_that_killed_a_process_is_left_out(toy):
    config = toy("eager", "late", lengths={"cpu": [4]})
    runner = Runner(config)
    store = Store(config.results, "kernels_toy", KernelRow)
    store.folder.mkdir(parents=True)
    store.at_work(runner.name_of(runner.cases[0]), "late")
    assert store.died_at()["who"] == "late"
    outcome = runner.run()
    row = ends(outcome)["late", 4, "forward"]
    assert row.status == "error" and row.reason.startswith("it ended the process")
    assert ends(outcome)["eager", 4, "forward"].status == "ok"
    assert store.died_at() is None
    # that is an end: it is not tried again by itself
    assert Runner(config).run().n_new == 0
    assert (
        "worn out" in ends(Runner(replace(config, rerun=True)).run())["late", 4, "forward"].reason
    )


def test_only_a_death_leaves_a_note(toy):
    config = toy("eager")
    store = Store(config.results, "kernels_toy", KernelRow)
    store.folder.mkdir(parents=True)
    for error, left in ((KeyboardInterrupt(), False), (DeviceLost("gone"), True)):
        with pytest.raises(type(error)), store.watching():
            store.at_work("case", "eager")
            raise error
        assert (store.died_at() is not None) == left


def test_a_sweep_starts_again_behind_a_death_and_not_forever(tmp_path, monkeypatch):
    """Each child dies at another backend; the last one at the same as the one before."""
    deaths = ["a", "b", "c", "c", "never"]
    store, orders = Store(tmp_path, "kernels_toy", KernelRow), []
    store.folder.mkdir(parents=True)

    def run(cfg, changed):
        orders.append(cfg.rerun)
        Store(tmp_path, "kernels_toy", KernelRow).at_work("case", deaths[len(orders)])
        return -signal.SIGSEGV, False, ""

    monkeypatch.setattr(sweep, "_run", run)
    cfg = OmegaConf.create(
        {"op": {"name": "toy"}, "paths": {"results": str(tmp_path)}, "rerun": True}
    )
    store.at_work("case", deaths[0])
    assert sweep._go_on(cfg, [], (-signal.SIGSEGV, False, "")) == (-signal.SIGSEGV, False, "")
    assert orders == [False, False, False]
    assert sweep._go_on(cfg, [], (-9, True, "")) == (-9, True, "") and len(orders) == 3


def test_a_time_limit_ends_between_cases(toy):
    config = toy("eager", limits=Limits(time_s=1e-9))
    with pytest.raises(CellFailed) as caught:
        Runner(config).run()
    assert (caught.value.status, caught.value.exit_code) == ("timeout", 1)
    assert Runner(replace(config, limits=Limits())).run().n_new == 2


def test_rows_become_a_pack(toy):
    config = toy("eager", "wrong")
    Runner(config).run()
    (path,) = publish(config.results)
    assert path.name == "kernels.csv"
    found = read_csv(path, KernelRow)
    assert [row.status for row in found].count("ok") == 4 and len(found) == 8


# -- the parts -----------------------------------------------------------------------------------

CASE = Case(op="toy", variant={}, dtype="float32", batch=1, heads=1, length=4, head_dim=2)


def doubled(x, *, by, backend):
    """One backend forgets the second half, one does not pass a gradient on."""
    y = x * by
    if backend == "blind":
        y = torch.where(torch.arange(4) < 2, y, 0)
    return (y.detach() + 0 * x if backend == "stopped" else y), torch.zeros(1)


def test_truth_holds_output_and_gradients():
    inputs = Inputs(tensors={"x": torch.randn(4), "by": torch.tensor(2)})
    call = Call(doubled, inputs)
    truth = Truth(call, "right", grads=True)
    assert inputs.wanted == ["x"] and truth.exact["output"].dtype == torch.float64
    assert isinstance(truth.hold(call.results("right", "forward_backward")), Closeness)
    with pytest.raises(Wrong, match="output"):
        truth.hold(call.results("blind", "forward"))
    truth.hold(call.results("stopped", "forward"))
    with pytest.raises(Wrong, match="grad x"):
        truth.hold(call.results("stopped", "forward_backward"))


def test_inputs_are_the_same_twice_and_another_seed_gives_others():
    drawn = [Draw(CASE, torch.device("cpu"), seed).normal(5) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, (0, 0), (2, 1), (3, 0), (50, 50)])
def test_visible_pairs_are_those_of_the_mask(causal, window):
    relative = torch.arange(9) - torch.arange(9)[:, None]
    mask = torch.ones(9, 9, dtype=torch.bool)
    if causal:
        mask &= relative <= 0
    if window is not None:
        mask &= (relative >= -window[0]) & (relative <= window[1])
    assert visible(9, causal, window) == int(mask.sum())


def test_ideal_time_is_the_longer_of_work_and_copy():
    # 2 GFLOP at 1 TFLOP/s are 2 ms
    assert ideal_ms(2.0, 1.0, 0.5) == 2.0
    assert ideal_ms(2.0, 1.0, 3.0) == 3.0
    assert ideal_ms(None, 1.0, 3.0) == 3.0


@pytest.mark.parametrize(("copy_ms", "share", "flagged"), [(1.0, 0.5, False), (2.1, 1.05, False),
                                                           (4.0, 2.0, True)])  # fmt: skip
def test_too_fast_to_be_true_is_said(copy_ms, share, flagged):
    entry = _entry(samples=[2.0] * 9, copy_ms=copy_ms, moved_bytes=8)
    found = rows._measured(entry, 1.0, "cuda")
    assert found["roofline_frac"] == pytest.approx(share)
    assert (found["reason"] is not None) == flagged
    if flagged:
        assert found["reason"] == "too fast to be true: 2 x the roofline"


def test_a_timer_that_is_not_small_is_said(monkeypatch):
    monkeypatch.setattr(rows, "timer_overhead_ms", lambda: 0.1)
    entry = _entry(samples=[2.0] * 9, copy_ms=1.0, moved_bytes=8)
    assert rows._measured(entry, 1.0, "cpu")["reason"] == "the timer takes 5% of it"
    assert rows._measured(entry, 1.0, "cuda")["reason"] is None


def test_the_roofline_is_that_of_a_product():
    lock = DeviceLock("cpu")
    peak = Roofline(torch.device("cpu"), lock).tflop_per_s(torch.float32)
    # between a slow core and a large machine
    assert 0.005 < peak < 20


def test_a_call_without_end_is_interrupted():
    with pytest.raises(CallTooLong, match=r"longer than 0\.05 s"), at_most(0.05):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_frontier_knows_backend_and_pass():
    frontier = Frontier()
    ended = Entry(backend="a", pass_="forward")
    ended.end("timeout", "slow")
    frontier.note(ended, 8)
    for backend, pass_, length, ok in (
        ("a", "forward", 16, False), ("a", "forward", 8, True), ("a", "forward_backward", 16, True),
        ("b", "forward", 16, True),
    ):  # fmt: skip
        entry = Entry(backend=backend, pass_=pass_)
        frontier.stop(entry, length)
        assert entry.ok == ok


def row_of(backend: str, median_ms: float | None, **changes) -> KernelRow:
    row = KernelRow(
        op="toy", backend=backend, batch=1, heads=1, length=4, key_length=4, head_dim=2,
        causal=True, window=None, dtype="float32", pass_="forward", status="ok",
        median_ms=median_ms,
    )  # fmt: skip
    return replace(row, **changes)


def test_the_fastest_is_marked_and_noise_is_no_difference():
    of_pass = {
        "a": row_of("a", 1.0, roofline_frac=0.25), "b": row_of("b", 1.001), "c": row_of("c", 3.0),
        "d": row_of("d", None, status="oom"),
    }  # fmt: skip
    wobble = [0.9, 1.1, 1.0, 0.95, 1.05, 1.02, 0.98]
    samples = {
        "a forward": wobble, "b forward": [t * 1.001 for t in wobble],
        "c forward": [3 * t for t in wobble],
    }  # fmt: skip
    assert report.compared(of_pass, samples) == {
        "a": "1 * 25%", "b": "1 =", "c": "3 3x", "d": "oom",
    }  # fmt: skip


def test_exit_codes(toy, capsys, monkeypatch):
    def code(*backends: str) -> int:
        config = toy(*backends, lengths={"cpu": [4]})
        monkeypatch.setattr(main, "load", lambda cfg, changed: config)
        try:
            main.run(OmegaConf.create({}), [])
        except CellFailed as failure:
            return failure.exit_code
        return 0

    assert code("eager") == 0
    assert code("eager", "refusing") == 0
    assert code("eager", "slow") == 0
    # asked for, and none of it can be done
    assert code("refusing") == 2
    assert code("eager", "wrong") == 1
    assert code("eager", "raising") == 1
    said = capsys.readouterr().out
    assert "eager" in said and "wrong: wrong: output" in said
    assert "refusing: unsupported: toy: backend 'refusing' cannot do this: no [even] N" in said


# -- every op, and the command as a user gives it ------------------------------------------------


@pytest.mark.parametrize("op", presets.names("op"))
def test_every_op_is_right_and_timed_at_a_small_length(op, tmp_path):
    config = loaded(
        f"op={op}", "op.lengths=[16]", "op.batch=1", "op.head_dim=8", "op.dtypes=[float32]",
        "backend=[reference,eager]", "device=cpu", "task.budget_s=0.001", "task.min_samples=2",
        f"paths.results={tmp_path}",
    )  # fmt: skip
    outcome = Runner(config).run()
    bad = [row for row in ends(outcome).values() if row.status != "ok"]
    assert not bad, [(row.backend, row.pass_, row.reason) for row in bad]
    assert len(outcome.cases) == len(config.variants)
    for row in ends(outcome).values():
        assert math.isfinite(row.gb_per_s) and row.peak_mem_mib > 0


def test_the_command_from_rows_to_exit_code(fork, tmp_path):
    def run(*more: str, **options):
        return fork("task=kernels", f"paths.results={tmp_path}", "task.budget_s=0.01", *more)

    small = ("op=iterative_pinv", "op.lengths=[8,16]", "backend=[reference,eager]", "device=cpu")
    first = run(*small)
    assert first.code == 0, first.err
    assert "(reference, eager) on AMD EPYC 2 cores: 2 cases; 0 are finished already" in first.err
    for text in ("iterative_pinv", "reference", "forward + backward", " *", "rows in"):
        assert text in first.out
    (row,) = [
        json.loads(path.read_text())["row"] for path in tmp_path.glob("local/kernels/*.json")
        if '"length": 16' in path.read_text() and '"eager"' in path.read_text()
        and '"pass": "forward",' in path.read_text()
    ]  # fmt: skip
    assert row["op"] == "iterative_pinv" and row["status"] == "ok"
    again = run(*small)
    assert again.code == 0 and "is finished already (rerun=true runs it again)" in again.out
    for wrong, said in (
        (("op=attention", "backend=tritn"), "error: unknown backend 'tritn': did you mean 'triton"),
        (("op=diagonal_scan", "backend=sdpa"), "error: diagonal_scan: there is no backend 'sdpa'"),
    ):
        ended = run(*wrong)
        assert ended.code == 2
        assert ended.err.splitlines()[-1].startswith(said), ended.err
        assert "Traceback" not in ended.err


def test_an_op_without_its_task_is_one_line(fork, tmp_path):
    ended = fork("op=attention", f"paths.results={tmp_path}")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: op=... belongs to task=kernels: python run.py task=kernels op=..."
    ]


def test_a_sweep_over_ops(command, tmp_path):
    """Children of their own; what an op cannot do is an answer."""
    run = f"{presets.CONF.parent}/run.py"
    ended = command(
        run, "-m", "task=kernels", "op=glob(merge_*)", "backend=sdpa",
        f"paths.results={tmp_path}", "op.lengths=[8]", "device=cpu",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "cell 1 of 1: task=kernels op=merge_attention" in ended.stderr
    found = read_rows(tmp_path / "local", "kernels")
    assert {(row.op, row.length, row.status) for row in found} == {
        ("merge_attention", 8, "unsupported")
    }
