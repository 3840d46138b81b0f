"""The end of a sweep: its table and figures."""

from __future__ import annotations

from pathlib import Path

from photon.errors import InputError
from photon.study.report import write_study
from photon.study.runs import read_study
from tasks.progress import say


def close_sweep(folder: Path) -> None:
    """Write FOLDER/table.md, study.json and figures/ of the runs that are finished, and say so.

    What cannot be compared (no run is finished, runs without answers) is said and nothing more.
    """
    try:
        table = write_study(read_study(folder), name="table.md")
    except InputError as error:
        say("sweep", f"no table: {error}")
        return
    say("sweep", f"{table} (study.json, figures/ beside it)")
