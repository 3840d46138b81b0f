"""Where numbers come from: commit, versions, and hashes of files."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "lightning", "numpy", "sacrebleu", "rouge-score")


def collect_provenance(
    config_hash: str | None = None, data_hash: str | None = None, **extra: Any
) -> dict[str, Any]:
    """Commit (None outside a checkout; "-dirty" with local changes), versions and given hashes."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "config_hash": config_hash,
        "data_hash": data_hash,
        "versions": versions,
        "platform": platform.platform(),
        **extra,
    }


def _commit(root: Path) -> str | None:
    if not (root / ".git").exists():  # an installed copy inside someone else's repository
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=root, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root, capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-dirty" if changes else "")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, for `data_hash`."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
