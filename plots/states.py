"""The state of each decoder, and how it grows: part of the table against length."""

from collections.abc import Sequence

from lra.results.curves import Curve, Fit, curve, fit
from plots.length_entries import Series, View
from plots.length_notes import conditions, samples
from plots.length_panels import short
from plots.tables import Table, number

KIB_A_MIB = 1024


def state_curve(one: Series) -> Curve:
    """MiB of state a sequence."""
    return curve(
        (row.length, row.state_mib / row.batch, 0.0) for row in one.rows
        if row.state_mib is not None and row.batch
    )  # fmt: skip


def growing(view: View) -> list[tuple[Series, Curve, Fit | None]]:
    """The systems that decode, the size of their states, and how it grows."""
    found = [(one, state_curve(one)) for one in view.of_pass("decode")]
    return [(one, of, fit(of)) for one, of in found if of.lengths]


def state_table(view: View) -> Table:
    """State after the fewest and the most tokens, its growth, and the time of one token more."""
    found = growing(view)
    lengths = sorted({n for _, of, _ in found for n in of.lengths})
    ends = list(dict.fromkeys((lengths[0], lengths[-1])))
    header = ["model", *(f"state, KiB, N={short(n)}" for n in ends), "growth of the state"]
    header += [f"ms a token, N={short(n)}" for n in ends]
    header += [f"MFLOP a token, N={short(ends[-1])}"]
    rows = []
    for one, of, grown in found:
        kib = [of.values[of.lengths.index(n)] * KIB_A_MIB if n in of.lengths else None
               for n in ends]  # fmt: skip
        at = {row.length: row.median_ms for row in one.timed}
        work = next((row.gflop for row in one.timed if row.length == ends[-1]), None)
        power = (
            f"{grown.exponent:.2f} ({grown.low:.2f} to {grown.high:.2f})" if grown else "too few"
        )
        cells = [number(value, 1) for value in kib], [number(at.get(n), 3) for n in ends]
        mflop = None if work is None else work * 1000
        rows.append([one.name, *cells[0], power, *cells[1], number(mflop, 3)])
    notes = [
        f"Measured on {conditions(view, f'medians of {samples(s for s, *_ in found)} tokens')}.",
        "State: keys and values so far, or what stands for them, of one layer and sequence. "
        "Growth: the power of N by least squares in the logarithms over the longer half of the "
        "lengths, and its 95 % interval.",
    ]
    without = [one.name for one in view.of_pass("decode") if one not in [s for s, *_ in found]]
    if without:
        notes.append(f"Without a state: {', '.join(name.replace('_', ' ') for name in without)}.")
    return Table(f"State beside the length N, {view.setting.sizes}", header, rows, notes)


def state_records(view: View) -> Sequence[tuple[Series, list[object]]]:
    """Of each system: quantity, what it is compared with, answer, value, interval, lengths."""
    found: list[tuple[Series, list[object]]] = []
    for one, of, grown in growing(view):
        found += [
            (one, ["state in MiB", None, None, "size", value, None, None, n, n])
            for n, value in zip(of.lengths, of.values, strict=True)
        ]
        ends: list[object] = [None] * 5
        if grown:
            ends = [grown.exponent, grown.low, grown.high, grown.first, grown.last]
        answer = "exponent" if grown else "too few"
        found.append((one, ["exponent of state", None, None, answer, *ends]))
    return found
