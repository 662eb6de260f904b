"""The training loop on a made-up task: what a step is, what is selected, and that a run that was
stopped anywhere goes on to the same bits."""

import copy
import math
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from lra import presets
from lra.config import load
from lra.model import build
from lra.tasks.spec import Batch, TaskSpec
from lra.training import loop
from lra.training.loop import Data, NotFinite, TimeUp, Trainer
from lra.training.stopping import Interrupted, Stopping

TASK = TaskSpec(
    name="counting", kind="classify", length=12, classes=3, vocab=5, chance_acc=1 / 3,
    tier="stand-in",
)  # fmt: skip


def split(rows: int, seed: int = 0) -> Data:
    """Sequences of 3 to 12 tokens; the label is the count of token 1, modulo 3."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 5, (rows, 12), generator=draw)
    lengths = torch.randint(3, 13, (rows,), generator=draw)
    mask = torch.arange(12) < lengths[:, None]
    x = x * mask
    y = (x == 1).sum(1) % 3

    def fetch(numbers: np.ndarray) -> Batch:
        index = torch.from_numpy(np.asarray(numbers))
        longest = int(lengths[index].max())
        return Batch(x[index][:, :longest], mask[index][:, :longest], y[index])

    return Data(rows, fetch)


@pytest.fixture
def trainer(tmp_path):
    """Makes trainers of the same cell; later ones find the checkpoints of earlier ones."""

    def make(*overrides: str, folder: Path = tmp_path, **options) -> Trainer:
        config = load(presets.compose(
            "protocol=smoke", "model=custom", "mixer._target_=my_module.MyMixer", "recipe.dim=8",
            "recipe.ffn_dim=8", "recipe.steps=12", "recipe.batch=8", "recipe.eval_every=3",
            "recipe.dropout=0.2", "recipe.mixer_dropout=0.2", "recipe.lr=0.01", *overrides,
        ))  # fmt: skip
        torch.manual_seed(config.seed)
        model = build(config, TASK, None).model
        fabric = Fabric(accelerator="cpu", devices=1)
        options.setdefault("stopping", Stopping())
        return Trainer(fabric, model, config.recipe, seed=config.seed, folder=folder, **options)

    return make


def parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return copy.deepcopy(trainer.bare.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "train_s"} for row in history]


# -- one step ----------------------------------------------------------------------------------


def test_a_step_is_the_mean_loss_clipped(trainer):
    """Against the same step written out with torch alone."""
    ours = trainer(
        "recipe.dropout=0", "recipe.mixer_dropout=0", "recipe.grad_clip=0.01",
        "recipe.warmup_steps=0", "recipe.schedule=constant", "recipe.weight_decay=0.1",
    )  # fmt: skip
    theirs = copy.deepcopy(ours.bare)
    optimiser = torch.optim.AdamW(
        theirs.parameters(), lr=0.01, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.1
    )
    train = split(40)
    for step in range(4):
        batch = train.fetch(np.arange(step * 8, step * 8 + 8))
        ours.train_step(batch)
        optimiser.zero_grad()
        F.cross_entropy(theirs(batch.x, batch.mask), batch.y).backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.01)
        assert norm > 0.01, "nothing was clipped"
        optimiser.step()
    for name, value in theirs.state_dict().items():
        assert torch.allclose(parameters(ours)[name], value, rtol=1e-5, atol=1e-7), name


def test_accumulation_changes_nothing(trainer, tmp_path):
    quiet = ("recipe.dropout=0", "recipe.mixer_dropout=0", "recipe.grad_clip=1")
    whole = trainer(*quiet, folder=tmp_path / "1")
    parts = trainer(*quiet, "recipe.accumulate=4", folder=tmp_path / "4")
    histories = [each.fit(split(50), split(20, 1)).history for each in (whole, parts)]
    for one, four in zip(*map(timeless, histories), strict=True):
        assert four == pytest.approx(one, rel=1e-5)
    for name, value in parameters(whole).items():
        assert torch.allclose(parameters(parts)[name], value, rtol=1e-3, atol=1e-5), name


def test_learning_rate_follows_the_schedule(trainer):
    run = trainer("recipe.schedule=linear", "recipe.warmup_steps=4", "recipe.eval_every=1")
    rates = []
    inner = run.optimiser.step

    def step(*args, **kwargs):
        rates.append(run.optimiser.param_groups[0]["lr"])
        return inner(*args, **kwargs)

    run.optimiser.step = step
    run.fit(split(50), split(10, 1))
    expected = [0.0025, 0.005, 0.0075, 0.01, *(0.01 * (1 - k / 8) for k in range(1, 9))]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_it_learns(trainer):
    run = trainer("recipe.steps=300", "recipe.eval_every=300", "recipe.dropout=0",
                  "recipe.mixer_dropout=0", "recipe.dim=32", "recipe.batch=32")  # fmt: skip
    history = run.fit(split(256), split(256)).history
    assert history[-1]["val_acc"] > 0.6


# -- validation and selection ------------------------------------------------------------------


def test_score_is_the_mean_over_every_row(trainer):
    run = trainer("recipe.eval_batch=7")
    val = split(31, 3)
    model = copy.deepcopy(run.bare).eval()
    batch = val.fetch(np.arange(31))
    with torch.no_grad():
        logits = model(batch.x, batch.mask)
    score = run.score(val)
    assert score.n == 31
    assert score.loss == pytest.approx(F.cross_entropy(logits, batch.y).item(), rel=1e-5)
    assert score.acc == pytest.approx((logits.argmax(-1) == batch.y).double().mean().item())


def test_scoring_leaves_no_trace(trainer):
    """Neither on the mode nor on the random numbers, also where the model draws some."""
    run = trainer("mixer._target_=my_module.Restless")
    run.model.train()
    first = run.score(split(20))
    torch.rand(5)
    before = torch.get_rng_state()
    second = run.score(split(20))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == second, "a score depends on what was drawn before it"
    assert all(module.training for module in run.bare.modules())


def test_validation_changes_no_training(trainer, tmp_path):
    often = trainer("recipe.eval_every=1", folder=tmp_path / "often")
    rarely = trainer("recipe.eval_every=12", folder=tmp_path / "rarely")
    for run in (often, rarely):
        torch.manual_seed(0)
        run.fit(split(50), split(10, 1))
    assert same(parameters(often), parameters(rarely))


def test_validations_come_when_due(trainer):
    run = trainer("recipe.eval_every=5")
    history = run.fit(split(50), split(10, 1)).history
    assert [row["step"] for row in history] == [5, 10, 12]
    assert all(math.isfinite(value) for row in history for value in row.values())


def scripted(run: Trainer, accuracies: list[tuple[float, float]]) -> dict[int, dict]:
    """Makes validation say these (accuracy, loss); returns the parameters at each."""
    kept, todo = {}, iter(accuracies)

    def score(split):
        kept[run.state.step] = parameters(run)
        acc, loss = next(todo)
        return loop.Score(loss=loss, acc=acc, n=10)

    run.score = score
    return kept


@pytest.mark.parametrize(
    ("selection", "scores", "chosen"),
    [
        ("best_val", [(0.2, 1.0), (0.5, 1.0), (0.4, 0.5), (0.3, 0.1)], 6),
        # of equal accuracies the smaller loss, of equal scores the earlier
        ("best_val", [(0.5, 1.0), (0.5, 0.8), (0.5, 0.8), (0.5, 0.9)], 6),
        ("best_val", [(0.0, 9.0), (0.0, 9.0), (0.0, 9.0), (0.0, 9.0)], 3),
        ("last", [(0.9, 1.0), (0.5, 1.0), (0.4, 0.5), (0.3, 0.1)], 12),
    ],
)
def test_the_selected_parameters_are_used(trainer, selection, scores, chosen):
    run = trainer(f"recipe.selection={selection}")
    kept = scripted(run, scores)
    state = run.fit(split(50), split(10, 1))
    assert not same(kept[3], kept[12])
    run.use_selected()
    assert same(parameters(run), kept[chosen])
    assert state.best_step == chosen
    assert (state.best_acc, state.best_loss) == scores[chosen // 3 - 1]


# -- stopping and going on ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return {}


@pytest.mark.parametrize("selection", ["best_val", "last"])
@pytest.mark.parametrize("stop", range(1, 12))
def test_stopped_after_any_step_it_ends_bit_identical(
    trainer, tmp_path, monkeypatch, unbroken, stop, selection
):
    """The signal comes in the middle of a step; the checkpoint holds the whole of it."""
    options = (f"recipe.selection={selection}", "mixer._target_=my_module.Restless")
    if selection not in unbroken:
        whole = trainer(*options, folder=tmp_path / "unbroken")
        history = whole.fit(split(50), split(10, 1)).history
        whole.use_selected()
        unbroken[selection] = parameters(whole), timeless(history)
    stopping = Stopping()
    first = trainer(*options, stopping=stopping)
    inner = first.train_step

    def train_step(batch):
        inner(batch)
        if first.state.step == stop - 1:
            signal.raise_signal(signal.SIGTERM)

    first.train_step = train_step
    with stopping.listening(), pytest.raises(Interrupted, match="SIGTERM"):
        first.fit(split(50), split(10, 1))
    assert first.state.step == stop
    # whatever the new process has drawn before must not matter
    second = trainer(*options)
    torch.manual_seed(999)
    seen = []
    second.on_validation = seen.append
    history = second.fit(split(50), split(10, 1)).history
    second.use_selected()
    assert same(parameters(second), unbroken[selection][0])
    assert timeless(history) == unbroken[selection][1]
    # the mirror gets the whole history, the part before the stop too
    assert seen == history


@pytest.mark.parametrize("due", [3, 12])
def test_stopped_in_a_validation_it_ends_bit_identical(trainer, tmp_path, unbroken, due):
    options = ("mixer._target_=my_module.Restless",)
    whole = trainer(*options, folder=tmp_path / "unbroken")
    history = timeless(whole.fit(split(50), split(10, 1)).history)
    stopping = Stopping()
    first, val = trainer(*options, stopping=stopping), split(10, 1)

    def fetch(numbers):
        if first.state.step == due:
            torch.rand(5)
            signal.raise_signal(signal.SIGINT)
        return val.fetch(numbers)

    with stopping.listening(), pytest.raises(Interrupted, match="SIGINT"):
        first.fit(split(50), Data(10, fetch))
    second = trainer(*options)
    assert timeless(second.fit(split(50), val).history) == history
    assert same(parameters(second), parameters(whole))


def test_a_signal_in_a_validations_bookkeeping_is_not_lost(trainer, monkeypatch):
    """It comes where it may not raise; it must be acted on there, not after the next phase."""
    stopping = Stopping()
    run = trainer(stopping=stopping)
    inner = loop.reduce_sum

    def reduce_sum(fabric, value):
        if run.state.step == 12 and value is run._sums:
            signal.raise_signal(signal.SIGTERM)
        return inner(fabric, value)

    monkeypatch.setattr(loop, "reduce_sum", reduce_sum)
    with stopping.listening(), pytest.raises(Interrupted):
        run.fit(split(50), split(10, 1))
    assert run.state.history[-1]["step"] == 12
    again = trainer()
    assert again.fit(split(50), split(10, 1)).history == run.state.history


def test_checkpoints_are_written_while_training(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    steps = []
    save = loop.checkpoint.save

    def spy(state, folder, step):
        steps.append(step)
        return save(state, folder, step)

    monkeypatch.setattr(loop.checkpoint, "save", spy)
    trainer().fit(split(50), split(10, 1))
    assert sorted(set(steps)) == list(range(1, 13))
    assert len(list(tmp_path.glob("step_*.pt"))) == 2


def test_finished_training_is_not_repeated(trainer):
    first = trainer()
    state = first.fit(split(50), split(10, 1))
    second = trainer()
    second.train_step = None
    again = second.fit(split(50), split(10, 1))
    assert again == state
    assert same(parameters(first), parameters(second))


# -- ends --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(trainer):
    run = trainer("recipe.lr=1e30", "recipe.steps=100", "recipe.eval_every=100")
    with pytest.raises(NotFinite, match="loss is (nan|inf) at step"):
        run.fit(split(50), split(10, 1))
    assert run.state.step < 100


def test_the_time_limit_ends_training(trainer, tmp_path):
    run = trainer(deadline=time.monotonic() - 1)
    with pytest.raises(TimeUp, match="after 1 of 12 steps"):
        run.fit(split(50), split(10, 1))
    assert [path.name[:14] for path in tmp_path.glob("step_*")] == ["step_000000001"]


def test_the_time_limit_ends_an_evaluation(trainer):
    run = trainer(deadline=time.monotonic() - 1)
    with pytest.raises(TimeUp, match="after 0 of 12 steps"):
        run.score(split(10))


def test_waiting_for_data_is_counted(trainer):
    run, train = trainer("recipe.steps=4"), split(50)

    def slow(numbers):
        time.sleep(0.05)
        return train.fetch(numbers)

    state = run.fit(Data(50, slow), split(10, 1))
    assert 0.2 <= state.wait_s <= state.train_s


def test_labels_of_positions_count_by_position(trainer):
    """A token task: the mean is over scored positions of all parts, not over parts."""
    spec = replace(TASK, kind="token")
    config = load(presets.compose(
        "protocol=smoke", "model=custom", "mixer._target_=my_module.MyMixer", "recipe.dim=8",
        "recipe.batch=4", "recipe.dropout=0", "recipe.mixer_dropout=0",
    ))  # fmt: skip
    y = torch.full((4, 12), -100)
    y[0, :9], y[1, :1], y[3, 4] = 1, 2, 0
    batch = Batch(torch.randint(1, 5, (4, 12)), torch.ones(4, 12, dtype=torch.bool), y)
    grads = []
    for parts in (1, 2):
        model = build(config, spec, None).model
        recipe = replace(config.recipe, accumulate=parts)
        run = Trainer(
            Fabric(accelerator="cpu", devices=1), model, recipe, seed=0, folder=Path("unused"),
            stopping=Stopping(),
        )  # fmt: skip
        run.optimiser.step = run.schedule.step = lambda: None
        run.optimiser.zero_grad = lambda **_: None
        run.train_step(batch)
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    logits = model(batch.x, batch.mask)
    F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=-100).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    for found in grads:
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
