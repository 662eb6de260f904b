"""The compile gate: what it reads off binaries, what is a fault, and that its table is new."""

import json
import os
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kernels.triton_tools import Variant
from lra.cli import main as cli
from lra.compile_gate import cuda_binary, gate, triton_binary
from lra.compile_gate.usage import SHARED_BYTES, Usage, judged
from lra.errors import UserError
from lra.results.csv_io import key, read_csv
from lra.results.schema import CompileRow
from lra.results.source import ROOT

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

# the package has a function of that name
jobs: Any = import_module("lra.compile_gate.jobs")

NAMED: dict[str, Any] = {
    "op": "op", "backend": "triton", "kernel": "kernel", "config": "c", "dtype": "float32",
    "target": "sm_80", "default": True,
}  # fmt: skip
FITS = judged(Usage(32, 0, 0, 1024), **NAMED)


@triton.jit
def square_sum(x_ptr, y_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    x = tl.load(x_ptr + at)
    # every element is needed again after the sum of all
    tl.store(y_ptr + at, x * tl.sum(x * x))


def variant(size: int, warps: int, *, default: bool = True) -> Variant:
    return Variant(
        kernel="square_sum",
        fn=square_sum,
        signature={"x_ptr": "*fp32", "y_ptr": "*fp32", "SIZE": "constexpr"},
        constants={"SIZE": size},
        dtype="float32",
        config=f"size{size}",
        warps=warps,
        stages=2,
        default=default,
    )


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_kernel_that_spills_is_a_fault(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [variant(16384, 1), variant(32768, 1, default=False), variant(256, 4)]
    monkeypatch.setattr(jobs, "variants", lambda op: found)
    monkeypatch.setattr(jobs, "digest", lambda op, backend: "0")
    jobs.names.cache_clear()
    spills, slow, fits = (jobs.Job("op", "triton", target, i).rows()[0] for i in range(3))
    jobs.names.cache_clear()
    assert spills.status == "error" and "spills registers" in (spills.reason or "")
    assert spills.spill_stores and spills.registers and spills.registers >= 32
    assert slow.status == "ok" and "spills registers" in (slow.reason or "")
    assert (fits.status, fits.spill_stores, fits.reason) == ("ok", 0, None)
    assert fits.registers and fits.shared_bytes
    assert gate.faults([spills, slow, fits]) == [spills]


def test_spills_of_amd_are_those_of_vector_registers() -> None:
    said = "    .vgpr_count:     40\n    .vgpr_spill_count: 3\n    .sgpr_spill_count: 9\n"
    assert triton_binary.amd_usage(said, 1024) == Usage(40, 12, None, 1024)


def test_shared_memory_is_that_of_the_target() -> None:
    needs = Usage(32, 0, 0, SHARED_BYTES["sm_89"] + 1)
    assert judged(needs, **NAMED).status == "ok"
    row = judged(needs, **NAMED | {"target": "sm_89"})
    assert row.status == "error"
    assert row.reason == "101377 bytes of shared memory, sm_89 has 101376"
    other = judged(needs, **NAMED | {"target": "sm_89", "default": False})
    assert other.status == "unsupported"


def test_kernel_that_does_not_compile_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    # no block of a size that is no power of two
    monkeypatch.setattr(jobs, "variants", lambda op: [variant(100, 1, default=False)])
    monkeypatch.setattr(jobs, "digest", lambda op, backend: "0")
    jobs.names.cache_clear()
    (row,) = jobs.Job("op", "triton", "sm_90", 0).rows()
    jobs.names.cache_clear()
    assert row.status == "error" and "power of 2" in (row.reason or "")


def test_local_memory_counts_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    sass = "STL [R1], R2 ;\n STL.64 [R1+0x8], R4 ;\n LDL.LU.128 R4, [R1] ;\n LDL.U8 R3, [R1] ;\n"
    said = {"cuobjdump": " REG:255 STACK:24 SHARED:0 LOCAL:0 CONSTANT[0]:384", "nvdisasm": sass}
    monkeypatch.setattr(triton_binary, "_tool", lambda name, *arguments: said[name])
    assert triton_binary.nvidia_usage(b"", 7) == Usage(255, 12, 17, 7)


def test_ptxas_report() -> None:
    report = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4scanI6__halfLi16EEvPKT_Pf' for 'sm_80'
ptxas info    : Function properties for _Z4scanI6__halfLi16EEvPKT_Pf
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 8 bytes cumulative stack size, 2176 bytes smem
ptxas info    : Compiling entry function '_Z5carryPKfb' for 'sm_80'
ptxas info    : Function properties for _Z5carryPKfb
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers, 405 bytes cmem[0]
"""
    assert list(cuda_binary.entries(report)) == [
        cuda_binary.Entry("scan", "16", "float16", Usage(32, 12, 16, 2176)),
        cuda_binary.Entry("carry", "plain", "float32", Usage(30, 0, 0, 0)),
    ]


@pytest.mark.parametrize(
    "mangled,expected",
    [
        ("_Z11cauchy_sumsILb1EEvPK6float2i", ("cauchy_sums", "1", "float32")),
        ("_Z9wkv_tilesI13__nv_bfloat16EvPKf", ("wkv_tiles", "plain", "bfloat16")),
        ("_Z4scanIfLi16ELb0EEvPKT_", ("scan", "16_0", "float32")),
        ("plain_c", ("plain_c", "plain", "float32")),
    ],
)
def test_mangled_names(mangled: str, expected: tuple[str, str, str]) -> None:
    assert cuda_binary.described(mangled) == expected


def test_cuda_source_compiles() -> None:
    job = jobs.Job("vandermonde_kernel", "cuda", "sm_90")
    if jobs.nvcc() is None:
        pytest.skip("nvcc is not installed")
    rows = job.rows()
    assert {row.kernel for row in rows} == {"vandermonde_forward", "vandermonde_backward"}
    assert all(row.status == "ok" and row.registers and row.shared_bytes for row in rows)


def test_without_nvcc_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "nvcc", lambda: None)
    jobs.versions.cache_clear()
    (row,) = jobs.Job("wkv", "cuda", "sm_90").rows()
    jobs.versions.cache_clear()
    assert (row.status, row.reason) == ("unsupported", "nvcc, CUDA's compiler, is not installed")
    assert not gate.faults([row])


def test_unknown_op_and_missing_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no GPU kernel of long_conv: there are those of"):
        jobs.jobs(["wkv", "long_conv"])
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="triton is not installed"):
        jobs.jobs()


# stands for the worker: prints what it was asked for, and dies before the job of a given number
WORKER = """
import json, os, sys
first, every, *ops = sys.argv[1:]
assert "TRITON_INTERPRET" not in os.environ and os.listdir(os.environ["TRITON_CACHE_DIR"]) == []
print("warning: a compiler speaks")
row = json.loads({row!r})
for number in range(int(first), {total}, int(every)):
    if number == {deadly}:
        sys.stderr.write("LLVM ERROR: no such instruction\\n")
        os.abort()
    print("rows:", json.dumps([number, [row | dict(config=str(number))]]), flush=True)
"""


def test_a_compiler_that_crashes_loses_one_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "worker.py"
    row = json.dumps(vars(FITS))
    script.write_text(WORKER.format(row=row, total=7, deadly=3))
    found = [jobs.Job("op", "triton", "sm_80", i) for i in range(7)]
    monkeypatch.setattr(gate, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(gate, "jobs", lambda ops: found)
    monkeypatch.setattr(
        jobs.Job, "named", lambda job: NAMED | {"config": str(job.variant)}, raising=True
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    rows = gate.compile_all()
    assert [row.config for row in rows] == list("0123456")
    (fault,) = gate.faults(rows)
    assert fault.config == "3" and "the compiler crashed" in (fault.reason or "")


@pytest.mark.parametrize("status,code", [("ok", 0), ("unsupported", 0), ("error", 1)])
def test_command_fails_at_a_fault(
    status: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import lra.compile_gate

    row = replace(FITS, status=status, reason="spills registers (52 bytes)")
    monkeypatch.setattr(lra.compile_gate, "compile_all", lambda ops: [row])
    assert cli.main(["compile", "--results", str(tmp_path)]) == code
    assert ("spills registers (52 bytes)" in capsys.readouterr().out) is (code == 1)
    assert read_csv(gate.committed_path(tmp_path), CompileRow) == [row]


def test_some_ops_leave_the_rows_of_others(tmp_path: Path) -> None:
    other = replace(FITS, op="other")
    gate.update(tmp_path, [FITS, other, replace(FITS, config="old")], [])
    path = gate.update(tmp_path, [FITS], ["op"])
    assert read_csv(path, CompileRow) == [FITS, other]


def committed() -> list[CompileRow]:
    return read_csv(gate.committed_path(ROOT / "results"), CompileRow)


def test_committed_table_is_of_these_kernels() -> None:
    """Exactly the kernels and configurations that there are now: else `python -m lra compile`."""
    rows, now = committed(), jobs.jobs()
    assert sorted(key(r) for r in rows if r.backend == "triton") == sorted(jobs.keys(now))
    cuda = {(row.op, row.target) for row in rows if row.backend == "cuda"}
    assert cuda == {(job.op, job.target) for job in now if job.backend == "cuda"}
    for row in rows:
        assert row.source == jobs.digest(row.op, row.backend), f"{row.op} has changed since"


def test_committed_table_has_no_fault() -> None:
    assert not gate.faults(committed())
    # without nvcc there is no fault either, and nothing known
    for row in committed():
        if row.backend == "cuda":
            assert row.status == "ok" and row.registers, f"{row.op}: compile it where nvcc is"
    assert os.path.getsize(gate.committed_path(ROOT / "results")) < 1_000_000
