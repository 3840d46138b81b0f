"""docs/extending.md: its files, taken from the page and put beside ours, train and answer."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from photon.pruning.named import pruners
from photon.weights.checkpoints import load_export, save_export
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

    def write(title: str) -> list[str]:
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
        return [f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *command(title)]

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
