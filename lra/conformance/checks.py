"""Every check by name, and the examination of a system by all of them.

A check is a function of a ``Subject``: it returns (pass), raises ``Refuses`` (the card says that
the system cannot, and it was seen to refuse), ``NotApplicable`` or AssertionError.
"""

from collections.abc import Callable, Iterable

from kernels.errors import Unsupported
from lra.conformance import (
    basics,
    card,
    complexity,
    direction,
    exactness,
    masks,
    refusals,
    whole,
)
from lra.conformance.outcome import NotApplicable, Outcome, Refuses
from lra.conformance.subject import Subject

Check = Callable[[Subject], None]

CHECKS: dict[str, Check] = {
    "card": card.card,
    "knobs": card.knobs,
    "ops": card.ops,
    "shapes": basics.shapes,
    "gradients": basics.gradients,
    "gradcheck": basics.gradcheck,
    "any_length": basics.any_length,
    "heads": refusals.heads,
    "parameters": basics.parameters,
    "padding": masks.padding,
    "holes": masks.holes,
    "nan_in_padding": masks.nan_in_padding,
    "batch_independence": masks.batch_independence,
    "causality": direction.causality,
    "both_sides": direction.both_sides,
    "mixes": direction.mixes,
    "recurrent": direction.recurrent,
    "segments": direction.segments,
    "rotary": refusals.rotary,
    "alibi": refusals.alibi,
    "cross": refusals.cross,
    "equals": exactness.equals,
    "dense": exactness.dense,
    "reference_matrix": exactness.reference_matrix,
    "time": complexity.time,
    "memory": complexity.memory,
    "bf16": basics.bf16,
    "determinism": basics.determinism,
    "dropout": basics.dropout,
    "state_dict": basics.state_dict,
    "hooks": basics.hooks,
    "model": whole.model,
    "refusals": refusals.refusals,
    "bad_knobs": refusals.bad_knobs,
}


def run(name: str, subject: Subject) -> Outcome:
    """One check as an outcome. A crash inside the system is a failure with its first line."""
    try:
        CHECKS[name](subject)
    except Refuses as answer:
        return Outcome(name, "refuses", str(answer))
    except NotApplicable as answer:
        return Outcome(name, "not applicable", str(answer))
    except AssertionError as failure:
        return Outcome(name, "fail", str(failure).split("\n")[0])
    except Unsupported as answer:
        return Outcome(name, "fail", f"refuses what its card claims: {answer}")
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Outcome(name, "fail", f"{type(error).__name__}: {lines[0]}")
    return Outcome(name, "pass")


def examine(subject: Subject, names: Iterable[str] | None = None) -> list[Outcome]:
    """Outcomes of the named checks, of all by default, in their order."""
    return [run(name, subject) for name in (CHECKS if names is None else names)]
