"""Rows of ``kernels.csv`` to curves: one curve is one backend of an op against the length."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lra.results.schema import KernelRow

PASSES = {"forward": "forward", "forward_backward": "forward + backward"}


@dataclass(frozen=True, order=True)
class Setting:
    """What times can be compared in: an op, its options, dtype and sizes, but for the length."""

    op: str
    dtype: str
    batch: int
    heads: int
    head_dim: int
    options: str
    pass_: str

    @property
    def figure(self) -> tuple[str, str, int, int, int]:
        """Settings that agree in this share a figure."""
        return (self.op, self.dtype, self.batch, self.heads, self.head_dim)

    @property
    def sizes(self) -> str:
        return f"batch {self.batch}, heads {self.heads}, head width {self.head_dim}"


@dataclass(frozen=True)
class Curve:
    """A backend's rows in one setting on one device, by length."""

    backend: str
    rows: tuple[KernelRow, ...]

    @property
    def timed(self) -> list[KernelRow]:
        return [row for row in self.rows if row.status == "ok" and row.median_ms]

    @property
    def failures(self) -> dict[str, list[KernelRow]]:
        """Rows without a time, by status."""
        found: dict[str, list[KernelRow]] = defaultdict(list)
        for row in self.rows:
            if row not in self.timed:
                found[row.status].append(row)
        return dict(found)


def setting(row: KernelRow) -> Setting:
    """The setting of a row; what is false is not said."""
    options = [
        "causal" if row.causal else "", f"window={row.window}" if row.window else "", row.variant,
        f"keys={row.key_length}" if row.key_length != row.length else "",
    ]  # fmt: skip
    return Setting(
        row.op, row.dtype, row.batch, row.heads, row.head_dim,
        " ".join(filter(None, options)), row.pass_,
    )  # fmt: skip


def curves(rows: Iterable[KernelRow]) -> dict[Setting, list[Curve]]:
    """The curves of one device by setting, sorted; backends in the order of the rows' names."""
    found: dict[Setting, dict[str, list[KernelRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[setting(row)][row.backend].append(row)
    return {
        key: [
            Curve(backend, tuple(sorted(of_backend, key=lambda row: row.length)))
            for backend, of_backend in sorted(found[key].items())
        ]
        for key in sorted(found)
    }


def figures(settings: Iterable[Setting]) -> dict[str, list[Setting]]:
    """Settings that share a figure, by its name: op, dtype and sizes."""
    groups: dict[tuple[str, str, int, int, int], list[Setting]] = defaultdict(list)
    for key in settings:
        groups[key.figure].append(key)
    return {
        f"{op}_{dtype}_b{batch}h{heads}d{head_dim}": members
        for (op, dtype, batch, heads, head_dim), members in groups.items()
    }


def at_lengths(lengths: Sequence[int]) -> str:
    """Lengths in words: one, or the shortest and the longest."""
    return f"N={lengths[0]}" if len(lengths) == 1 else f"N={lengths[0]} to {lengths[-1]}"
