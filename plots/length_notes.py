"""What stands below a figure against length: what it does not show, and what to know of it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

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
    counts = sorted(row.n_samples for one in shown for row in one.timed if row.n_samples)
    if not counts:
        return "n unknown"
    return f"n = {' to '.join(dict.fromkeys(map(str, (counts[0], counts[-1]))))}"


def notes(
    view: View,
    shown: Sequence[Series],
    drawn: Callable[[LengthRow], object],
    doubt: Callable[[LengthRow], str | None],
) -> list[str]:
    """Failed and missing lengths by model, what is doubtful, and which systems are causal.

    Args:
        drawn: what is drawn of a row as measured, or None.
        doubt: why a row is not drawn although it did not fail, or not to be trusted.
    """
    failed: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    doubts: dict[str, list[str]] = defaultdict(list)
    for one in shown:
        for row in one.rows:
            if row.status != "ok" and drawn(row) is None:
                failed[row.status][one.name].append(row.length)
            elif reason := doubt(row):
                doubts[one.name].append(f"N={short(row.length)} {reason}")
    found = [
        f"{ENDS.get(status, status)}: {_listed(failed[status])}."
        for status in (*ENDS, *sorted(set(failed) - set(ENDS))) if status in failed
    ]  # fmt: skip
    if missing := _missing(shown):
        found.append(f"Not measured: {_listed(missing)}.")
    if doubts:
        said = "; ".join(
            f"{name.replace('_', ' ')} ({_few(reasons)})" for name, reasons in doubts.items()
        )
        found.append(f"Doubtful: {said}.")
    if repeated := {one.name: one.repeated for one in shown if one.repeated}:
        found.append(f"Measured more than once, the newest is shown: {_listed(repeated)}.")
    return [*found, *_causal(view, shown)]


def _listed(lengths: dict[str, list[int]] | dict[str, tuple[int, ...]]) -> str:
    """``performer N=8K, 16K``; of many lengths the shortest and the longest."""
    return ", ".join(
        f"{name.replace('_', ' ')} N={_span(of_name)}" for name, of_name in lengths.items()
    )


def _span(lengths: Sequence[int]) -> str:
    ends = dict.fromkeys((lengths[0], lengths[-1]))
    return (" to " if len(lengths) > 2 else "/").join(short(n) for n in ends)


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
