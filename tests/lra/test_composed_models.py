"""Commands of the README that put several configs together: a backbone with another mixer, and the
sweep of the paper's table."""

import json

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from lra import presets
from lra.config import load
from lra.errors import UserError
from lra.resolvers import register
from lra.results.csv_io import from_mapping
from lra.results.schema import RunRow

TASKS = {"listops", "text", "retrieval", "image", "pathfinder"}
MODELS = {
    "transformer", "local_attention", "sparse_transformer", "longformer", "linformer", "reformer",
    "sinkhorn_transformer", "synthesizer", "bigbird", "linear_transformer", "performer",
}  # fmt: skip


def test_a_backbone_hosts_another_mixer(fork, tmp_path):
    own = ("model=", "mixer.")
    tiny = [word for word in fork.tiny(tmp_path) if not word.startswith(own)]
    ended = fork(*tiny, "model=funnel_transformer", "mixer=performer")
    assert ended.code == 0, ended.err
    (path,) = (tmp_path / "runs").glob("*/row.json")
    row = from_mapping(RunRow, json.loads(path.read_text()))
    assert (row.status, row.model, row.steps) == ("ok", "funnel_transformer", 6)
    assert (row.backbone, row.mixer) == ("FunnelTransformer", "Performer")
    assert 0 <= row.test_acc <= 1


def test_a_backbone_that_reads_one_way_refuses_to_be_wrapped(fork, tmp_path):
    own = ("model=", "mixer.")
    tiny = [word for word in fork.tiny(tmp_path) if not word.startswith(own)]
    ended = fork(*tiny, "model=transformer_xl", "bidirectional=true")
    assert ended.code == 2
    assert ended.err.splitlines()[-1] == (
        "error: TransformerXL reads from left to right, and bidirectional=true wraps mixers alone: "
        "set bidirectional=false"
    )


@pytest.fixture
def swept():
    """What ``python run.py -m experiment=lra_table1`` sweeps over, as Hydra sees it."""
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(presets.CONF), version_base="1.3"):
        cfg = hydra.compose("config", ["experiment=lra_table1"], return_hydra_config=True)
    return {key: set(value.split(",")) for key, value in cfg.hydra.sweeper.params.items()}


def test_the_papers_table_is_its_models_on_its_tasks(swept):
    assert swept == {"task": TASKS, "model": MODELS}


@pytest.mark.parametrize("protocol", ["laptop", "lra_repo"])
def test_every_model_and_task_of_the_papers_table_composes(swept, protocol):
    # a model's config and a task's recipe do not touch each other: every one of each
    cells = [(model, "listops") for model in sorted(swept["model"])]
    cells += [("transformer", task) for task in sorted(swept["task"])]
    for model, task in cells:
        words = ["experiment=lra_table1", f"protocol={protocol}", f"model={model}", f"task={task}"]
        try:
            config = load(presets.compose(*words), words)
        except UserError as error:
            raise AssertionError(f"{' '.join(words)}: {error}") from error
        assert (config.model, config.task["name"]) == (model, task)
        assert config.protocol["name"] == protocol
