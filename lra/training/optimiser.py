"""AdamW over parameter groups: a parameter's ``_optim`` attribute sets its own rate or decay."""

from collections import defaultdict

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from lra.config import Recipe
from lra.training.schedule import factor


def make_optimiser(model: nn.Module, recipe: Recipe) -> tuple[AdamW, LambdaLR]:
    """The optimiser and its schedule. ``_optim`` is a dict of AdamW's group options, such as
    ``{"lr": 1e-3, "weight_decay": 0.0}`` for the parameters of a state space; ``lr_factor`` in it
    is a rate in the recipe's."""
    groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            own = dict(getattr(parameter, "_optim", {}))
            if "lr_factor" in own:
                own["lr"] = own.pop("lr_factor") * recipe.lr
            groups[tuple(sorted(own.items()))].append(parameter)
    optimiser = AdamW(
        [{"params": parameters, **dict(own)} for own, parameters in groups.items()],
        lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1]), eps=recipe.eps,
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    formula = factor(
        recipe.schedule, steps=recipe.steps, warmup=recipe.warmup_steps, power=recipe.warmup_power
    )
    return optimiser, LambdaLR(optimiser, formula)
