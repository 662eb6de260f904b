"""The models of LRA's own image configurations: their sizes, and that they can be made."""

import pytest
import torch

from lra import presets
from lra.config import load
from lra.model import make_model, model_spec
from lra.tasks.spec import TaskSpec

# heads, layers, dim, qkv, ffn, pooling
SIZES = {
    "transformer": (8, 1, 128, 64, 128, "cls"),
    "linear_transformer": (8, 1, 128, 64, 128, "cls"),
    "linformer": (8, 1, 128, 64, 128, "cls"),
    "performer": (8, 1, 128, 64, 128, "cls"),
    "sparse_transformer": (8, 1, 128, 64, 128, "cls"),
    "synthesizer": (8, 1, 128, 64, 128, "cls"),
    "local_attention": (2, 1, 128, 64, 128, "mean_all"),
    "longformer": (4, 4, 128, 64, 128, "mean_all"),
    "reformer": (8, 4, 64, 32, 64, "cls"),
    "bigbird": (1, 1, 128, 64, 128, "cls"),
    "sinkhorn_transformer": (1, 1, 32, 32, 64, "cls"),
}
TASK = TaskSpec(
    name="image", kind="classify", length=1024, classes=10, vocab=256, chance_acc=0.1,
    tier="official", grid=(32, 32),
)  # fmt: skip


@pytest.mark.parametrize("model", SIZES)
def test_the_sizes_of_each_model_in_lras_files(model):
    config = load(presets.compose(f"experiment=lra_repo_image_{model}"))
    recipe = config.recipe
    sizes = (recipe.heads, recipe.depth, recipe.dim, recipe.qkv_dim, recipe.ffn_dim, recipe.pooling)
    assert sizes == SIZES[model]
    assert (config.model, config.task["name"], config.protocol["name"]) == (
        model, "image", "lra_repo",
    )  # fmt: skip
    assert config.task["mask_zero_pixels"] is True
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.selection) == (35_000, 256, 5e-4, "last")
    # a constructor takes these sizes and knobs
    with torch.device("meta"):
        make_model(config, model_spec(recipe, TASK, two_way=False))
