"""A sweep over rows: overrides of different keys, as the rows of a paper's ablation table are.

Hydra finds sweepers in the package `hydra_plugins` only.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override

# What `hydra.sweeper` holds; a dataclass needs its module, which Hydra has not registered yet here.
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="rows",
    node={
        "_target_": "hydra_plugins.rows.RowSweeper",
        "max_batch_size": None,
        "params": {},
        "rows": [],
    },
)


class RowSweeper(BasicSweeper):
    """Hydra's basic sweeper, which runs every combination of `params`, with every row beside it.

    Args:
        max_batch_size, params: as of the basic sweeper.
        rows: lists of overrides, `KEY=VALUE` each; an empty list is the run as it is.
    """

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
        rows: Sequence[Sequence[str]] = (),
    ):
        super().__init__(max_batch_size, params)
        self.rows = [list(row) for row in rows] or [[]]

    def split_arguments(
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Batches of points; a key of the command line counts over the same key of a row."""
        batches = BasicSweeper.split_arguments(overrides, None)
        given = {override.get_key_element() for override in overrides}
        rows = [[part for part in row if part.split("=")[0] not in given] for row in self.rows]
        points = [[*row, *point] for batch in batches for point in batch for row in rows]
        points = [list(point) for point in dict.fromkeys(map(tuple, points))]
        return list(self.split_overrides_to_chunks(points, max_batch_size))
