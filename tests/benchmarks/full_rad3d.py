"""A 3D-RAD tree of the published size with invented text, and what reading it costs.

python -m tests.benchmarks.full_rad3d FOLDER    (figures: docs/results.md)
"""

import resource
import sys
import time
from itertools import cycle
from pathlib import Path

from photon.benchmarks.rad3d import FOLDERS, Rad3D
from tests.benchmarks.published import RAD3D, rad3d_rows, write_csv

# Rows and scans as published (reference: the repository's files, counted).
ROWS = {
    "train": (2_081, 6_055, 1_573, 100_170, 13_158, 13_158),
    "test": (1_024, 2_666, 1_002, 23_472, 2_873, 2_873),
}
SCANS = {"train": 13_526, "test": 2_696}


def write_full(root: Path) -> None:
    """All 92 files; the rows of a task are spread evenly over its files."""
    for split, counts in ROWS.items():
        scans = cycle(f"{split}_{number}_a_1.nii.gz" for number in range(SCANS[split]))
        for (folder, (_, subtasks)), count in zip(FOLDERS.items(), counts, strict=True):
            names = subtasks[split] if isinstance(subtasks, dict) else subtasks
            for number, name in enumerate(names, start=1):
                wanted = count // len(names) + (number <= count % len(names))
                rows: list[list[str]] = []
                while len(rows) < wanted:
                    rows += rad3d_rows(folder, number, name, next(scans))
                path = root / "3D-RAD" / "3DRAD" / split / folder / f"{name}.csv"
                write_csv(path, RAD3D, rows[:wanted])


def main() -> None:
    root = Path(sys.argv[1])
    write_full(root)
    started, cpu = time.perf_counter(), time.process_time()
    reader = Rad3D(str(root))
    readings = {split: reader.read(split) for split in ROWS}
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    for split, reading in readings.items():
        assert len(reading.records) == reader.expected(split) and not reading.problems
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = sum(map(sum, ROWS.values()))
    print(f"{rows} rows in {seconds:.1f} s ({cpu:.1f} s of one core), peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
