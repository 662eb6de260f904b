"""Random ListOps trees, many at once, level by level.

A tree is a digit or ``[OP child ... child ]``. The root is an operator (a single digit is never
kept). Every other node above ``max_depth`` is an operator with probability 1/4, else a digit; an
operator has 2 to ``max_args`` children, uniformly, and is itself uniform.

All trees of a chunk share one array per level; the children of a node are neighbours there, in the
order of their parents::

    level 0      [MAX              [SM             args   3, 2
    level 1      4  [MIN   0       7  5            args   0 2 0, 0 0
    level 2          2 9                           args     0 0

Only the shape (``args``) decides a tree's length, so shapes are drawn first, from the root down,
and digits and operators only for the trees that are kept. Values and lengths are then folded from
the bottom up, token positions from the top down.

Source: Nangia and Bowman 2018, with the settings of Long Range Arena (Tay et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lra.errors import UserError, nearest

GENERATOR = "listops-1"  # goes up whenever the same seed gives other trees

# ids are fixed: 0 padding, 1..10 digits, then operators; 16 is the unknown token of the official
# vocabulary and never occurs; FIRST and LAST are not in it and come after
OPERATORS = {"MIN": 11, "MAX": 12, "MED": 13, "SM": 14, "FIRST": 17, "LAST": 18}
OFFICIAL = ("MIN", "MAX", "MED", "SM")
CLOSE, OFFICIAL_VOCAB, EXTENDED_VOCAB = 15, 17, 19
TOKENS = {
    **{str(digit): digit + 1 for digit in range(10)},
    **{f"[{name}": token for name, token in OPERATORS.items()},
    "]": CLOSE,
}


class Trees(NamedTuple):
    """Trees as one flat array: token ids one after the other, tokens of each tree, its value."""

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


def check_operators(names: Sequence[str]) -> tuple[str, ...]:
    """The operators in the order of their ids: the order in a config must not make other data.

    Raises:
        UserError: there is none, or one is unknown.
    """
    if isinstance(names, str) or not names:
        raise UserError(f"operators={names}: write a list of some of {', '.join(OPERATORS)}")
    for name in names:
        if name not in OPERATORS:
            raise nearest(str(name), OPERATORS, kind="ListOps operator")
    return tuple(name for name in OPERATORS if name in names)


@dataclass(frozen=True)
class TreeLaw:
    """The distribution of trees; both length bounds are strict and count ``[OP``, digits, ``]``.

    Raises:
        UserError: no tree can satisfy it.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000
    operators: tuple[str, ...] = OFFICIAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "operators", check_operators(self.operators))
        if self.max_depth < 2:
            raise UserError(f"max_depth={self.max_depth} leaves single digits: set 2 or more")
        if not 2 <= self.max_args <= 255:
            raise UserError(f"max_args={self.max_args}: set 2 to 255")
        if self.min_length < 0:
            raise UserError(f"min_length={self.min_length}: set 0 or more")
        shortest = max(self.min_length + 1, 4)
        if self.max_length <= shortest:
            raise UserError(
                f"no tree is longer than {self.min_length} and shorter than {self.max_length} "
                f"tokens: set max_length to {shortest + 1} or more"
            )
        if self.longest <= self.min_length:
            raise UserError(
                f"the longest tree of max_depth={self.max_depth}, max_args={self.max_args} has "
                f"{self.longest} tokens: lower min_length={self.min_length} or raise the others"
            )

    @property
    def longest(self) -> int:
        """Tokens of the largest tree, or a number above ``min_length`` where that is enough."""
        length = 1
        for _ in range(self.max_depth - 1):
            length = 2 + self.max_args * length
            if length > self.min_length:
                break
        return length

    @property
    def candidates(self) -> int:
        """Trees begun in one chunk: bounds its memory by about ``2**22`` nodes."""
        return int(np.clip(2**22 // self.max_length, 16, 2**14))


def draw_chunk(law: TreeLaw, seed: int, index: int) -> Trees:
    """The trees of chunk ``index`` that satisfy the law: a function of its arguments alone."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    shapes = _shapes(rng, law)
    nodes: list[_Nodes] = []
    for args in reversed(shapes):
        nodes.append(_label(rng, law, args, nodes[-1] if nodes else None))
    return _write(nodes[::-1])


def _shapes(rng: np.random.Generator, law: TreeLaw) -> list[np.ndarray]:
    """Numbers of children by level (0: digit), of the trees whose length is within the bounds."""
    n = law.candidates
    tree = np.arange(n)
    args = rng.integers(2, law.max_args + 1, n, dtype=np.uint8)
    length = np.ones(n, np.int64)  # every node not yet expanded counts as a digit
    levels = []
    for depth in range(1, law.max_depth + 1):
        levels.append((tree, args))
        op = np.flatnonzero(args)
        length += np.bincount(tree[op], weights=args[op] + 1.0, minlength=n).astype(np.int64)
        # a tree that is too long already is not grown further
        op = op[length[tree[op]] < law.max_length]
        if not op.size:
            break
        tree = np.repeat(tree[op], args[op])
        args = np.zeros(tree.size, np.uint8)
        if depth + 1 < law.max_depth:
            new = np.flatnonzero(rng.integers(0, 4, tree.size, dtype=np.uint8) == 0)
            args[new] = rng.integers(2, law.max_args + 1, new.size, dtype=np.uint8)
    keep = (law.min_length < length) & (length < law.max_length)
    kept = [args[keep[tree]] for tree, args in levels]
    return [args for args in kept if args.size] or kept[:1]


class _Nodes(NamedTuple):
    """One level: of all nodes the token, value and length; of its operators the place in the level,
    the number of children, and the place of the first child in the next level."""

    token: np.ndarray
    value: np.ndarray
    length: np.ndarray
    op: np.ndarray
    args: np.ndarray
    first: np.ndarray


def _label(
    rng: np.random.Generator, law: TreeLaw, args: np.ndarray, below: _Nodes | None
) -> _Nodes:
    """Draws digits and operators of a level; folds the values and lengths of the level below."""
    value = rng.integers(0, 10, args.size, dtype=np.uint8)
    token = value + np.uint8(1)
    length = np.ones(args.size, np.int64)
    op = np.flatnonzero(args)
    args = args[op]
    first = np.cumsum(args, dtype=np.int64) - args
    if below is not None and op.size:
        kind = rng.integers(0, len(law.operators), op.size, dtype=np.uint8)
        token[op] = np.array([OPERATORS[name] for name in law.operators], np.uint8)[kind]
        length[op] = 2 + np.add.reduceat(below.length, first)
        # operators of one kind with equally many children are one matrix
        group = kind.astype(np.int64) * (law.max_args + 1) + args
        order = np.argsort(group, kind="stable")
        names, begin = np.unique(group[order], return_index=True)
        for name, members in zip(names, np.split(order, begin[1:]), strict=True):
            which, n = divmod(int(name), law.max_args + 1)
            children = below.value[first[members] + np.arange(n)[:, None]]
            value[op[members]] = _apply(law.operators[which], children)
    return _Nodes(token, value, length, op, args, first)


def _apply(operator: str, children: np.ndarray) -> np.ndarray:
    """Values of operators from those of their children ``(n, m)``, n children each."""
    match operator:
        case "MIN":
            return children.min(axis=0)
        case "MAX":
            return children.max(axis=0)
        case "SM":
            return children.sum(axis=0) % 10
        case "MED":
            # int(numpy.median): the mean of the two in the middle, rounded down
            ranked = np.sort(children, axis=0)
            n = len(children)
            return (ranked[(n - 1) // 2] + ranked[n // 2]) // 2
        case "FIRST":
            return children[0]
        case _:
            return children[-1]


def _write(levels: list[_Nodes]) -> Trees:
    """Writes each node's token at its place in the flat array, parents before children."""
    root = levels[0]
    tokens = np.empty(int(root.length.sum()), np.uint8)
    place = np.cumsum(root.length) - root.length
    for depth, level in enumerate(levels):
        tokens[place] = level.token
        if not level.op.size:
            break
        begin = place[level.op]
        tokens[begin + level.length[level.op] - 1] = CLOSE
        length = levels[depth + 1].length
        before = np.cumsum(length) - length
        place = before + np.repeat(begin + 1 - before[level.first], level.args)
    return Trees(tokens, root.length.astype(np.int32), root.value)
