"""``run.py``: what a user can get wrong is one line and exit code 2, and nothing is written."""

import pytest
import torch

from lra.resolvers import checkout

RUN = f"{checkout()}/run.py"


def only_line(text: str) -> str:
    """Beside the progress of data, which the first test of a process makes."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("making ")]
    assert len(lines) == 1, text
    return lines[0]


WRONG = {
    "model=transformr": "unknown model 'transformr': did you mean 'transformer'?",
    "recipe.btch=3": "unknown key 'recipe.btch': did you mean 'recipe.batch'?",
    "recipe.batch=0": "recipe.batch must be more than 0, got 0",
    "task.n_train=-5": "n_train=-5: write a whole number from 1",
    "task.max_length=-3": "max_length=-3: write a whole number from 1",
    "task.n_train=abc": "n_train=abc: write a whole number from 1",
    "task.operators=[MIN,MAXX]": "MAXX",
    "+task.n_trian=5": "unknown knob of ListOps 'n_trian': did you mean 'n_train'?",
    "task._target_=lra.tasks.listop.ListOps": "cannot find task._target_ 'lra.tasks.listop.Lis",
    "task._target_=lra.tasks.listops.ListOp": "cannot find task._target_ 'lra.tasks.listops.Li",
    "task.source=/nowhere": "/nowhere",
    "+mixer.gian=2": "MyMixer has no knob 'gian'",
    "mixer._target_=my_module.MyMixr": "'my_module' has no class 'MyMixr': did you mean 'MyMixer'?",
    "mixer._target_=my_modul.MyMixer": "is its folder on PYTHONPATH?",
    "mixer._target_=broken_module.M": "'broken_module' of _target_ 'broken_module.M' fails at",
    "mixer._target_=torch.nn.Linear": "_target_ 'torch.nn.Linear' is not a Mixer",
    "mixer._target_=MyMixer": "_target_ must be 'module.Class', got 'MyMixer'",
    "block._target_=models.blocks.residual.Residual": "did you mean 'ResidualBlock'?",
    "layers=[{_target_: my_module.MyMixer},{_target_: my_module.MyMixer}]": "2 layers were given",
    "backend=eagre": "unknown backend 'eagre': did you mean 'eager'?",
    "backend={atention: eager}": "unknown op in backend 'atention': did you mean 'attention'?",
    "backend={attention: sdpaa}": "unknown backend of attention 'sdpaa': did you mean 'sdpa'?",
    "device=cuda": "device=cuda, but torch sees no GPU here",
    "checkpoint=/nowhere/model.pt": "cannot read checkpoint /nowhere/model.pt: No such file",
    "checkpoint=/etc/hostname": "/etc/hostname is not a model saved by this project",
    "init=/nowhere/model.pt": "cannot read checkpoint /nowhere/model.pt: No such file",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(fork, tmp_path, override):
    if override == "device=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ended = fork(*fork.tiny(tmp_path / "results", f"paths.data={tmp_path / 'data'}"), override)
    assert ended.code == 2, ended
    line = only_line(ended.err)
    assert line.startswith("error: ") and WRONG[override] in line
    assert not list(tmp_path.rglob("*.*")), "something was written"


@pytest.mark.parametrize("where", ["results", "data"])
def test_a_folder_that_cannot_be_written_is_one_line(fork, tmp_path, where):
    """Below a file: permissions would not stop a root user."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below"
    ended = fork(*fork.tiny(tmp_path / "results"), f"paths.{where}={folder}")
    assert ended.code == 2
    line = only_line(ended.err)
    assert str(folder) in line and "another" in line and "Not a directory" in line
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.arrow"))


def test_the_line_comes_from_the_real_command_too(command, tmp_path):
    for arguments, said in (
        (["model=performr"], "error: unknown model 'performr': did you mean 'performer'?"),
        (["task.n_tran=4"], "error: unknown key 'task.n_tran': did you mean 'task.n_train'?"),
        (["recipe.batch=0"], "error: recipe.batch must be more than 0, got 0"),
        (["seed=0,1"], "error: seed=0,1: a sweep needs -m"),
    ):
        ended = command(RUN, *arguments)
        assert ended.returncode == 2
        assert only_line(ended.stderr).startswith(said) and not ended.stdout
    assert not list(tmp_path.iterdir())
