"""A configuration error of Hydra or OmegaConf as one line that names the nearest valid name."""

import re
from collections.abc import Sequence
from pathlib import Path

from lra.errors import nearest

CONF = Path(__file__).resolve().parents[1] / "conf"


def explain(error: BaseException, arguments: Sequence[str]) -> str:
    """One line for the user: what is wrong, and the nearest valid name where there is one.

    Args:
        error: of Hydra or OmegaConf.
        arguments: the overrides, so that a mixer's knobs are those of the mixer that they choose.
    """
    causes = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) and deeper not in causes:
        causes.append(deeper)
    text = "\n".join(str(cause) for cause in causes)
    for pattern, reply in (
        (r"Could not find '([\w/]+)/([\w.\-]*)'", _unknown_choice),
        (r"In '[^']*': Could not load '([\w/]+)/([\w.\-]+)'", _unknown_choice),
        (r"Could not override '([\w.]+)'", _unknown_key),
        (r"Key '\w+' is not in struct\s+full_key: ([\w.]+)", _unknown_key),
        (r"Ambiguous value for argument '(.*)'", _several),
        (r"Config group override must be a string or a list", _no_choice),
    ):
        if match := re.search(pattern, text):
            return reply(arguments, *match.groups())
    if isinstance(error, OSError) and error.filename:
        return f"cannot write {error.filename}: {error.strerror}; set paths.results=... elsewhere"
    lines = str(error).split("\n")
    if override := getattr(error, "override", None):
        return f"cannot read '{override}' ({' '.join(lines[:2])}): write key=value"
    return " ".join(lines[0].split())


def _unknown_choice(arguments: Sequence[str], group: str, name: str) -> str:
    folder = CONF / group
    if not folder.is_dir():
        return _unknown_key(arguments, group)
    names = [path.stem for path in folder.glob("*.yaml")]
    return str(nearest(name, names, kind=group))


def _no_choice(arguments: Sequence[str]) -> str:
    for group, _, choice in (argument.partition("=") for argument in arguments):
        if (CONF / group).is_dir() and choice == "null":
            return _unknown_choice(arguments, group, choice)
    return "the choice of a group must be a name: write group=name"


def _several(arguments: Sequence[str], override: str) -> str:
    key, _, values = override.partition("=")
    return f"{override}: a sweep needs -m, a list brackets: {key}=[{values}]"


def _unknown_key(arguments: Sequence[str], key: str) -> str:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig, OmegaConf

    parent, _, name = key.rpartition(".")
    if parent == "mixer" and "model=custom" in arguments:
        return f"a knob of a mixer of your own needs a plus: +{key}=..."
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", _choices(arguments))
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return f"unknown key '{key}'"
    siblings = {f"{parent}.{child!s}" if parent else str(child) for child in node}
    return str(nearest(key, siblings, kind="key"))


def _choices(arguments: Sequence[str]) -> list[str]:
    """The choices of groups among the overrides; of a sweep the first."""
    found = {}
    for argument in arguments:
        group, _, choice = argument.partition("=")
        choice = choice.partition(",")[0]
        if (CONF / group / f"{choice}.yaml").is_file():
            found[group] = f"{group}={choice}"
    return list(found.values())
