"""The configuration of ``task=kernels``: what it takes, and every mistake in one line."""

import pytest
import torch

from kernels.dispatch import all_ops
from lra import presets
from lra.errors import UserError
from lra.kernel_bench.config import KernelConfig, load
from lra.kernel_bench.runner import Runner


def loaded(*overrides: str) -> KernelConfig:
    return load(presets.compose("task=kernels", *overrides))


def test_every_op_has_a_config_and_every_config_an_op():
    assert set(presets.names("op")) == set(all_ops())


@pytest.mark.parametrize("op", presets.names("op"))
def test_every_preset_loads(op):
    config = loaded(f"op={op}")
    assert config.op == op and config.backend == "all"
    assert config.lengths["cpu"] and config.dtypes["cuda"]


def test_the_command_line_chooses_the_backend_and_other_tasks_have_auto():
    assert loaded("op=attention", "backend=auto").backend == "auto"
    assert loaded("op=attention", "backend={attention: sdpa}").backend == {"attention": "sdpa"}
    assert presets.compose("task=lengths").backend == presets.compose().backend == "auto"


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
        (
            ["op=attention", "op.lengths=[64,0]"],
            "op.lengths must be a whole number of at least 1, got 0",
        ),
        (["op=attention", "op.lengths=[6.5]"], "at least 1, got 6.5"),
        (["op=attention", "op.dtypes=[]"], "op.dtypes is empty"),
        (["op=attention", "op.dtypes=[float64]"], "unknown dtype in op.dtypes 'float64': did you"),
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
        (["op.variants=[{causl: true}]"], "unknown option in op.variants 'causl': did you"),
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
