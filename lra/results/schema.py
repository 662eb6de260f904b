"""The rows of every result table: one dataclass a table, one field a column, in column order.

Units are in the names. Missing is None (an empty cell): never 0, never averaged in. This module
imports neither torch nor anything of the harness, so that ``plots`` can read results anywhere.
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args

SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "nan", "timeout", "interrupted", "unsupported", "error"]
# wrong: outside the tolerance, not timed
KernelStatus = Literal["ok", "oom", "timeout", "interrupted", "unsupported", "error", "wrong"]
STATUSES: tuple[str, ...] = get_args(Status)
TIERS = ("official", "regenerated", "stand-in")
FAMILIES = (
    "exact", "sparse", "hashed", "low_rank", "linear", "recurrent", "ssm", "conv", "whole_model",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One (model, task, protocol, seed) cell: ``runs.csv``.

    ``steps_per_s`` and ``tokens_per_s`` follow from ``step_ms``, the median of whole training steps
    timed under the device lock; ``train_s`` is the wall time spent in training steps. ``tokens``
    are padded positions of the timed batch. ``data_wait_frac`` is the share of ``train_s`` spent
    waiting for a batch. ``peak_mem_mib`` is measured, ``pred_mem_mib`` predicted without
    allocating. ``val_acc`` belongs to the selected step. ``trivial_acc`` is the best of the trivial
    rules, ``trivial_name``; ``majority_acc`` the most frequent label's.
    """

    cell: str
    model: str
    family: str
    mixer: str
    block: str
    backbone: str
    mixer_knobs: str
    task: str
    tier: str
    length: int
    batch: int
    causal: bool
    protocol: str
    label: str
    seed: int
    status: Status
    reason: str | None = None
    n_params: int | None = None
    steps: int | None = None
    val_acc: float | None = None
    test_acc: float | None = None
    n_test: int | None = None
    chance_acc: float | None = None
    majority_acc: float | None = None
    trivial_acc: float | None = None
    trivial_name: str | None = None
    selection: str | None = None
    train_s: float | None = None
    steps_per_s: float | None = None
    tokens_per_s: float | None = None
    forward_ms: float | None = None
    forward_backward_ms: float | None = None
    step_ms: float | None = None
    step_ms_cv: float | None = None
    data_wait_frac: float | None = None
    peak_mem_mib: float | None = None
    pred_mem_mib: float | None = None
    step_gflop: float | None = None
    flop_coverage: float | None = None
    degenerate: bool | None = None
    backend: str | None = None
    precision: str | None = None
    device: str | None = None
    n_threads: int | None = None
    versions: str | None = None
    git_sha: str | None = None
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class LengthRow:
    """One (model, level, length, pass) measurement: ``lengths.csv``.

    ``level``: ``mixer`` alone, a ``block`` with its feed-forward network, or the whole ``model``.
    ``variant``: what departs from the protocol's recipe and the preset, beside ``mixer_knobs``.
    ``pass``: ``forward`` (inference, no graph), ``forward_backward``, ``step`` (with clipping and
    update), or ``decode`` (one token after ``length`` others, of ``state_mib`` of state).
    ``peak_mem_mib`` is measured with parameters, gradients and inputs in it, ``pred_mem_mib``
    predicted without allocating. ``roofline_frac`` is the time of as many operations in a matrix
    product over the time taken. ``reason`` of an ``ok`` row is what is doubtful about it.
    """

    cell: str
    model: str
    family: str
    level: Literal["mixer", "block", "model"]
    mixer_knobs: str
    protocol: str
    variant: str = ""
    length: int
    batch: int
    causal: bool
    dim: int
    heads: int
    layers: int
    pass_: Literal["forward", "forward_backward", "step", "decode"]
    status: Status
    reason: str | None = None
    n_params: int | None = None
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    cv: float | None = None
    n_samples: int | None = None
    peak_mem_mib: float | None = None
    pred_mem_mib: float | None = None
    gflop: float | None = None
    flop_coverage: float | None = None
    roofline_frac: float | None = None
    state_mib: float | None = None
    degenerate: bool | None = None
    backend: str | None = None
    dtype: str | None = None
    device: str | None = None
    n_threads: int | None = None
    versions: str | None = None
    git_sha: str | None = None
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class KernelRow:
    """One (op, backend, shape, pass) measurement: ``kernels.csv``.

    ``variant`` is what tells a case from others beside causality and window (a decay, a number of
    states). Ops on channels have ``heads`` x ``head_dim`` of them. ``gb_per_s`` counts inputs and
    outputs once, ``tflop_per_s`` what the op cannot do without, or what its eager backend does.
    ``roofline_frac`` is the time of that many operations in a matrix product, or of that many bytes
    in a copy, whichever is longer, over the time taken. ``rel_error`` and ``tolerance`` are of the
    output or gradient furthest from the truth. ``reason`` of an ``ok`` row is what is doubtful
    about it.
    """

    op: str
    backend: str
    batch: int
    heads: int
    length: int
    key_length: int
    head_dim: int
    causal: bool
    window: str | None
    variant: str = ""
    dtype: str
    pass_: str
    status: KernelStatus
    reason: str | None = None
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    cv: float | None = None
    n_samples: int | None = None
    tflop_per_s: float | None = None
    gb_per_s: float | None = None
    roofline_frac: float | None = None
    peak_mem_mib: float | None = None
    rel_error: float | None = None
    tolerance: float | None = None
    device: str | None = None
    n_threads: int | None = None
    versions: str | None = None
    git_sha: str | None = None
    date: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """One model preset, from its card: ``models.csv``."""

    model: str
    family: str
    mixer: str
    title: str
    authors: str
    year: int
    link: str
    time: str
    causal_time: str | None = None
    memory: str
    causality: str
    bidirectional: bool
    recurrent: bool
    cross: bool
    replaces_ffn: bool
    randomised: bool
    length_bound: str | None = None
    ops: str | None = None
    equals: str | None = None
    padding: str | None = None
    deviations: str | None = None
    n_params: int | None = None


@dataclass(frozen=True, kw_only=True)
class ConformanceRow:
    """One (model, check) outcome: ``conformance.csv``; ``source``: digest of the code tested."""

    model: str
    check: str
    status: Literal["pass", "refuses", "not applicable"]
    reason: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class CompileRow:
    """One GPU kernel compiled for one target, without a GPU: ``compile.csv``.

    ``registers`` are those of a thread; ``spill_stores`` and ``spill_loads`` the bytes of the
    instructions that spill and restore them; ``shared_bytes`` of shared memory are a block's.
    ``source``: digest of the files that the kernel is written in.
    """

    op: str
    backend: Literal["triton", "cuda"]
    kernel: str
    config: str
    default: bool
    target: str
    dtype: str
    registers: int | None = None
    spill_stores: int | None = None
    spill_loads: int | None = None
    shared_bytes: int | None = None
    status: Status
    reason: str | None = None
    versions: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published number: ``results/published/*.csv``.

    ``system`` is the model's key where it is the same system, else None; ``name`` is what the
    source calls it. ``value`` is None where ``status`` is ``fail`` (printed as a failure) or
    ``missing``. ``provenance``: ``table seen``, ``secondary copy`` or ``memory``.
    """

    system: str | None
    name: str
    task: str
    metric: str
    value: float | None
    status: Literal["value", "fail", "missing"]
    unit: str
    source: str
    year: int | None
    protocol: str | None
    setting: str | None
    provenance: Literal["table seen", "secondary copy", "derived", "memory"]
    note: str | None = None


TABLES: dict[str, type] = {
    "runs": RunRow,
    "lengths": LengthRow,
    "kernels": KernelRow,
    "models": ModelRow,
    "conformance": ConformanceRow,
    "compile": CompileRow,
    "published": PublishedRow,
}


def columns(row: type) -> list[str]:
    """Column names in order; a trailing underscore avoids a keyword and is dropped (``pass``)."""
    return [field.name.rstrip("_") for field in fields(row)]
