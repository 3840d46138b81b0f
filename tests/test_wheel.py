"""What `pip install .` carries: every file that the packages read, and the configuration."""

import fnmatch
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.mark.parametrize("package", ["photon", "tasks", "conf"])
def test_every_file_is_carried(package) -> None:
    assert any(fnmatch.fnmatch(package, p) for p in SETUPTOOLS["packages"]["find"]["include"])
    kinds = {Path(pattern).suffix for pattern in SETUPTOOLS["package-data"].get(package, ())}
    files = [p for p in (ROOT / package).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert not [p for p in files if p.suffix not in kinds | {".py"}]


def test_the_configuration_is_found_beside_the_packages() -> None:
    from tasks.entry import CONF

    assert CONF == ROOT / "conf" and (CONF / "train.yaml").is_file()
