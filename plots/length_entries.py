"""Rows of ``lengths.csv`` to series: one is a system in one pass against the length."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lra.results.schema import FAMILIES, LengthRow
from plots.length_variants import names, variants
from plots.rows import by_device

PASSES = {
    "forward": "forward", "forward_backward": "forward + backward", "step": "training step",
    "decode": "one token more",
}  # fmt: skip
LEVELS = {"mixer": "bare mixer", "block": "one block", "model": "whole model"}
BASELINE = "transformer"
DECODING = "_decode"  # ends the name of its view
Kind = Literal["fused", "naive"]
# the backend of the baseline's attention, by kind
BASELINES: dict[Kind, str] = {"fused": "attention=sdpa", "naive": "attention=reference"}
KIND_OF = {backend: kind for kind, backend in BASELINES.items()}
# kind, pass, causality, what departs from the recipe
Baseline = tuple[Kind, str, bool, str]


@dataclass(frozen=True, order=True)
class Setting:
    """What numbers can be compared in; ``variant`` is what all depart from the recipe in."""

    level: str
    dtype: str
    dim: int
    heads: int
    layers: int
    protocol: str
    batching: str
    variant: str = ""

    @property
    def sizes(self) -> str:
        layers = f", {self.layers} layers" if self.level == "model" else ""
        variant = f", {self.variant}" if self.variant else ""
        return (
            f"protocol {self.protocol}{variant}, {LEVELS.get(self.level, self.level)}, "
            f"{self.dtype}, {self.batching}, width {self.dim}, {self.heads} heads{layers}"
        )


@dataclass(frozen=True)
class Series:
    """A system's rows in one pass, by length, one a length; ``name`` tells variants apart.

    Attributes:
        repeated: lengths of which several rows were there; the newest is kept.
    """

    name: str
    rows: tuple[LengthRow, ...]
    repeated: tuple[int, ...] = ()

    @property
    def first(self) -> LengthRow:
        """Any of the rows, for what they share: model, family, pass, device, causality."""
        return self.rows[0]

    @property
    def timed(self) -> list[LengthRow]:
        return [row for row in self.rows if row.status == "ok" and row.median_ms]


@dataclass(frozen=True)
class View:
    """All series that share a figure, but for the pass.

    Attributes:
        suffix: what its files are called.
        baselines: the transformer; those of other views too.
    """

    device: str
    setting: Setting
    suffix: str
    series: tuple[Series, ...]
    baselines: Mapping[Baseline, Series]

    def of_pass(self, pass_: str) -> list[Series]:
        """Series of one pass, by family and name."""
        return [one for one in self.series if one.first.pass_ == pass_]

    @property
    def passes(self) -> list[str]:
        return [name for name in PASSES if self.of_pass(name)]

    @property
    def causal(self) -> bool:
        """Whether all in it are causal."""
        return all(one.first.causal for one in self.series)

    def baseline(
        self, kind: Kind, pass_: str, causal: bool, variant: str | None = None
    ) -> Series | None:
        """The transformer that looks the same way; else the one that looks the other way.

        Args:
            variant: what departs from the recipe, where the same is preferred; else what departs
                least is.
        """
        found = {key[2:]: one for key, one in self.baselines.items() if key[:2] == (kind, pass_)}
        order = sorted(found, key=lambda key: (key[0] != causal, key[1] != variant, key[1]))
        return found[order[0]] if order else None

    def is_baseline(self, one: Series) -> bool:
        """Whether it is drawn as what the others are compared with."""
        drawn = (self.baseline(kind, one.first.pass_, self.causal) for kind in BASELINES)
        return any(base is not None and base.rows == one.rows for base in drawn)

    @property
    def rows(self) -> list[LengthRow]:
        return [row for one in self.series for row in one.rows]


def views(rows: Iterable[LengthRow]) -> list[View]:
    """What shares a figure, device by device.

    Where some system was measured causal and not, there are two views: one of the causal, one of
    the others, with the systems that can only be causal in both. Decoding has one of its own.
    """
    found = []
    for device, of_device in by_device(rows).items():
        settings = _settings(of_device)
        for setting, members in settings.items():
            baselines = _baselines(series(members))
            for more, seen in _directions(members).items():
                suffix = _suffix(setting) + more
                found.append(View(device, setting, suffix, tuple(series(seen)), baselines))
    return found


def series(rows: Sequence[LengthRow]) -> list[Series]:
    """Rows of one setting as series, by family and name."""
    by_model: dict[str, list[LengthRow]] = defaultdict(list)
    shared = _shared(rows)
    for row in rows:
        by_model[row.model].append(row)
    found = []
    for model, of_model in by_model.items():
        found_variants = variants(of_model)
        for one, differing in zip(found_variants, names(found_variants, shared), strict=True):
            if model == BASELINE:
                differing = [KIND_OF.get(part, part) for part in differing]
            by_pass: dict[str, list[LengthRow]] = defaultdict(list)
            for row in one.rows:
                by_pass[row.pass_].append(row)
            name = " ".join([model, *differing])
            found += [_one(name, of_pass) for of_pass in by_pass.values()]
    return sorted(found, key=lambda one: (FAMILIES.index(one.first.family), one.name))


def _one(name: str, rows: Sequence[LengthRow]) -> Series:
    by_length: dict[int, LengthRow] = {}
    repeated = []
    for row in sorted(rows, key=lambda row: row.date or ""):
        if row.length in by_length:
            repeated.append(row.length)
        by_length[row.length] = row
    return Series(name, tuple(by_length[n] for n in sorted(by_length)), tuple(sorted(repeated)))


def _settings(rows: Sequence[LengthRow]) -> dict[Setting, list[LengthRow]]:
    found: dict[tuple[str, str, int, int, int, str], list[LengthRow]] = defaultdict(list)
    for row in rows:
        dtype = row.dtype or "unknown"
        found[row.level, dtype, row.dim, row.heads, row.layers, row.protocol].append(row)
    return {
        Setting(*sizes, batching, _shared(same)): same for sizes in sorted(found)
        for batching, same in sorted(batchings(found[sizes]).items())
    }  # fmt: skip


def _shared(rows: Sequence[LengthRow]) -> str:
    """What all rows depart from the recipe in."""
    found = {row.variant for row in rows}
    return found.pop() if len(found) == 1 else ""


def batchings(rows: Sequence[LengthRow]) -> dict[str, list[LengthRow]]:
    """Rows by what stays the same from length to length: the batch, or the tokens of a batch."""
    lengths: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        lengths[row.batch].add(row.length)
    tokens = max((row.batch * row.length for row in rows if row.batch > 1), default=0)
    if len(lengths) > 1 and all(row.batch == max(1, tokens // row.length) for row in rows):
        return {f"{tokens:,} tokens": list(rows)}
    curves = {batch for batch, several in lengths.items() if len(several) > 1}
    rest = [row for row in rows if row.batch not in curves]
    # both kinds of sweep: batches of a single length belong to that of constant tokens
    found = batchings(rest) if curves and rest else {}
    for batch in sorted(curves if curves else lengths):
        found[f"batch {batch}"] = [row for row in rows if row.batch == batch]
    return found


def _suffix(setting: Setting) -> str:
    """All that tells settings apart, so that a file keeps its name when a pack gains others."""
    batching = setting.batching.replace("batch ", "b").replace(" tokens", "t").replace(",", "")
    sizes = f"{batching}d{setting.dim}h{setting.heads}l{setting.layers}"
    return f"{setting.level}_{setting.dtype}_{setting.protocol}_{sizes}"


def _directions(rows: list[LengthRow]) -> dict[str, list[LengthRow]]:
    """Rows by suffix of their view."""
    decoding = [row for row in rows if row.pass_ == "decode"]
    rows = [row for row in rows if row.pass_ != "decode"]
    causal, others = ({r.model for r in rows if r.causal == value} for value in (True, False))
    found = {"": rows}
    if causal & others:
        found = {
            "": [row for row in rows if not row.causal or row.model not in others],
            "_causal": [row for row in rows if row.causal],
        }
    return {more: of for more, of in {**found, DECODING: decoding}.items() if of}


def kind_of(row: LengthRow) -> Kind | None:
    """The transformer's attention at this length; None of other systems and backends."""
    ops = (row.backend or "").split(",") if row.model == BASELINE else []
    return next((kind for kind, backend in BASELINES.items() if backend in ops), None)


def _baselines(found: Iterable[Series]) -> dict[Baseline, Series]:
    """The transformer in each pass; of several with that backend the one of most lengths."""
    best: dict[Baseline, Series] = {}
    for one in found:
        first = one.first
        for kind in {kind for row in one.rows if (kind := kind_of(row)) is not None}:
            key = (kind, first.pass_, first.causal, first.variant)
            if key not in best or len(best[key].timed) < len(one.timed):
                best[key] = one
    return best
