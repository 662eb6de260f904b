"""What a person sees of a cell: the protocol, then the row beside baselines and literature."""

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lra.config import RunConfig
from lra.results.published import read_published, reference
from lra.results.schema import RunRow
from lra.results.statistics import binomial_interval
from lra.runner import Outcome

console = Console(soft_wrap=True, highlight=False)


def announce(config: RunConfig) -> None:
    """The first line: which protocol, and what it is."""
    protocol = config.protocol
    saved = config.checkpoint
    what = f"model {config.model}" if saved is None else f"saved model {saved}"
    console.print(
        f"protocol [bold]{escape(protocol['name'])}[/]: {escape(protocol['about'])}; "
        f"{escape(what)}, task {config.task['name']}, seed {config.seed}"
    )
    if protocol["name"] in ("laptop", "smoke") and config.device != "cpu":
        import torch

        if torch.cuda.is_available():
            console.print("a GPU is here: protocol=xformer_small is the smallest published setting")


def show(outcome: Outcome, config: RunConfig) -> None:
    """The row beside the trivial baselines and the published number, and the files."""
    row = outcome.row
    if outcome.was_finished:
        console.print(f"cell {row.cell} is finished already (rerun=true runs it again)")
    title = f"{row.model} on {row.task} ({row.tier}), protocol {row.protocol}, {row.label}"
    console.print(accuracy_table(outcome, escape(title)))
    if row.status != "ok":
        console.print(f"status [bold red]{row.status}[/]: {escape(row.reason or '')}")
    if row.step_ms is not None:
        console.print(cost_table(row))
    for path in outcome.files:
        console.print(f"{'see' if outcome.was_finished else 'wrote'} {escape(_short(path))}")


def accuracy_table(outcome: Outcome, title: str) -> Table:
    """Accuracy in %, with where each number comes from."""
    row = outcome.row
    table = Table("", "accuracy %", "what it is", title=title, title_justify="left")
    if row.test_acc is not None and row.n_test:
        low, high = binomial_interval(row.test_acc, row.n_test)
        note = f"test, {row.n_test:,} labels, 95 % interval {100 * low:.1f}-{100 * high:.1f}"
        table.add_row(f"[bold]{row.model}[/]", f"[bold]{100 * row.test_acc:.2f}[/]", note)
    if row.val_acc is not None:
        table.add_row("", f"{100 * row.val_acc:.2f}", f"validation ({row.selection})")
    for name, value in outcome.baselines.items():
        table.add_row(name, f"{100 * value:.2f}", "trivial baseline on the same test split")
    if row.chance_acc is not None:
        table.add_row("chance", f"{100 * row.chance_acc:.2f}", "a guess")
    table.add_row(*_published(row))
    return table


def _published(row: RunRow) -> tuple[str, str, str]:
    results = Path(__file__).resolve().parents[1] / "results"
    found = reference(read_published(results), row.model, row.task)
    if found is None:
        return "published", "-", "no published number for this model and task"
    value = "FAIL" if found.value is None else f"{found.value:.2f}"
    return "published", value, f"{found.source}; another protocol, not comparable with this run"


def cost_table(row: RunRow) -> Table:
    """Speed, memory and work, each with its unit."""
    table = Table("measured", "value", title="cost of a step", title_justify="left")

    def add(name: str, value: float | None, unit: str, digits: int = 4) -> None:
        table.add_row(name, "-" if value is None else f"{value:,.{digits}g} {unit}")

    add("forward", row.forward_ms, "ms")
    add("forward + backward", row.forward_backward_ms, "ms")
    add("training step", row.step_ms, "ms")
    add("steps", row.steps_per_s, "/s")
    add("tokens", row.tokens_per_s, "/s")
    add("waiting for data", None if row.data_wait_frac is None else 100 * row.data_wait_frac, "%")
    add("peak memory", row.peak_mem_mib, "MiB")
    add("peak memory, predicted", row.pred_mem_mib, "MiB")
    add("work of a step", row.step_gflop, "GFLOP")
    table.add_row("parameters", f"{row.n_params:,}")
    add("training took", row.train_s, "s")
    table.add_row("backend", row.backend or "-")
    return table


def _short(path: Path) -> str:
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)
