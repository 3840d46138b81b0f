"""conf/experiment/phantom_study: the points of every table compose, bind, and differ."""

import itertools
import json
import math

import pytest
from omegaconf import OmegaConf

from tasks.entry import CONF, point_name
from tasks.evaluate import Evaluation
from tests.test_configs import checked, compose

FOLDER = CONF / "experiment" / "phantom_study"
TABLES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")


def axes_of(table: str) -> list[list[str]]:
    """Overrides along every axis of a table."""
    config = compose(f"experiment=phantom_study/{table}", with_hydra=True)
    assert config.hydra.mode.name == "MULTIRUN"
    swept = OmegaConf.to_container(config.hydra.sweeper.params)
    return [[f"{key}={value}" for value in values.split(",")] for key, values in swept.items()]


def test_the_tables_that_the_study_promises() -> None:
    assert set(TABLES) >= {
        "keep_ratio", "direction", "components", "hyper", "dynamics", "bias", "training_free",
        "organs",
    }  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_point_of_a_table(table: str) -> None:
    """Each value of each axis, the other axes at their first: all are different runs."""
    axes = axes_of(table)
    assert axes[0] == ["seed=0", "seed=1", "seed=2"]
    names = {point_name(",".join(sorted(point))) for point in itertools.product(*axes)}
    assert len(names) == math.prod(map(len, axes))
    first = [axis[0] for axis in axes]
    points = [first] + [
        [*first[:i], value, *first[i + 1 :]] for i in range(1, len(axes)) for value in axes[i][1:]
    ]
    found = set()
    for overrides in points:
        plain = checked(f"experiment=phantom_study/{table}", *overrides)
        Evaluation(**plain["evaluation"])
        assert plain["trainer"]["max_steps"] > 0 and plain["callbacks"]["checkpoint"] is None
        found.add(json.dumps(plain, sort_keys=True))
    assert len(found) == len(points)


@pytest.mark.parametrize(
    ("table", "source"), [("organs", "keep_ratio"), ("dynamics", "components")]
)
def test_a_table_that_reads_the_runs_of_another(table: str, source: str) -> None:
    """The same folder and the same configuration, so that finished runs are skipped."""
    folder = compose(f"experiment=phantom_study/{table}", with_hydra=True).hydra.sweep.dir
    assert folder == f"outputs/phantom_study/{source}"
    assert checked(f"experiment=phantom_study/{table}") == checked(
        f"experiment=phantom_study/{source}"
    )
    for mine, theirs in zip(axes_of(table), axes_of(source), strict=True):
        assert set(mine) <= set(theirs)


@pytest.mark.parametrize(
    ("table", "phases"),
    [("components", ["finetune"]), ("align", ["align"]), ("windows", ["align", "finetune"])],
)
def test_phases_of_a_table_in_their_order(table: str, phases: list[str]) -> None:
    shares = checked(f"experiment=phantom_study/{table}")["phases"]
    assert [phase for phase, share in shares.items() if share] == phases
