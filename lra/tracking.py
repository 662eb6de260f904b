"""Weights & Biases: a mirror of what the rows say. The CSVs are the record."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lra.results.schema import RunRow

log = logging.getLogger(__name__)


class Tracker:
    """A W&B run: offline without an account by default, online with ``logger=wandb``.

    A tracker that cannot start or loses its connection warns and is silent from then on: tracking
    must not cost a result.
    """

    def __init__(self) -> None:
        self.run: Any = None

    @classmethod
    def start(
        cls, logger: Mapping[str, Any], *, name: str, config: Mapping[str, Any], folder: Path
    ) -> "Tracker":
        """Starts a run under ``folder``; ``logger`` is a config of ``conf/logger``."""
        tracker = cls()
        if logger["mode"] == "disabled":
            return tracker
        with tracker._forgiving():
            import wandb

            tracker.run = wandb.init(
                project=logger["project"], name=name, mode=logger["mode"], dir=str(folder),
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off", disable_git=True),
            )  # fmt: skip
        return tracker

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.warning("W&B: %s: this run is not mirrored", " ".join(str(error).split()))
            self.run = None

    @property
    def folder(self) -> Path | None:
        """The run's own directory, or None."""
        return None if self.run is None else Path(self.run.dir).parent

    def log(self, row: Mapping[str, float]) -> None:
        """One row of the history."""
        if self.run is not None:
            with self._forgiving():
                # at once: a row that waits would overwrite the summary at the end
                self.run.log(dict(row), step=int(row["step"]), commit=True)

    def finish(self, row: RunRow) -> None:
        """The final row becomes the summary."""
        if self.run is not None:
            with self._forgiving():
                self.run.summary.update({k: v for k, v in asdict(row).items() if v is not None})
                self.run.finish(exit_code=0 if row.status == "ok" else 1)
