"""docs/extending.md: its files, taken from the page and put beside ours, train and answer."""

import importlib
import json
import re
import shlex
from pathlib import Path

import hydra
import pytest

from photon.benchmarks.registry import find_benchmark
from photon.commands.cli import build_parser
from photon.pruning.named import pruners
from photon.weights.checkpoints import load_export, save_export
from tasks.entry import CONF
from tasks.evaluate import Evaluation, score_files
from tasks.schema import instantiate, to_plain
from tests import test_training
from tests.test_training import OPTIONS, configure, data, train  # noqa: F401

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
FILE = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def command(title: str) -> list[str]:
    """The overrides of a section's first command of train.py, but for its name and its steps."""
    words = shlex.split(re.search(r"^python train\.py (.*)$", section(title), re.MULTILINE)[1])
    return [word for word in words if not word.startswith(("name=", "trainer."))]


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Writes a section's files to a folder that the packages and the search for conf/ reach too."""

    def write(title: str, train: bool = True) -> list[str]:
        written = FILE.findall(section(title))
        assert [name.split("/")[0] == "conf" for name, _ in written] == [False, True]
        for name, text in written:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        package = importlib.import_module(str(Path(written[0][0]).parent).replace("/", "."))
        folder = str((tmp_path / written[0][0]).parent)
        monkeypatch.setattr(package, "__path__", [*package.__path__, folder])
        pruners.cache_clear()
        search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
        return [search, *(command(title) if train else [])]

    yield write
    pruners.cache_clear()


def test_a_new_pruner_trains_and_its_export_loads(data, beside, tmp_path, monkeypatch) -> None:  # noqa: F811
    wanted = beside("A pruner")
    monkeypatch.setattr(test_training, "OPTIONS", [o for o in OPTIONS if "pruner.hidden" not in o])
    config = configure(data, *wanted, "trainer.max_steps=4", "pruner.keep=0.5")
    model, log = train(config, tmp_path / "run")
    assert log["keep"].iloc[-1] == pytest.approx(0.5) and log["loss"].notna().all()
    save_export(model, tmp_path / "export")
    again = load_export(tmp_path / "export")
    assert type(again.pruner) is type(model.pruner) and again.pruner.keep == 0.5


def test_a_new_benchmark_is_read_and_scored(beside, tmp_path, capsys) -> None:
    wanted = beside("A benchmark", train=False)
    folder = tmp_path / "Sides"
    folder.mkdir()
    lines = ["volume,question,answer", "a.nii,Which kidney?,A", "b.nii,Which lung?,B", "c.nii,?,C"]
    (folder / "test.csv").write_text("\n".join(lines))
    answers = [{"id": "2", "response": "A. left"}, {"id": "3", "response": "right"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    check = ["check", "--dataset", "sides", "--root", str(tmp_path), "--no-volumes"]
    args = build_parser().parse_args(check)
    assert args.run(args) == 1 and "answer choice 'C'" in "".join(capsys.readouterr())
    read = find_benchmark("sides")(str(tmp_path)).read("test")
    assert [str(p) for p in read.problems] == [
        f"{folder / 'test.csv'}:4: answer choice 'C' is not among the options (A, B)"
    ]
    words = ["dataset=sides", f"dataset.reader.root={tmp_path}", *wanted]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_plain(hydra.compose("eval", words))
    sides = instantiate(config["dataset"], "dataset")
    files = [str(tmp_path / "answers.jsonl")]
    metrics = score_files(files, sides, Evaluation(), tmp_path / "run", "hash")
    found = metrics["benchmark"]["protocols"]
    values = {p: found[p]["all"]["measures"]["Sides | Accuracy"]["value"] for p in found}
    assert values == {"official": 0.5, "strict": 1.0}
    assert "# Sides" in (tmp_path / "run" / "benchmark.md").read_text()


def test_a_new_loss_term_adds_its_price(data, beside, tmp_path) -> None:  # noqa: F811
    wanted = beside("A loss term")
    quick = ("trainer.max_steps=20", "task.finetune.optimizer.lr=3e-3")
    config = configure(data, *wanted, *quick)
    _, log = train(config, tmp_path / "run")
    priced = log[log["keep/soft"].notna()]
    expected = priced["keep/soft"] * 0.5
    whole = priced["loss/robust"] == 0  # a perturbed volume's questions do not count
    assert priced["loss/sparsity"][whole].to_numpy() == pytest.approx(expected[whole], rel=1e-4)
    assert (log["loss/sparsity"][log["keep/soft"].isna()] == 0).all() and whole.any()
