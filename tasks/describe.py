"""docs/configuration.md from conf/ and the docstrings of what it names.

python -m tasks.describe           # write the page
python -m tasks.describe --check   # exit code 1 where it is stale
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from photon.annotations import hints_of, options, spell
from photon.docstrings import arguments
from tasks.entry import CONF
from tasks.evaluate import Evaluation
from tasks.places import find_target

PAGE = CONF.parent / "docs" / "configuration.md"
GROUPS = ("model", "dataset", "task", "pruner", "trainer", "logger", "experiment", "ablation")
GROUPS += ("hydra/launcher",)
OURS = ("photon.", "tasks.")  # targets whose further arguments are listed too
HEAD = """# Configuration

Written by `python -m tasks.describe` from `conf/` and docstrings; change those, not this page.

Set any key as `KEY=VALUE`, choose a file of a group with `GROUP=NAME`, add a key that no file
lists with `+KEY=VALUE` (such keys are marked + below), leave one out with `~KEY`. `python
train.py --cfg job` prints the whole composed configuration. Keys of a group begin with its name:
`pruner.tau`, `task.finetune.band.on`.

Before anything is built, the arguments of every `_target_` are bound to the signature of what it
names and to its ranges, and all mistakes come in one message with the nearest legal name. What a
`_target_` may name depends on its place: a callback below `callbacks`, an optimiser below
`task.*.optimizer` (`tasks/places.py`, [security.md](security.md)).

A run directory belongs to one configuration (`run.json`). Free to change in an existing one are
the keys of `tasks.rundir.NEUTRAL_KEYS`; anything else is refused with a list of the keys that
differ: give the run another `name`.
"""


@dataclass(frozen=True)
class Leaf:
    """One value of a file: its key, as written, the comment beside or above it, and the innermost
    `_target_` around it with the key from there on."""

    key: str
    text: str
    comment: str
    target: str | None
    inner: tuple[str, ...]


def leaves(path: Path) -> list[Leaf]:
    """Every value of a YAML file in order, but for the defaults list and Hydra's own settings."""
    text = path.read_text()
    lines, told = text.splitlines(), set()

    def comment(first: int, last: int) -> str:
        if last in told:
            return ""
        told.add(last)
        if " # " in lines[last]:
            return lines[last].split(" # ", 1)[1].strip()
        above = first
        while above > 0 and lines[above - 1].strip().startswith("# "):
            above -= 1
        return "" if above == 0 else " ".join(x.strip()[2:] for x in lines[above:first])

    def walk(node: yaml.Node, key: tuple, target: str | None, depth: int) -> Iterator[Leaf]:
        if not isinstance(node, yaml.MappingNode) or not node.value:
            first, last = node.start_mark.line, node.end_mark.line
            last = min(last if node.end_mark.column else last - 1, len(lines) - 1)
            said = " ".join(text[node.start_mark.index : node.end_mark.index].split())
            yield Leaf(".".join(key), said, comment(first, last), target, key[depth:])
            return
        for name, child in node.value:
            if name.value == "_target_" and not child.value.startswith("hydra_plugins."):
                target, depth = child.value, len(key)
        for name, child in node.value:
            if name.value not in ("_target_", "_partial_") and (key or name.value != "defaults"):
                yield from walk(child, (*key, name.value), target, depth)

    root = yaml.compose(text)
    return [leaf for leaf in walk(root, (), None, 0) if leaf.key] if root is not None else []


def head(path: Path) -> str:
    """The comment at the top of a file, without its `# @package` line, cost and command."""
    found: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith(("# Cost:", "# Run:")) or not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            found.append(line[1:].strip().removeprefix("Claim:").strip())
    return " ".join(found)


def explain(target: Callable, key: tuple[str, ...]) -> tuple[str, str]:
    """(legal type, meaning) of an argument of `target`, or of a dataclass that is its argument."""
    hints, name = hints_of(target), key[0]
    if len(key) > 1:
        inner = [one for one in options(hints.get(name)) if dataclasses.is_dataclass(one)]
        return explain(inner[0], key[1:]) if inner else ("", "")
    legal = spell(hints[name]) if name in hints else ""
    legal = re.sub(r"(?:\w+\.)+(\w+)", r"\1", legal)  # without the modules of types
    return legal, arguments(target).get(name, "")


def rows(found: list[Leaf], prefix: str = "") -> list[list[str]]:
    """Cells of a table of keys: those of the files, each once, then further arguments of our own
    targets. Fields that nothing here describes (of the stock configurations) share a row."""
    table: dict[str, list[str]] = {}
    given: dict[str, tuple[str, set[str]]] = {}  # of a target: where it stands, its arguments
    for leaf in found:
        key = prefix + leaf.key
        ours = leaf.target is not None and leaf.target.startswith(OURS)
        target, inner = None, leaf.inner
        if ours:
            where = given.setdefault(leaf.target, (key.removesuffix(".".join(inner)), set()))
            where[1].add(inner[0])
            target = find_target(leaf.target, key.removesuffix(".".join(inner))[:-1])
        if target is None and inner[0] == "evaluation":
            target, inner = Evaluation, inner[1:]
        legal, meaning = explain(target, inner) if target else ("", "")
        meaning = meaning or leaf.comment
        above = key.rpartition(".")[0]
        if target and len(inner) > 1 and not legal + meaning:
            row = table.setdefault(f"{above}.*", [f"{above}.*", "", "", ""])
            names = [n for n in row[3].split(", ") if n]
            row[3] = ", ".join(dict.fromkeys([*names, f"`{inner[-1]}`"]))
        elif key not in table:
            table[key] = [key, leaf.text, legal, meaning]
    for name, (where, there) in given.items():
        target = find_target(name, where[:-1])
        for parameter in inspect.signature(target).parameters.values():
            legal, meaning = explain(target, (parameter.name,))
            known = parameter.name in there or f"{where}{parameter.name}" in table
            if not known and parameter.default is not parameter.empty and meaning:
                default = "null" if parameter.default is None else str(parameter.default)
                default = "" if default.startswith("<") else default
                key = f"{where}{parameter.name} +"
                table.setdefault(key, [key, default, legal, meaning])
    return list(table.values())


def markdown(header: list[str], body: list[list[str]]) -> list[str]:
    """A table; the first column is code, as is the second of four."""
    code = (0, 1) if len(header) == 4 else (0,)
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for cells in body:
        cells = [cell.rstrip(".").replace("|", "\\|") for cell in cells]
        cells = [f"`{c}`" if i in code and c else c for i, c in enumerate(cells)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def described(group: str) -> list[str]:
    """The section of a group: its files, and the keys that they set."""
    # Files that others build on come first: theirs are the values that a key has at first.
    folder = CONF / group
    files = sorted(folder.rglob("*.yaml"), key=lambda p: (inherits(p), p.stem != "photon", str(p)))
    names = [str(path.relative_to(folder).with_suffix("")) for path in files]
    lines = [f"## {group}", ""]
    lines += markdown(["file", "what"], list(zip(names, map(head, files), strict=True)))
    if group not in ("experiment", "ablation"):
        found = [leaf for path in files for leaf in leaves(path)]
        prefix = f"{group.replace('/', '.')}."
        lines += markdown(["key", "first value", "legal", "meaning"], rows(found, prefix))
    return lines


def page() -> str:
    """The text of docs/configuration.md."""
    lines, seen = [*HEAD.splitlines(), ""], []
    for name in ("train", "eval"):
        top = [x for x in leaves(CONF / f"{name}.yaml") if not x.key.startswith("hydra.")]
        body = [row for row in rows(top) if row not in seen]
        seen += body
        lines += [f"## {name}.py (conf/{name}.yaml)", ""]
        lines += markdown(["key", "first value", "legal", "meaning"], body)
    for group in GROUPS:
        lines += described(group)
    return "\n".join(lines).rstrip() + "\n"


def inherits(path: Path) -> bool:
    return "\ndefaults:" in f"\n{path.read_text()}"


def main(argv: list[str]) -> int:
    text = page()
    if "--check" in argv:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
