"""What tells systems of one model apart: causality, backends, knobs, changes of the recipe."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lra.results.schema import LengthRow


@dataclass
class Variant:
    """Rows of one model that are one system.

    Attributes:
        variant: what departs from the recipe of the protocol.
        ops: backend of each op that ran at any of its lengths.
    """

    causal: bool
    knobs: str
    variant: str
    ops: dict[str, str]
    rows: list[LengthRow] = field(default_factory=list)

    def takes(self, rows: Sequence[LengthRow], ops: dict[str, str]) -> bool:
        """Whether these can be the same system: no other backend of any op, no cell twice."""
        cells = {(row.pass_, row.length) for row in self.rows}
        return (
            (self.causal, self.knobs, self.variant) == _settings(rows[0])
            and all(self.ops.get(op, backend) == backend for op, backend in ops.items())
            and not any((row.pass_, row.length) in cells for row in rows)
        )


def variants(rows: Sequence[LengthRow]) -> list[Variant]:
    """A model's rows by system.

    A system may need other ops at other lengths: it is one as long as no op changes its backend.
    A cell that never ran knows no backend; it belongs to the one that lacks it, if one does.
    """
    groups: dict[tuple[tuple[bool, str, str], str | None], list[LengthRow]] = defaultdict(list)
    for row in rows:
        groups[_settings(row), row.backend].append(row)
    found: list[Variant] = []
    known = {key: of for key, of in groups.items() if key[1] is not None}
    for (settings, backend), members in sorted(known.items(), key=lambda item: -len(item[1])):
        ops = _ops(backend)
        mine = next((one for one in found if one.takes(members, ops)), None)
        if mine is None:
            found.append(mine := Variant(*settings, {}))
        mine.ops.update(ops)
        mine.rows += members
    for (settings, backend), members in groups.items():
        if backend is None:
            unknown = Variant(*settings, {})
            for row in members:
                lacking = [one for one in found if one.takes([row], {})]
                (lacking[0] if len(lacking) == 1 else unknown).rows.append(row)
            if unknown.rows:
                found.append(unknown)
    return found


def names(found: Sequence[Variant], shared: str) -> list[list[str]]:
    """For each variant what it has and others have not, and what departs from the recipe unless it
    is what everything ``shared`` departs in."""
    named: list[list[str]] = [[] for _ in found]
    ops = sorted({op for one in found for op in one.ops})
    all_knobs = [knobs_of(one.knobs) for one in found]
    knobs = sorted({name for of in all_knobs for name in of})
    for one, mine, words in zip(found, all_knobs, named, strict=True):
        if len({other.causal for other in found}) > 1:
            words.append("causal" if one.causal else "bidirectional")
        words += [
            f"{op}={one.ops[op]}" for op in ops
            if op in one.ops and len({other.ops.get(op) for other in found}) > 1
        ]  # fmt: skip
        if not one.ops and any(other.ops for other in found):
            words.append("unknown backend")
        words += [
            f"{name}={mine.get(name)}" for name in knobs
            if any(of.get(name) != mine.get(name) for of in all_knobs)
        ]  # fmt: skip
        if one.variant != shared:
            words.append(one.variant)
    return named


def _settings(row: LengthRow) -> tuple[bool, str, str]:
    return row.causal, row.mixer_knobs, row.variant


def _ops(backend: str | None) -> dict[str, str]:
    """``attention=sdpa,short_conv=eager`` by op."""
    pairs = (part.partition("=") for part in (backend or "").split(",") if part)
    return {op: name for op, _, name in pairs}


def knobs_of(text: str) -> dict[str, object]:
    """Knobs by name; as one text where they are not those of a single mixer."""
    try:
        knobs = json.loads(text)
    except ValueError:
        knobs = None
    return knobs if isinstance(knobs, dict) else {"knobs": text}
