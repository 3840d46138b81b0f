"""The shape of the code: imports flow one way, ASCII, files and functions of readable size."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [p for name in ("photon", "tasks") for p in sorted((ROOT / name).rglob("*.py"))]
ENTRIES = sorted(ROOT.glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# The house asks for about 300 and 50; these are the points at which a file must be cut.
MAX_FILE, MAX_FUNCTION, MAX_ENTRY = 400, 60, 80
FORBIDDEN = {
    "photon": {"lightning", "pytorch_lightning", "hydra", "omegaconf", "tasks", "train", "eval"},
    "tasks": {"train", "eval"},
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all imports, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_imports_flow_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    wrong = imported(ast.parse(path.read_text())) & FORBIDDEN[package]
    assert not wrong, f"{relative(path)} imports {wrong}: conf -> train.py -> tasks -> photon"


def test_the_import_check_sees_every_form() -> None:
    code = "import hydra.utils\ndef f():\n    from lightning.pytorch import Trainer\n"
    assert imported(ast.parse(code)) == {"hydra", "lightning"}


@pytest.mark.parametrize("path", [*PACKAGES, *ENTRIES, *TESTS, *CONFIGS], ids=relative)
def test_ascii(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    wrong = [n for n, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    assert not wrong, f"{relative(path)}: lines {wrong} are not ASCII"


@pytest.mark.parametrize("path", [*PACKAGES, *ENTRIES], ids=relative)
def test_sizes(path: Path) -> None:
    text = path.read_text()
    limit = MAX_ENTRY if path in ENTRIES else MAX_FILE
    assert text.count("\n") <= limit, f"{relative(path)}: more than {limit} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            if node.body and ast.get_docstring(node) is not None:
                first = node.body[0]
                length -= first.end_lineno - first.lineno + 1
            assert length <= MAX_FUNCTION, f"{relative(path)}:{node.lineno} {node.name}: {length}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_notebooks_are_stored_without_output(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    assert not [c for c in cells if c.get("outputs") or c.get("execution_count")]


def test_test_files_have_unique_names() -> None:
    names = [p.name for p in TESTS if p.name.startswith("test_")]
    assert len(names) == len(set(names))
