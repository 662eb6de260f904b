"""The presets of ``conf/``: their names, and their configurations composed as a run would."""

from pathlib import Path
from typing import Any

from lra.errors import nearest
from lra.resolvers import checkout, register

CONF = Path(checkout()) / "conf"


def names(group: str) -> list[str]:
    """The choices of a config group, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def models() -> list[str]:
    """The models: every preset but ``custom``, which is nobody's."""
    return [name for name in names("model") if name != "custom"]


def check_name(group: str, name: str) -> str:
    """The name itself.

    Raises:
        UserError: no such choice; the nearest one is named.
    """
    if name not in names(group):
        raise nearest(name, names(group), kind=group)
    return name


def alters(experiment: str) -> bool:
    """Whether an experiment changes a cell, and not only says which cells there are."""
    from omegaconf import OmegaConf

    return bool(set(OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")) - {"hydra"})


def compose(*overrides: str) -> Any:
    """The configuration that ``python run.py`` with these overrides would get.

    Raises:
        UserError: an override that does not fit.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lra.config_errors import explain
    from lra.errors import UserError

    register()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(explain(error, overrides)) from error
