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
# The rooms of photon/ from the ground up: a room imports only itself and those before it.
ROOMS = (
    "docstrings",
    "errors",
    "annotations",
    "files",
    "imports",
    "packing",
    "peak",
    "volume",
    "questions",
    "phantoms",
    "batch",
    "pruning",
    "model",
    "losses",
    "weights",
    "evaluation",
    "benchmarks",
    "study",
    "cost",
    "view",
    "commands",
)
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


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module to the modules among `sources` that it imports, in functions and for types too."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                deeper = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (deeper & sources.keys()) or {node.module}
        graph[module] = (found & sources.keys()) - {module}
    return graph


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a room of `photon` from one above it; the first name below photon is the room."""
    height = {name: place for place, name in enumerate(ROOMS)}

    def room(module: str) -> str:
        return module.split(".")[1]

    return [
        f"{module} -> {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if "." in other and height[room(other)] > height[room(module)]
    ]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules on a circle of imports: those that reach themselves."""
    found = []
    for start in sorted(graph):
        reached, waiting = set(), list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in reached:
                reached.add(module)
                waiting += graph[module]
        if start in reached:
            found.append(start)
    return found


def photon_sources() -> dict[str, str]:
    packages = [p for p in PACKAGES if p.relative_to(ROOT).parts[0] == "photon"]
    names = {module_name(p): p.read_text() for p in packages}
    return {name: text for name, text in names.items() if name not in ("photon", "photon.__main__")}


def test_rooms_import_only_rooms_below_them() -> None:
    assert not upward(import_graph(photon_sources()))


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles(import_graph(photon_sources()))


def test_the_room_check_finds_an_import_that_goes_up_and_a_circle() -> None:
    sources = {
        "photon.volume.store": "def f():\n    from photon.model.layers import rope\n",
        "photon.model.layers": "from photon.model import photon\n",
        "photon.model.photon": "import photon.model.layers\n",
    }
    graph = import_graph(sources)
    assert upward(graph) == ["photon.volume.store -> photon.model.layers"]
    assert circles(graph) == ["photon.model.layers", "photon.model.photon"]


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
