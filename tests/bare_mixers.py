"""Every mixer of conf/mixer, for tests that build it without Hydra."""

from pathlib import Path
from typing import Any

import yaml

CONF_MIXER = Path(__file__).resolve().parents[1] / "conf" / "mixer"


def mixer_names() -> list[str]:
    return sorted(path.stem for path in CONF_MIXER.glob("*.yaml") if path.stem != "custom")


def mixer_config(name: str, *, size: int) -> dict[str, Any]:
    """Its knobs. Strings until Hydra has seen them: ``${sized:64}`` is ``size``, and
    ``${sized:8,2}`` 2, the count for short sequences."""

    def value(knob: Any) -> Any:
        if not isinstance(knob, str) or not knob.startswith("${"):
            return knob
        return int(knob.strip("}").partition(",")[2] or size)

    config = yaml.safe_load((CONF_MIXER / f"{name}.yaml").read_text())
    return {name: value(knob) for name, knob in config.items()}
