"""What published recipes ask for, copied from the papers' tables and code, never from ``conf/``.

What a source does without a number in a table (an optimiser's betas, the width of a head) stands
in ``ALL_OF``.
"""

from typing import Any

FIVE = ("listops", "text", "retrieval", "image", "pathfinder")
PIXELS = ("image", "pathfinder", "pathfinder64", "path_x", "path_256")

# what all recipes of a protocol share
ALL_OF: dict[str, dict[str, Any]] = {
    "lra_repo": {"betas": [0.9, 0.98], "eps": 1e-9, "norm": "layer", "norm_position": "pre",
                 "activation": "gelu", "selection": "last", "embedding_std": 1.0,
                 "precision": "32-true", "accumulate": 1, "warmup_power": 1},
    "xformer_small": {"betas": [0.9, 0.999], "eps": 1e-6, "norm": "layer", "norm_position": "pre",
                      "activation": "gelu", "selection": "best_val", "dim": 64, "ffn_dim": 128,
                      "heads": 2, "depth": 2, "positions": "learned", "embedding_std": 0.02,
                      "position_std": None, "dropout": 0.1, "mixer_dropout": 0.1, "head": "mlp",
                      "head_dim": 128, "pooling": "mean_zero", "pairing": "nli",
                      "schedule": "one_cycle", "weight_decay": 0.0, "grad_clip": None},
    "s4": {"betas": [0.9, 0.999], "eps": 1e-8, "activation": "gelu", "norm": "batch",
           "positions": "none", "pooling": "mean", "pairing": "nli", "schedule": "cosine",
           "weight_decay": 0.05, "grad_clip": None, "selection": "best_val", "accumulate": 1},
    "mega": {"betas": [0.9, 0.98], "eps": 1e-8, "grad_clip": 1.0, "schedule": "linear",
             "pooling": "mean", "positions": "none", "activation": "silu", "mixer_dropout": 0.0,
             "head": "mlp", "selection": "best_val"},
}  # fmt: skip
ALL_OF["lra_paper"] = ALL_OF["lra_repo"]

# google-research/long-range-arena at cd31e5c, its config files
LRA_COLUMNS = ("batch", "steps", "lr", "warmup_steps", "schedule", "weight_decay", "dim", "qkv",
               "ffn_dim", "heads", "depth", "dropout", "mixer_dropout", "pooling", "positions",
               "eval_every", "length")  # fmt: skip
LRA_REPO: dict[str, tuple[Any, ...]] = {
    "listops": (32, 5_000, 0.05, 1000, "rsqrt", 0.1, 512, 512, 1024, 8, 4, 0.1, 0.1, "cls",
                "sinusoidal", 50, 2000),
    "text": (32, 20_000, 0.05, 8000, "rsqrt", 0.1, 256, 256, 1024, 4, 4, 0.1, 0.1, "cls",
             "sinusoidal", 100, 1000),
    "retrieval": (32, 5_000, 0.05, 8000, "rsqrt", 0.1, 128, 128, 512, 4, 4, 0.1, 0.1, "first",
                  "sinusoidal", 100, 4000),
    "image": (256, 35_000, 5e-4, 175, "cosine", 0, 32, 32, 64, 1, 1, 0.3, 0.2, "cls", "learned",
              175, 1024),
    "pathfinder": (512, 62_400, 1e-3, 312, "cosine", 0, 32, 16, 32, 2, 1, 0.1, 0.1, "mean_all",
                   "sinusoidal", 312, 1024),
    "pathfinder64": (256, 125_000, 1e-3, 625, "cosine", 0, 32, 32, 32, 4, 2, 0.1, 0.1, "cls",
                     "learned", 625, 4096),
    "path_x": (64, 500_000, 1e-3, 2500, "cosine", 0, 32, 16, 32, 2, 1, 0.1, 0.1, "mean_all",
               "learned", 2500, 16384),
    "path_256": (32, 500_000, 1e-3, 5000, "cosine", 0, 32, 32, 32, 4, 2, 0.1, 0.1, "cls",
                 "learned", 5000, 65536),
}  # fmt: skip
LRA_INPUT: dict[str, dict[str, Any]] = {
    "listops": {"padding": "full", "eos": False},
    "text": {"padding": "full", "tokens": "bytes", "eos": False, "split": "legacy"},
    "retrieval": {"padding": "full", "tokens": "bytes", "eos": False},
    **{task: {"pixels": "embed", "mask_zero_pixels": True} for task in PIXELS},
}
# heads, layers, emb, qkv, mlp, and what else a model's file changes
IMAGE = (8, 1, 128, 64, 128, {})
LRA_MODELS: dict[str, dict[str, tuple[int, int, int, int, int, dict[str, Any]]]] = {
    "image": {
        **dict.fromkeys(("transformer", "linear_transformer", "linformer", "performer",
                         "sparse_transformer", "synthesizer"), IMAGE),
        "local_attention": (2, 1, 128, 64, 128, {"pooling": "mean_all"}),
        "bigbird": (1, 1, 128, 64, 128, {}),
        "longformer": (4, 4, 128, 64, 128, {"pooling": "mean_all"}),
        "reformer": (8, 4, 64, 32, 64, {}),
        "sinkhorn_transformer": (1, 1, 32, 32, 64, {"weight_decay": 0.7, "dropout": 0.1}),
    },
    "pathfinder": {
        "transformer": (4, 4, 32, 16, 32, {"dropout": 0.2}),
        "linear_transformer": (2, 1, 128, 64, 128, {"dropout": 0.2}),
        "performer": (8, 4, 32, 16, 32, {"dropout": 0.2}),
        "bigbird": (2, 4, 64, 32, 64, {"dropout": 0.2}),
        "local_attention": (4, 2, 64, 32, 64, {}),
        "longformer": (2, 2, 32, 16, 32, {}),
        "linformer": (2, 1, 32, 16, 32, {"dropout": 0.2}),
        "reformer": (8, 2, 64, 32, 64, {"dropout": 0.2}),
        "sinkhorn_transformer": (4, 2, 32, 16, 64, {"dropout": 0.2}),
        "sparse_transformer": (8, 1, 32, 16, 32, {"dropout": 0.2}),
        "synthesizer": (4, 2, 64, 32, 64, {"dropout": 0.2}),
    },
}  # fmt: skip
# the numbers inside LRA's models: its code's defaults, which no file but these changes
LRA_INNER: dict[str, dict[str, Any]] = {
    "transformer": {},
    "linear_transformer": {"feature_map": "elu+1", "eps": 1e-6},
    "linformer": {"k": 16, "share": "kv"},
    "local_attention": {"block_size": 50},
    "bigbird": {"block_size": 64, "num_rand_blocks": 3},
    "longformer": {"window": 512, "global_tokens": 0},
    "sparse_transformer": {"stride": 50, "c": 10, "mode": "fixed"},
    "synthesizer": {"mode": "random", "dot_product": True},
    "performer": {"kernel": "relu", "eps": 1e-3, "redraw": False},
    "sinkhorn_transformer": {"block_size": 50, "sort_activation": "softmax", "temperature": 1.0},
    "reformer": {"n_hashes": 1},
}
LRA_CHANGED = {
    ("listops", "performer"): {"kernel": "softmax", "nb_features": 2, "ortho_scaling": 0.0,
                               "redraw": True, "eps": 1e-6},
    ("image", "local_attention"): {"block_size": 64},
    ("image", "sinkhorn_transformer"): {"block_size": 64},
    ("pathfinder", "local_attention"): {"block_size": 64},
    ("pathfinder", "sinkhorn_transformer"): {"block_size": 64},
}  # fmt: skip

# Tay et al. 2020, appendix A.1: heads, layers, emb, qkv, mlp, steps, batch, lr, weight decay,
# pairing; None: it does not say
LRA_PAPER: dict[str, tuple[Any, ...]] = {
    "listops": (8, 6, 512, None, 2048, 5_000, None, None, None, None),
    "text": (8, 6, 512, None, 2048, 20_000, 32, 0.05, 0.1, None),
    "retrieval": (4, 4, 128, None, 512, 5_000, None, 0.5, None, "nli"),
    "image": (4, 3, None, 64, 128, 200 * 175, None, 0.01, None, None),
    "pathfinder": (8, 4, None, 128, 128, 200 * 312, None, 0.01, None, None),
}

# mlpen/Nystromformer at 5689313 and pkuzengqi/Skyformer at 1a677cb: batch, steps, lr, warm-up, eval
# every, positions read and with zeros after them
XFORMER = {
    "listops": (32, 5_000, 1e-4, 1000, 50, 2000, 2048),
    "text": (32, 20_000, 1e-4, 8000, 500, 4000, 4096),
    "retrieval": (32, 30_000, 1e-4, 800, 300, 4000, 4096),
    "image": (256, 35_000, 1e-4, 175, 175, 1024, None),
    "pathfinder": (256, 62_400, 1e-4, 312, 312, 1024, None),
}
SKYFORMER = {
    "listops": (32, 50_000, 1e-4, 1000, 500, 2000, 2048),
    "text": (32, 50_000, 1e-4, 80, 500, 4000, 4096),
    "retrieval": (16, 50_000, 2e-4, 800, 1000, 4000, 4096),
    "image": (256, 50_000, 1e-4, 175, 50, 1024, None),
    "pathfinder": (128, 50_000, 2e-4, 312, 500, 1024, None),
}
XFORMER_METHODS: dict[str, dict[str, Any]] = {
    "model=nystromformer": {"num_landmarks": 128, "conv_kernel": 35},
    "model=linformer": {"k": 256},
    "experiment=xformer_reformer": {"n_hashes": 2, "bucket_size": 64},
    "experiment=xformer_performer": {"nb_features": 256, "kernel": "relu"},
}

# state-spaces/s4 at e757cef: d_model, layers, d_state, norm position, dropout, batch, lr, steps,
# warm-up, dt_min, sets of A and B, what the task says
S4: dict[str, tuple[Any, ...]] = {
    "listops": (256, 6, 4, "post", 0, 32, 0.01, 120_000, 12_000, 1e-3, 1, {"eos": True}),
    "text": (256, 6, 4, "pre", 0, 16, 0.01, 50_000, 5_000, 1e-3, 1, {
        "split": "legacy", "tokens": "chars", "min_freq": 15, "eos": True, "max_length": 4096}),
    "retrieval": (256, 6, 4, "pre", 0, 64, 0.01, 50_000, 5_000, 1e-3, 1, {
        "tokens": "chars", "eos": True, "max_length": 4000}),
    "image": (512, 6, 64, "post", 0.1, 50, 0.01, 180_000, 18_000, 1e-3, 1, {
        "gray": "pil", "pixels": "scalar", "mean": 122.6 / 255, "std": 61 / 255}),
    "pathfinder": (256, 6, 64, "pre", 0, 64, 0.004, 500_000, 50_000, 1e-3, 256, {
        "pixels": "scalar", "mean": 0, "std": 1, "split_rule": "s4", "mask_zero_pixels": False}),
    "path_x": (256, 6, 64, "pre", 0, 16, 0.001, 500_000, 50_000, 1e-4, 256, {
        "pixels": "scalar", "mean": 0, "std": 1, "split_rule": "s4", "mask_zero_pixels": False}),
}  # fmt: skip

# facebookresearch/mega at aeaa4b4: layers, d, h, z, norm, norm position, function, lr, batch, parts
# of it, updates, warm-up and its power, weight decay, dropout, what the task says
HALF = {"pixels": "scalar", "mean": 0.5, "std": 0.5, "split_rule": "s4", "mask_zero_pixels": False}
MEGA: dict[str, tuple[Any, ...]] = {
    "listops": (6, 80, 160, 64, "layer", "post", "softmax", 1e-3, 64, 1, 90_000, 3_000, 1, 0.01,
                0.1, {"max_length": 2000}),
    "text": (4, 128, 256, 64, "scale", "post", "softmax", 4e-3, 50, 2, 25_000, 10_000, 1, 0.01,
             0.1, {"split": "legacy", "tokens": "bytes", "max_length": 4000}),
    "retrieval": (6, 128, 256, 64, "scale", "post", "softmax", 3e-3, 64, 8, 91_960, 10_000, 1,
                  0.04, 0.1, {"tokens": "bytes", "max_length": 4000}),
    "image": (8, 160, 320, 96, "batch", "pre", "laplace", 0.01, 50, 1, 180_000, 9_000, 1, 0.02, 0,
              {"gray": "pil", "pixels": "scalar", "mean": 0.48, "std": 0.24}),
    "pathfinder": (6, 128, 256, 64, "batch", "pre", "laplace", 0.01, 128, 1, 250_000, 50_000, 1,
                   0.01, 0, HALF),
    "path_x": (4, 64, 128, 32, "batch", "pre", "laplace", 0.01, 128, 8, 125_000, 25_000, 2, 0.01,
               0, HALF),
}  # fmt: skip
