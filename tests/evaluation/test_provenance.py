"""Where numbers come from."""

import subprocess
from pathlib import Path

from photon.evaluation.provenance import collect_provenance, file_hash


def test_provenance_names_commit_and_versions():
    provenance = collect_provenance("c" * 8, "d" * 8, seed=3)
    assert provenance["config_hash"] == "c" * 8 and provenance["seed"] == 3
    assert provenance["versions"]["sacrebleu"] and provenance["versions"]["python"]
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        command = ["git", "rev-parse", "HEAD"]
        head = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.strip()
        assert provenance["commit"].removesuffix("-dirty") == head


def test_file_hash_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f").startswith("ba7816bf8f01cfea")
