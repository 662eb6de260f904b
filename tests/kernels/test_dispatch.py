"""One table, one choice, every refusal with its reason."""

import sys
import types

import pytest
import torch

from kernels import compiling, triton_tools
from kernels.dispatch import Op, all_ops, prefer, record
from kernels.errors import Unsupported


@pytest.fixture
def op(monkeypatch):
    """An op of four backends: one absent, one that cannot run here, one that refuses, one plain."""

    def module(name, **functions):
        made = types.ModuleType(name)
        made.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, f"kernels.toy.{name}", made)

    monkeypatch.setitem(sys.modules, "kernels.toy", types.ModuleType("toy"))
    module("needy", run=lambda x, **_: "needy", available=lambda: "needs a GPU")
    module(
        "picky",
        run=lambda x, **_: "picky",
        supports=lambda x, *, n: None if n < 3 else f"n={n} is above 2",
    )
    module("eager", run=lambda x, *, n: f"eager {n}")
    return Op(
        "toy",
        backends=("absent", "needy", "picky", "eager", "compile"),
        auto={"cpu": ("absent", "needy", "picky", "eager"), "cuda": ("picky",)},
    )


X = torch.zeros(1)


def test_auto_takes_the_first_that_can_and_keeps_the_reasons(op):
    assert op("auto", X, n=1) == "picky"
    assert op("auto", X, n=5) == "eager 5"
    choice = op.choose("auto", X, n=5)
    assert choice.backend == "eager" and choice.reason == "first that can on cpu"
    assert choice.rejected.keys() == {"absent", "needy", "picky"}
    assert choice.rejected["needy"] == "needs a GPU"
    assert choice.rejected["picky"] == "n=5 is above 2"
    assert "cannot be imported" in choice.rejected["absent"]
    assert choice.refusals[1:] == [
        "no needy for toy: needs a GPU",
        "no picky for toy: n=5 is above 2",
    ]


def test_an_explicit_backend_never_falls_back(op):
    assert op("picky", X, n=2) == "picky"
    for name, reason in (("picky", "n=3 is above 2"), ("needy", "needs a GPU")):
        with pytest.raises(Unsupported, match=f"backend '{name}' cannot do this: {reason}"):
            op(name, X, n=3)
    with pytest.raises(Unsupported, match="'absent' cannot do this: cannot be imported"):
        op("absent", X, n=3)


def test_an_unknown_backend_gets_the_nearest_name(op):
    with pytest.raises(Unsupported, match="no backend 'eagre': did you mean 'eager'"):
        op("eagre", X, n=1)


def test_nothing_can(op):
    op.auto = {"cpu": ("needy", "picky")}
    with pytest.raises(Unsupported, match=r"no backend on cpu .*needy: needs a GPU; picky: n=9"):
        op("auto", X, n=9)


def test_another_device_uses_the_row_of_the_cpu(op):
    assert op.choose("auto", torch.zeros(1, device="meta"), n=5).backend == "eager"


def test_prefer_changes_what_auto_means_and_only_inside(op):
    with prefer("eager"):
        assert op("auto", X, n=1) == "eager 1"
        assert op("picky", X, n=1) == "picky"
        with prefer({"toy": "picky"}):
            assert op("auto", X, n=1) == "picky"
        with prefer({"other": "eager"}):
            assert op("auto", X, n=1) == "picky"
    with prefer("picky"), pytest.raises(Unsupported, match="n=7"):
        op("auto", X, n=7)
    assert op("auto", X, n=1) == "picky"


def test_record_keeps_the_last_choice_of_each_op_and_all_that_differ(op):
    with record() as log:
        for n in (1, 5, 1, 5):
            op("auto", X, n=n)
        op("eager", X, n=1)
    assert log["toy"].backend == "eager" and log["toy"].reason == "asked for"
    assert [(choice.backend, len(choice.rejected)) for choice in log.all] == [
        ("picky", 2), ("eager", 3), ("eager", 0),
    ]  # fmt: skip
    op("auto", X, n=1)
    assert log["toy"].backend == "eager" and len(log.all) == 3


def test_compile_is_the_compiled_eager(op, monkeypatch):
    monkeypatch.setattr(
        compiling.torch,
        "compile",
        lambda run, **_: lambda *args, **kw: f"compiled {run(*args, **kw)}",
    )
    assert op("compile", X, n=4) == "compiled eager 4"


@pytest.fixture
def asked_afresh():
    """What works here is asked again, now and after the test."""
    Op.why_not_here.cache_clear()
    yield
    Op.why_not_here.cache_clear()


def test_one_cause_has_one_reason(asked_afresh, monkeypatch):
    monkeypatch.setattr(triton_tools, "find_spec", lambda name: None)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    for backend, reason in (
        ("triton", "triton is not installed (extra `gpu`)"),
        ("compile", "torch.compile needs a C++ compiler (g++, or what CXX names)"),
    ):
        ops = [op for op in all_ops().values() if backend in op.backends]
        assert len(ops) > 9 and {op.why_not_here(backend) for op in ops} == {reason}
    assert all_ops()["attention"].why_not_here("flex") == reason


def test_all_ops_finds_the_packages():
    ops = all_ops()
    assert {"attention", "iterative_pinv"} <= ops.keys()
    for name, found in ops.items():
        assert found.name == name
        assert {"reference", "eager"} <= set(found.backends)
        for row in found.auto.values():
            assert set(row) <= set(found.backends)
        assert found.why_not_here("eager") is None
        assert found.why_not_here("reference") is None
