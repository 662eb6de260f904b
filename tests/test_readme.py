"""Every command of the README runs, smaller: same words, fewer steps, results in a folder aside."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SMALL = (
    "protocol=smoke", "logger=none", "recipe.steps=4", "recipe.eval_every=2", "recipe.batch=8",
    "task.n_train=64", "task.n_val=16", "task.n_test=16",
)  # fmt: skip


def commands() -> list[str]:
    """The lines of the README's bash blocks, chains taken apart, comments removed, and the whole
    commands in its text; each once."""
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    parts = [part for line in lines for part in re.sub(r"\s+#.*", "", line).split(" && ")]
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    parts += re.findall(r"`(python [^`]+)`", text)
    return list(dict.fromkeys(" ".join(part.split()) for part in parts))


def smaller(command: str, folder: Path) -> list[str]:
    """The command's words, with what makes it small and keeps it out of the checkout."""
    # one or two of the models stand for all, one seed for three: each is a process of its own
    for many, few in (
        ("model=glob(*)", "model=glob(linf*)"),
        ("op=glob(*)", "op=glob(merge*)"),
        ("seed=0,1,2", "seed=0"),
        ("experiment=three_seeds", "experiment=three_seeds model=linformer seed=0"),
    ):
        command = command.replace(many, few)
    words = shlex.split(command)
    data, results = str(folder / "data"), str(folder / "results")
    if "task=kernels" in words:
        # one variant, and none of the backends that are compiled first, which takes half a minute
        words += ["op.lengths=[64]", "op.dtypes=[float32]"]
        words += ["op.variants=[{causal: false}]"] if "op=attention" in words else []
        words = [word for word in words if word != "backend=all"]
        words += ["backend=[reference,eager]"]
        words += [f"paths.results={results}"]
    elif "task=lengths" in words or "experiment=speed_table2" in words:
        words += ["protocol=smoke", "task.lengths=[16]", f"paths.results={results}"]
        if "task=lengths" not in words:
            # one of eleven, and narrow
            words += ["model=transformer", "recipe.dim=16", "recipe.depth=1"]
    elif "run.py" in words and "--cfg" not in words:
        words += [*SMALL, f"paths.data={data}", f"paths.results={results}"]
    elif words[1:4] == ["-m", "lra", "prepare"]:
        words += ["--protocol", "smoke", "--root", data]
    elif words[1:4] == ["-m", "lra", "collect"] or words[1:3] == ["-m", "plots"]:
        words += ["--results", results]
    return words


def test_every_command_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n# my_module.py\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my_module.py").write_text(code)
    published = tmp_path / "results" / "published"
    published.parent.mkdir()
    published.symlink_to(ROOT / "results" / "published")
    found = commands()
    installs = [c for c in found if c.startswith(("pip ", "pytest"))]
    # these two are how this test came to run
    assert installs == ["pip install -e .", "pip install -e '.[test]'", "pytest"]
    assert "pip install --quiet -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in found:
        if command in installs:
            continue
        words = smaller(command, tmp_path)
        env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            env[name] = value.replace(".", str(tmp_path), 1)
        done = subprocess.run(
            words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=550, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), f"README links to {target}"
