"""What stands below a figure against length: what it does not show, and what to know of it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from lra.results.schema import LengthRow
from plots.length_entries import Series, View
from plots.length_panels import short
from plots.rows import threads

ENDS = {"oom": "Out of memory", "timeout": "Over the time limit", "nan": "Not a number",
        "error": "Failed", "unsupported": "Not supported"}  # fmt: skip


def conditions(view: View, said: str) -> str:
    """Device, threads, sizes, number of samples: what a number needs to be one."""
    return f"{view.device}; {threads(view.rows)}; {view.setting.sizes}; {said}"


def samples(shown: Iterable[Series]) -> str:
    """Numbers of samples in words."""
    return counts(row for one in shown for row in one.timed)


def counts(rows: Iterable[LengthRow]) -> str:
    """The same of single rows."""
    found = sorted(row.n_samples for row in rows if row.n_samples)
    if not found:
        return "n unknown"
    return f"n = {' to '.join(dict.fromkeys(map(str, (found[0], found[-1]))))}"


def notes(
    view: View,
    shown: Sequence[Series],
    drawn: Callable[[LengthRow], object],
    doubt: Callable[[LengthRow], str | None],
) -> list[str]:
    """Failed and missing lengths by model, what was not tracked or is doubtful or dense, and which
    systems are causal.

    Args:
        drawn: what is drawn of a row as measured, or None.
        doubt: why a row is not drawn although it did not fail, or not to be trusted.
    """
    axis = sorted({row.length for one in shown for row in one.rows})
    failed: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    doubts, untracked = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for one in shown:
        for row in one.rows:
            if row.status != "ok" and drawn(row) is None:
                failed[row.status][one.name].append(row.length)
            elif reason := doubt(row):
                doubts[one.name].append(f"N={short(row.length)} {reason}")
            elif drawn(row) is None:
                untracked[one.name].append(f"N={short(row.length)} {_why(row)}".strip())
    listed: dict[str, Mapping[str, Sequence[int]]] = {
        **{ENDS.get(status, status): failed[status]
           for status in (*ENDS, *sorted(set(failed) - set(ENDS)))},
        "Not measured": _missing(shown),
        "Dense softmax attention": {
            o.name: [r.length for r in o.rows if r.degenerate] for o in shown
        },
        "Measured more than once, the newest is shown": {o.name: o.repeated for o in shown},
    }  # fmt: skip
    said = [(what, _listed(lengths, axis)) for what, lengths in listed.items()]
    said += [("Not tracked", _reasons(untracked)), ("Doubtful", _reasons(doubts))]
    return [*(f"{what}: {text}." for what, text in said if text), *_causal(view, shown)]


def _why(row: LengthRow) -> str:
    """Why an ``ok`` row has no memory or operations, as far as it says so."""
    parts = (part.partition(": ") for part in (row.reason or "").split("; "))
    return next((why for what, _, why in parts if what.startswith("no memory")), "")


def _listed(lengths: Mapping[str, Sequence[int]], axis: Sequence[int]) -> str:
    """``performer N=8K/16K``; of neighbours on the axis the shortest and the longest."""
    return ", ".join(
        f"{name.replace('_', ' ')} N={_span(of_name, axis)}"
        for name, of_name in lengths.items() if of_name
    )  # fmt: skip


def _span(lengths: Sequence[int], axis: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for n in sorted(set(lengths)):
        if runs and axis.index(n) == axis.index(runs[-1][-1]) + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return "/".join(
        f"{short(run[0])} to {short(run[-1])}" if len(run) > 2 else "/".join(map(short, run))
        for run in runs
    )


def _reasons(of: Mapping[str, Sequence[str]]) -> str:
    """``performer (N=1K why, and 3 more)``, by model."""
    return "; ".join(f"{name.replace('_', ' ')} ({_few(said)})" for name, said in of.items())


def _few(reasons: Sequence[str]) -> str:
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return reasons[0] + more


def _missing(shown: Sequence[Series]) -> dict[str, list[int]]:
    """Lengths that at least half of the series have and one lacks."""
    count: dict[int, int] = defaultdict(int)
    for one in shown:
        for row in one.rows:
            count[row.length] += 1
    common = [n for n in sorted(count) if 2 * count[n] >= len(shown)]
    found = {}
    for one in shown:
        lacking = [n for n in common if n not in {row.length for row in one.rows}]
        if lacking:
            found[one.name] = lacking
    return found


def _causal(view: View, shown: Sequence[Series]) -> list[str]:
    """Which systems are causal, where the others are not."""
    causal = [one.name.replace("_", " ") for one in shown if one.first.causal]
    if not causal:
        return []
    if view.causal:
        return ["All systems are causal."]
    transformer = view.baseline("fused", shown[0].first.pass_, False)
    others = "the transformer's lines are" if transformer else "the others are"
    said = f"; {others} not" if not (transformer and transformer.first.causal) else ""
    return [f"Causal systems{said}: {', '.join(dict.fromkeys(causal))}."]
