"""For each pair of models: does the difference of accuracy exceed the spread over seeds?"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from lra.results.statistics import Difference, compare, rank_stability
from plots.entries import TASK_TITLES, Entry, Group
from plots.tables import MISSING, Table, write_tables

SIGNS = {"resolved": ("+", "−"), "not resolved": ("=", "="), "n too small": ("?", "?")}
CSV_COLUMNS = (
    "device", "protocol", "task", "model_a", "model_b", "seeds_a", "seeds_b", "test_acc_difference",
    "low", "high", "p_value", "verdict",
)  # fmt: skip


def write(groups: Sequence[Group], out: Path) -> list[Path]:
    """``pairs_<protocol>`` as .md, .tex and .csv in the folder of each device."""
    written = []
    for group in groups:
        found = {task: differences(group.of_task(task)) for task in group.tasks}
        records = [
            [group.device, group.protocol, task, a.name, b.name, len(a.accuracies),
             len(b.accuracies), d.difference, d.low, d.high, d.p_value, d.verdict]
            for task, pairs in found.items()
            for a, b, d in pairs
        ]  # fmt: skip
        path = group.folder(out) / f"pairs_{group.protocol}"
        tables = [matrix(group, task, pairs) for task, pairs in found.items() if pairs]
        if tables:
            written += write_tables(path, tables, CSV_COLUMNS, records)
    return written


def differences(entries: Sequence[Entry]) -> list[tuple[Entry, Entry, Difference]]:
    """All pairs of models with an accuracy on a task, the better one first."""
    ranked = sorted(
        (entry for entry in entries if entry.accuracy is not None),
        key=lambda e: (-e.accuracy.mean if e.accuracy else 0.0, e.name),
    )
    return [(a, b, compare(a.accuracies, b.accuracies)) for a, b in combinations(ranked, 2)]


def matrix(group: Group, task: str, pairs: Sequence[tuple[Entry, Entry, Difference]]) -> Table:
    """Models by accuracy, each against each; with one seed named only, if others have more."""
    everyone = {entry.name for a, b, _ in pairs for entry in (a, b)}
    pairs = [pair for pair in pairs if pair[2].verdict != "n too small"] or pairs
    ranked = list(dict.fromkeys(entry.name for a, b, _ in pairs for entry in (a, b)))
    accuracy = {entry.name: entry.accuracy for a, b, _ in pairs for entry in (a, b)}
    ranks = rank_stability({e.name: e.accuracies for a, b, _ in pairs for e in (a, b)})
    signs = {}
    for a, b, difference in pairs:
        signs[a.name, b.name], signs[b.name, a.name] = SIGNS[difference.verdict]
    rows = []
    for i, name in enumerate(ranked, start=1):
        mean = accuracy[name]
        assert mean is not None
        cells = [signs.get((name, other), MISSING) for other in ranked]
        rank = ranks[name]
        sure = f"{rank.low}" if rank.low == rank.high else f"{rank.low} to {rank.high}"
        rows.append([f"{i} {name}", f"{100 * mean.mean:.1f} ({mean.n})", *cells, sure])
    resolved = sum(d.verdict == "resolved" for *_, d in pairs)
    title = (
        f"{TASK_TITLES.get(task, task)}, protocol {group.protocol}: which differences exceed the "
        "seed spread"
    )
    notes = [
        f"Row against column: + higher, − lower, = not resolved, ? fewer than two seeds. "
        f"{resolved} of {len(pairs)} pairs are resolved (Welch's t-test over seeds, 5 % for each "
        f"pair alone: about {0.05 * len(pairs):.1f} of {len(pairs)} equal pairs would be).",
        "rank: its 95 % interval when the mean of each model is drawn anew from the t distribution "
        "of its seeds; a single seed has no spread.",
        f"Measured on {group.device}.",
    ]
    if alone := sorted(everyone - set(ranked)):
        notes.insert(1, f"One seed, so no spread: {', '.join(alone)}.")
    header = ["model", "%, seeds", *(str(i) for i in range(1, len(ranked) + 1)), "rank"]
    return Table(title, header, rows, notes)


if __name__ == "__main__":
    from plots.__main__ import main

    raise SystemExit(main("pairs"))
