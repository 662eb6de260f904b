"""Learning-rate schedules: the factor on the base rate at step s = 1, 2, ...

constant    min(1, s/w)
rsqrt       min(1, s/w) / sqrt(max(s, w))            LRA's listops, text, retrieval
linear      min(1, s/w), then down to 0 at the end   Mega
cosine      min(1, s/w), then half a cosine to 0     LRA's images, S4
one_cycle   1/25 up to 1 at w, down to 1/250,000     torch's OneCycleLR, linear; Nystromformer
"""

import math
from collections.abc import Callable

SCHEDULES = ("constant", "rsqrt", "linear", "cosine", "one_cycle")


def factor(kind: str, *, steps: int, warmup: int, power: int = 1) -> Callable[[int], float]:
    """The factor as a function of the number of finished steps (0 before the first).

    Args:
        kind: one of ``SCHEDULES``.
        steps: steps of the whole run.
        warmup: steps w of the warm-up; 0 for none.
        power: of min(1, s/w) above; ``one_cycle`` has none.
    """

    def warm(step: int) -> float:
        return min(1.0, step / warmup) ** power if warmup else 1.0

    def progress(step: int) -> float:
        return min(1.0, max(0, step - warmup) / max(1, steps - warmup))

    def one_cycle(step: int) -> float:
        # torch counts from 0 and turns at pct_start * steps - 1
        at, turn = step - 1, max(1.0, warmup - 1.0)
        if at <= turn:
            return 1 / 25 + (1 - 1 / 25) * at / turn
        return 1 + (1 / 250_000 - 1) * (at - turn) / max(1.0, steps - 1 - turn)

    formulas: dict[str, Callable[[int], float]] = {
        "constant": warm,
        "rsqrt": lambda step: warm(step) / math.sqrt(max(step, warmup, 1)),
        "linear": lambda step: warm(step) * (1 - progress(step)),
        "cosine": lambda step: warm(step) * 0.5 * (1 + math.cos(math.pi * progress(step))),
        "one_cycle": one_cycle,
    }
    if kind not in formulas:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got '{kind}'")
    formula = formulas[kind]
    return lambda done: formula(done + 1)
