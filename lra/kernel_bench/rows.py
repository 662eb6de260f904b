"""Entries of a case as rows of ``kernels.csv``."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lra.kernel_bench.bench import Bench
from lra.kernel_bench.draw import Case
from lra.kernel_bench.entry import Entry
from lra.measurement.roofline import TOO_FAST, ideal_ms
from lra.measurement.timing import OVERHEAD_LIMIT, Summary, timer_overhead_ms
from lra.results.fingerprint import Fingerprint
from lra.results.schema import KernelRow


def rows_of(
    bench: Bench, entries: Sequence[Entry], marks: Fingerprint, tflop_per_s: float | None
) -> list[KernelRow]:
    """A row for each entry.

    Args:
        bench: the case that they come from.
        entries: with samples where they are ``ok``.
        marks: the device and its software.
        tflop_per_s: of the roofline in the case's dtype; None where nothing was timed.
    """
    return [
        KernelRow(
            **_identity(bench, entry), **_measured(entry, tflop_per_s, bench.place.device.type),
            device=marks.device, n_threads=marks.n_threads, versions=marks.versions,
            git_sha=marks.git_sha, date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        for entry in entries
    ]  # fmt: skip


def variant_of(case: Case) -> str:
    """What tells the case from others beside causality and window."""
    known = {k: v for k, v in case.variant.items() if k not in ("causal", "window")}
    return Case(**{**vars(case), "variant": known}).options


def _identity(bench: Bench, entry: Entry) -> dict[str, Any]:
    case = bench.case
    return {
        "op": case.op, "backend": entry.chosen or entry.backend, "batch": case.batch,
        "heads": case.heads, "length": case.length, "key_length": bench.key_length,
        "head_dim": case.head_dim, "causal": bench.causal,
        "window": None if bench.window is None else "{},{}".format(*bench.window),
        "variant": variant_of(case), "dtype": case.dtype, "pass_": entry.pass_,
    }  # fmt: skip


def _measured(entry: Entry, tflop_per_s: float | None, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {"status": entry.status, "reason": entry.reason}
    if entry.closest is not None:
        found |= {"rel_error": entry.closest.rel_error, "tolerance": entry.closest.tolerance}
    if not entry.ok:
        return found
    assert tflop_per_s is not None and entry.copy_ms is not None and entry.moved_bytes is not None
    time, notes = Summary.of(entry.samples), list(entry.notes)
    share = ideal_ms(entry.gflop, tflop_per_s, entry.copy_ms) / time.median
    if share > TOO_FAST:
        notes.append(f"too fast to be true: {share:.2g} x the roofline")
    if device == "cpu" and (own := timer_overhead_ms() / time.median) > OVERHEAD_LIMIT:
        notes.append(f"the timer takes {own:.0%} of it")
    return {
        **found, "reason": "; ".join(notes) or None,
        "median_ms": time.median, "p20_ms": time.p20, "p80_ms": time.p80, "cv": time.cv,
        "n_samples": time.n,
        "tflop_per_s": None if entry.gflop is None else entry.gflop / time.median,
        "gb_per_s": entry.moved_bytes / 1e6 / time.median,
        "roofline_frac": share, "peak_mem_mib": entry.peak_mem_mib,
    }  # fmt: skip
