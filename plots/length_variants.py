"""What tells systems of one model apart: causality, backends, knobs."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from lra.results.schema import LengthRow


@dataclass
class Variant:
    """Rows of one model that are one system.

    Attributes:
        ops: backend of each op that ran at any of its lengths.
    """

    causal: bool
    knobs: str
    ops: dict[str, str]
    rows: list[LengthRow] = field(default_factory=list)

    def takes(self, rows: Sequence[LengthRow], ops: dict[str, str]) -> bool:
        """Whether these can be the same system: no other backend of any op, no cell twice."""
        cells = {(row.pass_, row.length) for row in self.rows}
        return (
            (self.causal, self.knobs) == (rows[0].causal, rows[0].mixer_knobs)
            and all(self.ops.get(op, backend) == backend for op, backend in ops.items())
            and not any((row.pass_, row.length) in cells for row in rows)
        )


def variants(rows: Sequence[LengthRow]) -> list[Variant]:
    """A model's rows by system.

    A system may need other ops at other lengths: it is one as long as no op changes its backend.
    A cell that never ran knows no backend; it belongs to the one that lacks it, if one does.
    """
    groups: dict[tuple[bool, str, str | None], list[LengthRow]] = defaultdict(list)
    for row in rows:
        groups[row.causal, row.mixer_knobs, row.backend].append(row)
    found: list[Variant] = []
    known = {key: of for key, of in groups.items() if key[2] is not None}
    for (causal, knobs, backend), members in sorted(known.items(), key=lambda item: -len(item[1])):
        ops = _ops(backend)
        mine = next((one for one in found if one.takes(members, ops)), None)
        if mine is None:
            found.append(mine := Variant(causal, knobs, {}))
        mine.ops.update(ops)
        mine.rows += members
    for (causal, knobs, backend), members in groups.items():
        if backend is None:
            unknown = Variant(causal, knobs, {})
            for row in members:
                lacking = [one for one in found if one.takes([row], {})]
                (lacking[0] if len(lacking) == 1 else unknown).rows.append(row)
            if unknown.rows:
                found.append(unknown)
    return found


def names(found: Sequence[Variant]) -> list[list[str]]:
    """For each variant what it has and others have not."""
    named: list[list[str]] = [[] for _ in found]
    ops = sorted({op for one in found for op in one.ops})
    all_knobs = [_knobs(one.knobs) for one in found]
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
    return named


def _ops(backend: str | None) -> dict[str, str]:
    """``attention=sdpa,short_conv=eager`` by op."""
    pairs = (part.partition("=") for part in (backend or "").split(",") if part)
    return {op: name for op, _, name in pairs}


def _knobs(text: str) -> dict[str, object]:
    """Knobs by name; as one text where they are not those of a single mixer."""
    try:
        knobs = json.loads(text)
    except ValueError:
        knobs = None
    return knobs if isinstance(knobs, dict) else {"knobs": text}
