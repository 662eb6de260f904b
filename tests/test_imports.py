"""The import arrow kernels <- models <- lra <- run.py, and what may be imported when, read off the
source of every file."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what each may import of the checkout
ALLOWED = {
    "kernels": {"kernels"},
    "models": {"kernels", "models"},
    "lra": {"kernels", "models", "lra"},
    "plots": {"plots", "lra"},
    "run.py": {"lra"},
}
OURS = {"kernels", "models", "lra", "plots", "run", "tests"}
FILES = [
    path for top in ALLOWED
    for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
]  # fmt: skip


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, *, at_start: bool = False) -> Iterator[str]:
    """Dotted names that a file imports; ``at_start``: only where importing the file runs it."""
    todo = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif at_start and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        elif at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        todo += ast.iter_child_nodes(node)


def top(dotted: str) -> str:
    return dotted.partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_imports_follow_the_arrow(path):
    allowed = ALLOWED[path.relative_to(ROOT).parts[0]]
    wrong = {found for found in imports(path) if top(found) in OURS - allowed}
    assert not wrong, f"{name(path)} must not import {sorted(wrong)}"


def test_plots_reads_results_only():
    """The schema and its readers; neither torch nor anything that computes."""
    for path in (ROOT / "plots").rglob("*.py"):
        for found in imports(path):
            assert top(found) not in ("torch", "lightning_fabric", "hydra", "wandb"), name(path)
            if top(found) == "lra":
                assert found.startswith(("lra.results.", "lra.errors.")), f"{name(path)}: {found}"


def test_kernels_know_no_module_and_no_config():
    for path in (ROOT / "kernels").rglob("*.py"):
        text = path.read_text()
        assert "nn.Module" not in text and "omegaconf" not in text, name(path)


def test_models_read_no_file():
    forbidden = {"pathlib", "datasets", "pandas", "json", "omegaconf", "hydra", "time"}
    for path in (ROOT / "models").rglob("*.py"):
        assert not forbidden & {top(found) for found in imports(path)}, name(path)
        assert not re.search(r"\bopen\(", path.read_text()), name(path)


LIGHT = {"hydra", "omegaconf", *sys.stdlib_module_names}


def reached(path: Path, seen: dict[Path, set[str]]) -> dict[Path, set[str]]:
    """The files of the checkout that importing a file runs, with what else each imports."""
    if path not in seen:
        seen[path] = set()
        for found in imports(path, at_start=True):
            if top(found) not in OURS:
                seen[path].add(top(found))
                continue
            parts = found.split(".")
            for end in range(1, len(parts) + 1):
                base = ROOT.joinpath(*parts[:end])
                for file in (base / "__init__.py", base.with_suffix(".py")):
                    if file.is_file():
                        reached(file, seen)
    return seen


@pytest.mark.parametrize("start", ["run.py", "lra/app.py", "lra/config.py", "lra/cli/main.py"])
def test_nothing_heavy_before_a_job_starts(start):
    for path, others in reached(ROOT / start, {}).items():
        assert others <= LIGHT, f"{start} imports {sorted(others - LIGHT)} through {name(path)}"


def test_sweeps_and_schema_need_no_torch():
    """A sweep's parent waits for hours: it holds no torch; results are read without it."""
    for start in ("lra/sweep.py", "lra/results/collect.py", "lra/results/cell.py"):
        for path, others in reached(ROOT / start, {}).items():
            heavy = others & {"torch", "datasets", "lightning_fabric", "pandas", "wandb"}
            assert not heavy, f"{start} imports {heavy} through {name(path)}"


@pytest.mark.parametrize(
    "package", ["triton", "flash_attn", "xformers", "fla", "mamba_ssm", "causal_conv1d"]
)
def test_gpu_libraries_are_never_imported_at_start(package):
    """But in the files of a backend, which dispatch imports when it is asked for."""
    for path in FILES:
        backend = path.parent.parent == ROOT / "kernels" and path.stem.startswith("triton_")
        if package == "triton" and backend:
            continue
        assert package not in {top(found) for found in imports(path, at_start=True)}, name(path)


def test_backends_of_libraries_are_imported_by_dispatch_alone():
    for path in FILES:
        for found in imports(path, at_start=True):
            part = found.split(".")[2:3]
            asked = found.startswith("kernels.") and part and part[0].startswith("triton_")
            assert not asked or path.stem.startswith("triton_"), f"{name(path)} imports {found}"


def test_no_module_hides_a_library():
    """kernels/attention/torch.py would be imported where somebody means torch."""
    assert not [name(path) for path in FILES if path.stem in ("torch", "triton", "numpy")]
