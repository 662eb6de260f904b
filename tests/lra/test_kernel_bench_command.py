"""``task=kernels`` as a user gives it: every op, the table, exit codes, one line for a mistake."""

import json
import math
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from lra import presets
from lra.errors import CellFailed
from lra.kernel_bench import main, report
from lra.kernel_bench.config import load
from lra.kernel_bench.runner import Runner
from lra.results.collect import read_rows
from lra.results.fingerprint import fingerprint
from lra.results.schema import KernelRow
from tests.lra.toy_op import ends


@pytest.mark.parametrize("op", presets.names("op"))
def test_every_op_is_right_and_timed_at_a_small_length(op, tmp_path):
    config = load(presets.compose(
        "task=kernels", f"op={op}", "op.lengths=[16]", "op.batch=1", "op.head_dim=8",
        "op.dtypes=[float32]", "backend=[reference,eager]", "device=cpu", "task.budget_s=0.001",
        "task.min_samples=2", f"paths.results={tmp_path}",
    ))  # fmt: skip
    outcome = Runner(config).run()
    bad = [row for row in ends(outcome).values() if row.status != "ok"]
    assert not bad, [(row.backend, row.pass_, row.reason) for row in bad]
    assert len(outcome.cases) == len(config.variants)
    for row in ends(outcome).values():
        assert math.isfinite(row.gb_per_s) and row.peak_mem_mib > 0


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


def test_the_command_from_rows_to_exit_code(fork, tmp_path):
    def run(*more: str):
        return fork("task=kernels", f"paths.results={tmp_path}", "task.budget_s=0.01", *more)

    small = ("op=iterative_pinv", "op.lengths=[8,16]", "backend=[reference,eager]", "device=cpu")
    first = run(*small)
    assert first.code == 0, first.err
    here = fingerprint("cpu").device
    assert f"(reference, eager) on {here}: 2 cases; 0 are finished already" in first.err
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
