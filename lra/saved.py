"""A trained model on disk: parameters and the configuration that builds it again."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from lra.config import Recipe, RunConfig
from lra.errors import UserError
from lra.tasks.spec import TaskSpec
from models.build import mixer_class
from models.model import Model

FORMAT = 2


def save_model(path: Path, model: Model, config: RunConfig, task: TaskSpec, step: int) -> None:
    """Writes the model; ``load_model`` needs nothing else."""
    from lra.training.checkpoint import write_atomically

    built = {
        "backbone": config.backbone, "layers": config.layers, "model": config.model,
        "bidirectional": config.bidirectional,
        "recipe": dataclasses.asdict(config.recipe), "task": dataclasses.asdict(task), "step": step,
    }  # fmt: skip
    buffer = io.BytesIO()
    content = {"format": FORMAT, "built": json.dumps(built), "state": model.state_dict()}
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


@dataclasses.dataclass(frozen=True)
class Saved:
    """What was saved: ``state`` of the parameters, ``built`` the configuration, ``digest``."""

    state: dict[str, torch.Tensor]
    built: dict[str, Any]
    digest: str

    @property
    def step(self) -> int:
        return int(self.built["step"])

    @property
    def about(self) -> str:
        """What it was trained on, and for how long."""
        return f"{self.built['task']['name']}, {self.step} steps"

    def config(self, now: RunConfig) -> RunConfig:
        """The run's configuration with the saved model in place of the command line's."""
        own = ("backbone", "layers", "bidirectional", "model")
        size = Recipe(**self.built["recipe"])
        recipe = dataclasses.replace(
            size, batch=now.recipe.batch, eval_batch=now.recipe.eval_batch,
            precision=now.recipe.precision,
        )  # fmt: skip
        return dataclasses.replace(now, recipe=recipe, **{key: self.built[key] for key in own})

    def task(self, now: TaskSpec) -> TaskSpec:
        """The task to build the model for: the saved one, at the length of the task in hand where
        no position table or length-bound parameter fixes it.

        Raises:
            UserError: the model was made for another kind of input or other labels.
        """
        saved = self._fitting(now)
        bound = self.built["recipe"]["positions"] == "learned" or any(
            mixer_class(layer["mixer"]).card.length_bound for layer in self.built["layers"]
        )
        return dataclasses.replace(now, length=saved.length if bound else now.length)

    def begin(self, model: Model, now: TaskSpec) -> None:
        """Puts the parameters into a model of the same shape that will learn the task in hand.

        Raises:
            UserError: they are those of another model, or for another kind of input or labels.
        """
        self._fitting(now)
        self.load_into(model)

    def _fitting(self, now: TaskSpec) -> TaskSpec:
        """The task of the saved model, if its inputs and labels are like those of this one."""
        saved = TaskSpec(**self.built["task"])
        for key in ("kind", "classes", "vocab", "features"):
            if getattr(saved, key) != getattr(now, key):
                raise UserError(
                    f"the saved model was trained on {saved.name} with {key}={getattr(saved, key)}"
                    f", {now.name} has {key}={getattr(now, key)}: choose the task it was trained on"
                )
        return saved

    def load_into(self, model: Model) -> None:
        """Puts the parameters into a model.

        Raises:
            UserError: it has other ones.
        """
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the saved model does not fit this model and task: {reason}"
            ) from error


def load_model(path: str) -> Saved:
    """Reads a saved model.

    Raises:
        UserError: no such file, or it is not a model of this project.
    """
    try:
        content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}") from error
    try:
        # weights_only: a stranger's file is data, never code
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        assert found["format"] == FORMAT
        built = json.loads(found["built"])
    except Exception as error:
        raise UserError(
            f"{path} is not a model saved by this project: give the model.pt of a cell's folder"
        ) from error
    return Saved(found["state"], built, hashlib.sha256(content).hexdigest()[:16])
