"""The source digest covers what a result depends on, and nothing else."""

from pathlib import Path

import pytest

from lra.results import source
from lra.results.source import ROOT, closure, source_digest


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch):
    """A small checkout: models.a imports models.b and the op kernels.op; models.c stands apart."""
    monkeypatch.setattr(source, "ROOT", tmp_path)
    write(tmp_path, {
        "models/__init__.py": "", "kernels/__init__.py": "", "kernels/dispatch.py": "",
        "models/a.py": "import torch\nfrom models import b\n\ndef f():\n    import kernels.op\n",
        "models/b.py": "from models import missing\n", "models/c.py": "",
        "kernels/op/__init__.py": "from kernels.dispatch import Op\n",
        "kernels/op/eager.py": "", "kernels/op/scan.cu": "// none", "kernels/other/__init__.py": "",
        "kernels/op/__pycache__/eager.pyc": "",
    })  # fmt: skip
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def names(root: Path, files: list[Path]) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in files)


def test_closure_follows_imports_and_takes_ops_whole(checkout):
    assert names(checkout, closure([checkout / "models/a.py"])) == [
        "kernels/__init__.py", "kernels/dispatch.py", "kernels/op/__init__.py",
        "kernels/op/eager.py", "kernels/op/scan.cu", "models/__init__.py", "models/a.py",
        "models/b.py",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("models/a.py", True), ("models/b.py", True), ("kernels/op/eager.py", True),
        ("kernels/op/scan.cu", True), ("kernels/dispatch.py", True), ("models/c.py", False),
        ("kernels/other/__init__.py", False), ("kernels/op/__pycache__/eager.pyc", False),
    ],
)  # fmt: skip
def test_digest_changes_with_what_counts(checkout, changed, counts):
    before = source_digest([checkout / "models/a.py"])
    with (checkout / changed).open("a") as file:
        file.write("\nchanged = 1\n")
    assert (source_digest([checkout / "models/a.py"]) != before) == counts


def test_comments_and_docstrings_do_not_count(checkout):
    write(checkout, {"models/c.py": "def f(x):\n    return x + '# 1'\n"})
    before = source_digest([checkout / "models/c.py"])
    said = '"""A\n\nb."""\n# why\n\ndef f(x):\n    """F."""\n    return x + \'# 1\'  # so\n'
    write(checkout, {"models/c.py": said})
    assert source_digest([checkout / "models/c.py"]) == before
    write(checkout, {"models/c.py": "def f(x):\n    return x + '# 2'\n"})
    assert source_digest([checkout / "models/c.py"]) != before


def test_only_the_folders_asked_for_count(checkout):
    before = source_digest([checkout / "models/a.py"], within=("kernels/",))
    (checkout / "models/b.py").write_text("x = 1\n")
    assert source_digest([checkout / "models/a.py"], within=("kernels/",)) == before
    (checkout / "kernels/dispatch.py").write_text("x = 1\n")
    assert source_digest([checkout / "models/a.py"], within=("kernels/",)) != before


def test_digest_does_not_depend_on_place_or_line_ends(checkout, tmp_path_factory, monkeypatch):
    before = source_digest([checkout / "models/a.py"])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for file in checkout.rglob("*"):
        if file.is_file():
            target = elsewhere / file.relative_to(checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(source, "ROOT", elsewhere)
    assert source_digest([elsewhere / "models/a.py"]) == before


def test_digest_changes_with_a_name(checkout):
    before = source_digest([checkout / "models/c.py"])
    (checkout / "models/c.py").rename(checkout / "models/d.py")
    assert source_digest([checkout / "models/d.py"]) != before


def test_file_outside_brings_its_neighbours(checkout, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    write(outside, {"mine.py": "import helper, json\nimport models.c\n", "helper.py": "x = 1\n"})
    found = closure([outside / "mine.py"])
    assert {outside / "mine.py", outside / "helper.py", checkout / "models/c.py"} <= set(found)
    before = source_digest([outside / "mine.py"])
    (outside / "helper.py").write_text("x = 2\n")
    assert source_digest([outside / "mine.py"]) != before


def test_relative_import_is_followed(checkout):
    write(checkout, {"models/e.py": "from . import c\nfrom .b import thing\n"})
    assert {"models/b.py", "models/c.py"} <= set(
        names(checkout, closure([checkout / "models/e.py"]))
    )


def test_closure_of_the_real_encoder():
    found = names(ROOT, closure([ROOT / "models/backbones/encoder.py"]))
    assert {"models/norm.py", "models/spec.py", "kernels/errors.py"} <= set(found)
    assert not [name for name in found if name.startswith("lra/")]
