"""README and docs against the code: commands, files, names and links are taken from the pages."""

import ast
import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from photon.commands.cli import build_parser
from tasks.evaluate import Evaluation
from tasks.schema import EvalConfig, RunConfig
from tests.test_configs import checked

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Words that stand for a reader's own; paths may stay as they are, since nothing is read here.
EXAMPLES = {
    "TABLE": "components",
    "dataset=NAME": "dataset=rad3d",
    "dataset=...": "dataset=records",
    "=...": "=given",
    "num_nodes=N": "num_nodes=2",
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:(?<=\n\n)|(?<=\A))((?: {4}[^\n]*\n)+)")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"(?:^|[ \"(])((?:python|torchrun|make) .*)")
OURS = re.compile(r"(?:photon|tasks|conf|tests|docs|notebooks|hydra_plugins)/[\w./*-]+")
NAME = re.compile(r"(?:photon|tasks)(?:\.\w+)+")


def spans(page: Path) -> list[str]:
    """Inline code of a page, on one line each."""
    return [" ".join(s.split()) for s in SPAN.findall(FENCE.sub("", page.read_text()))]


def commands(page: Path) -> list[list[str]]:
    """The words of every command of a page: in fenced and indented blocks, and in inline code."""
    text = page.read_text()
    blocks = [body for _, kind, body in FENCE.findall(text) if kind in ("", "bash", "sh")]
    blocks += [body for body in INDENTED.findall(FENCE.sub("", text))]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in [*(line.strip() for line in lines), *spans(page)]:
        told = COMMAND.search(line)
        if told and "<<" not in line:
            words = shlex.split(told[1].rstrip('"') if told[1].count('"') % 2 else told[1], True)
            found.append([word for word in words if word not in ("...", "KEY=VALUE")])
    return found


def cases(*starts: str) -> list:
    """Test parameters: every different command whose words begin in one of these ways."""
    found = {
        tuple(words): page.name
        for page in PAGES
        for words in commands(page)
        if " ".join(words).startswith(starts)
    }
    return [pytest.param(list(w), id=f"{name}:{' '.join(w)[:80]}") for w, name in found.items()]


def check_run(words: list[str], *more: str) -> None:
    """A command of train.py or eval.py composes and passes the check of its configuration."""
    at = next(i for i, word in enumerate(words) if word in ("train.py", "eval.py"))
    name = words[at].removesuffix(".py")
    given = [example(w) for w in words[at + 1 :] if not w.startswith("-") and w != "job"]
    parsed = OverridesParser.create().parse_overrides(given)
    ends = [[], []]
    for override, text in zip(parsed, given, strict=True):
        key = text.split("=")[0]
        swept = list(override.sweep_string_iterator()) if override.is_sweep_override() else None
        for end, i in zip(ends, (0, -1), strict=True):
            end.append(text if swept is None else f"{key}={swept[i]}")
    for overrides in ends if ends[0] != ends[1] else ends[:1]:
        schema = RunConfig if name == "train" else EvalConfig
        plain = checked(*overrides, *more, name=name, schema=schema)
        Evaluation(**plain["evaluation"])


def example(word: str) -> str:
    for stands, value in EXAMPLES.items():
        word = word.replace(stands, value)
    return word


@pytest.mark.parametrize("words", cases("python train.py", "python eval.py", "torchrun"))
def test_runs_compose_and_bind(words: list[str]) -> None:
    if any(name in word for word in words for name in ("key_norm", "sparsity", "sides")):
        pytest.skip("of docs/extending.md: tests/test_extending.py runs it")
    check_run(words)


@pytest.mark.parametrize("words", cases("python -m photon"))
def test_commands_parse(words: list[str]) -> None:
    if words[2] != "photon":
        assert importlib.util.find_spec(words[2]) is not None
        return
    if len(words) > 3 and words[3].isupper():
        return  # `python -m photon COMMAND`
    if "sides" in words:
        pytest.skip("of docs/extending.md: tests/test_extending.py runs it")
    try:
        # A command that prose only names has no arguments.
        args = build_parser().parse_args(words[3:] if len(words) > 4 else [*words[3:], "--help"])
    except SystemExit as stop:
        assert stop.code == 0, words
    else:
        assert callable(args.run)


@pytest.mark.parametrize("words", cases("make "))
def test_make_targets_exist(words: list[str]) -> None:
    rules = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [word for word in words[1:] if "=" not in word]
    assert set(wanted) <= set(" ".join(rules).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_names_exist(page: Path) -> None:
    """Paths and dotted names in inline code; files that the page itself writes do not count."""
    gone = []
    own = set(re.findall(r"^`([\w/.]+)`:$", page.read_text(), re.MULTILINE))
    for span in spans(page):
        path = span.split("::")[0].rstrip("/")
        if "NAME" in span:
            continue
        if OURS.fullmatch(path) and path not in own and not list(ROOT.glob(path)):
            gone.append(path)
        if NAME.fullmatch(span) and not resolves(span):
            gone.append(span)
    assert not gone, f"{page.name}: {gone}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_equations_are_where_the_table_says() -> None:
    """Every function of a row "| equation | functions | files |" is defined in one of its files."""
    table = re.findall(
        r"^\| (\d+[^|]*) \| ([^|]*) \| ([^|]*`photon/[^|]*) \|$", PAGES[0].read_text(), re.M
    )
    equations = set()
    for numbers, functions, files in table:
        text = "".join((ROOT / name).read_text() for name in re.findall(r"`([^`]+)`", files))
        for name in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"^(class|def) {name}\b", text, re.M), (numbers, name)
        ends = [int(n) for n in re.findall(r"\d+", re.sub(r"A\.[\d.]+", "", numbers))]
        equations |= set(range(min(ends), max(ends) + 1)) if "-" in numbers else set(ends)
    assert equations >= set(range(1, 22)), set(range(1, 22)) - equations


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_on_a_page_compiles_and_imports(page: Path) -> None:
    for _, kind, body in FENCE.findall(page.read_text()):
        if kind != "python":
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.Import):
                assert all(resolves(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert all(resolves(f"{node.module}.{alias.name}") for alias in node.names)


def test_commands_are_found_wherever_a_page_has_them(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`python train.py\nseed=1` and\n\n```\npython eval.py ckpt=A \\\n  seed=2 ...  # why\n```\n"
        "\n    make demo  # all\n\n```python\npython = 1\n```\n"
    )
    assert commands(page) == [
        ["python", "eval.py", "ckpt=A", "seed=2"],
        ["make", "demo"],
        ["python", "train.py", "seed=1"],
    ]
    with pytest.raises(Exception, match="taau"):
        check_run(["python", "train.py", "pruner.taau=1"])
    assert not resolves("photon.model.photon.PhotonModle") and resolves("photon.losses.Band.low")
