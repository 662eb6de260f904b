"""Compiles every so-many-th job and prints the rows: ``worker FIRST EVERY [OP ...]``.

A process of its own, since a compiler may end it, and since Triton compiles or emulates, but not
both in one process.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

# what else a compiler prints stands on other lines
MARK = "rows: "


def main(arguments: Sequence[str]) -> None:
    from lra.compile_gate.jobs import jobs

    first, every, *ops = arguments
    found = jobs(ops)
    for number in range(int(first), len(found), int(every)):
        rows = [asdict(row) for row in found[number].rows()]
        sys.stdout.write(f"{MARK}{json.dumps([number, rows])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
