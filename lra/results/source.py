"""Which source files a result depends on, and one digest of them all.

A file depends on what it imports from the checkout's packages. A package of ``kernels`` counts with
all its files, since its backends are imported by name at run time. A file outside the checkout also
depends on the modules beside it.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kernels", "models", "lra")


def closure(files: Iterable[Path]) -> list[Path]:
    """The files and all that they import, directly or not, sorted; imports inside functions count.

    Raises:
        SyntaxError: a Python file cannot be parsed.
    """
    found: set[Path] = set()
    waiting = [Path(file).resolve() for file in files]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _needs(file, file.stat().st_mtime_ns)
    return sorted(found)


def source_digest(files: Iterable[Path], within: Sequence[str] = ("",)) -> str:
    """sha256 over names and code of the closure; 64 hexadecimal digits.

    A name counts from the checkout, so that the digest is the same on every machine. Comments,
    docstrings and blank lines of Python files do not count: they change no number.

    Args:
        files: where to start.
        within: only files of the checkout under these folders count, and those outside of it.
    """
    digest = hashlib.sha256()
    for name, file in sorted((_name(file), file) for file in closure(files)):
        if file.is_relative_to(ROOT) and not name.startswith(tuple(within)):
            continue
        content = _code(file)
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _code(file: Path) -> bytes:
    """The lines that act, cut from the text: dumps of a syntax tree differ between Pythons."""
    content = file.read_bytes().replace(b"\r\n", b"\n")
    if file.suffix != ".py":
        return content
    text = content.decode()
    lines = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text, filename=str(file))):
        if _is_text(node):
            assert isinstance(node, ast.Expr) and node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip()).encode()


def _is_text(node: ast.AST) -> bool:
    """A string that stands alone: a docstring."""
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


@cache
def _needs(file: Path, version: int) -> tuple[Path, ...]:
    """What a file needs itself: its imports, and its neighbours in a package of ``kernels``.

    ``version`` is its time of change, which makes the cache forget an older text.
    """
    needs: list[Path] = []
    if file.is_relative_to(ROOT / "kernels") and file.parent != ROOT / "kernels":
        needs += _files_of(ROOT / "kernels" / file.relative_to(ROOT / "kernels").parts[0])
    if file.suffix == ".py":
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        for name in _imported(tree, file):
            needs += _modules(name, file)
    return tuple(needs)


def _files_of(package: Path) -> list[Path]:
    return [
        path for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]  # fmt: skip


def _imported(tree: ast.Module, file: Path) -> Iterator[str]:
    """Dotted names that may be modules: ``from a.b import c`` gives a.b and a.b.c."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = file.relative_to(ROOT).parts[: -node.level] if _inside(file) else ()
                base = ".".join([*package, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _inside(file: Path) -> bool:
    return file.is_relative_to(ROOT)


def _modules(name: str, file: Path) -> Iterator[Path]:
    """The files that importing a dotted name runs: each package on the way, then the module."""
    parts = name.split(".")
    if parts[0] in PACKAGES:
        root = ROOT
    elif not _inside(file):
        root = file.parent
    else:
        return
    for end in range(1, len(parts) + 1):
        base = root.joinpath(*parts[:end])
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                yield candidate.resolve()
