"""``python -m lra doctor``: one screen that says what works here, and why the rest does not."""

import re

import pytest
import torch

from kernels.dispatch import Op, all_ops
from lra.cli.main import main


@pytest.fixture
def said(capsys):
    def run() -> str:
        assert main(["doctor"]) == 0
        return capsys.readouterr().out

    return run


def ops_of(out: str) -> dict[str, str]:
    """The line of each op, whatever it is wrapped into."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("op "))
    found: dict[str, str] = {}
    name = ""
    for line in lines[start + 1 :]:
        if line.startswith("* "):
            break
        name = line.split()[0] if not line.startswith(" ") else name
        found[name] = found.get(name, "") + " " + line
    return found


def test_it_names_machine_and_libraries(said):
    out = said()
    assert f"torch {torch.__version__}" in out and "cores" in out and "GiB free" in out
    for library in ("triton", "flash-attn", "xformers", "fla-core", "mamba-ssm", "causal-conv1d"):
        assert library in out


def test_every_backend_of_every_op_is_there(said):
    found = ops_of(said())
    assert found.keys() == all_ops().keys()
    for op in all_ops().values():
        words = re.sub(r"\[\d+\]|\*", "", found[op.name]).split()[1:]
        assert sorted(words) == sorted(op.backends), op.name
    assert "reference" in found["attention"] and "*" in found["attention"]


def test_reasons_are_numbered_and_said_once(said, monkeypatch):
    monkeypatch.setattr(
        Op, "why_not_here", lambda op, name: None if name == "reference" else f"no [GPU] for {name}"
    )
    out = said()
    found = ops_of(out)
    legend = dict(re.findall(r"^\[(\d+)\] (.*)$", out, flags=re.MULTILINE))
    assert sorted(set(legend.values())) == sorted(legend.values())
    for op in all_ops().values():
        for backend, number in re.findall(r"(\w+)\[(\d+)\]", found[op.name]):
            assert legend[number] == f"no [GPU] for {backend}"


def test_it_fits_a_screen(said, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert len(said().splitlines()) <= 40
