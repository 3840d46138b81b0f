"""conf/experiment/phantom_study: the points of every table compose, bind, and differ."""

import json

import pytest

from tasks.entry import CONF, point_name
from tasks.evaluate import Evaluation
from tests.test_configs import checked, points_of

FOLDER = CONF / "experiment" / "phantom_study"
TABLES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "base")


def test_the_tables_that_the_study_promises() -> None:
    assert set(TABLES) >= {
        "keep_ratio", "direction", "components", "hyper", "bias",
    }  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_point_of_a_table(table: str) -> None:
    """Three seeds, and every point of the first: all are different runs in different folders."""
    points = points_of(f"experiment=phantom_study/{table}")
    assert len({point_name(",".join(sorted(point))) for point in points}) == len(points)
    first = [point for point in points if "seed=0" in point]
    assert len(points) == 3 * len(first)
    found = set()
    for overrides in first:
        plain = checked(f"experiment=phantom_study/{table}", *overrides)
        Evaluation(**plain["evaluation"])
        assert plain["trainer"]["max_steps"] > 0 and plain["callbacks"]["checkpoint"] is None
        found.add(json.dumps(plain, sort_keys=True))
    assert len(found) == len(first)


@pytest.mark.parametrize(
    ("table", "phases"),
    [("components", ["finetune"]), ("align", ["align"]), ("windows", ["align", "finetune"])],
)
def test_phases_of_a_table_in_their_order(table: str, phases: list[str]) -> None:
    shares = checked(f"experiment=phantom_study/{table}")["phases"]
    assert [phase for phase, share in shares.items() if share] == phases
