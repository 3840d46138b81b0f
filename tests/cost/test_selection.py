"""What choosing costs: the command, at a small size."""

import json

from photon.commands.cli import main
from photon.cost.selection import selection_text
from tests.small import SMALL


def test_selection_is_set_beside_the_prefill(tmp_path, capsys) -> None:
    words = [word for word in SMALL if not word.startswith(("pruner.", "callbacks."))]
    out = tmp_path / "selection.json"
    how = ["--layers", "2", "--rounds", "1", "--keep", "0.25", "--out", str(out)]
    names = ["divprune", "visionzip", "pyramiddrop"]
    assert main(["bench", "selection", "model=tiny", *words, *how, "--methods", *names]) == 0
    report = json.loads(out.read_text())
    assert [row["method"] for row in report["rows"]] == names
    assert [row["blocks"] for row in report["rows"]] == [0, 1, 0]
    assert all(row["0.25"] > 0 for row in report["rows"]) and report["prefill_ms"] > 0
    assert "visionzip" in capsys.readouterr().out


def test_the_percent_counts_what_blocks_note() -> None:
    row = {"method": "visionzip", "blocks": 2, "0.1": 5.0}
    told = {"visual_tokens": 9, "questions": 1, "threads": 1, "rows": [row]}
    text = selection_text({**told, "prefill_ms": 1000.0, "noting_ms": 10.0})
    assert "5 (2.5 %)" in text


def test_an_unknown_method_is_named(capsys) -> None:
    assert main(["bench", "selection", "model=tiny", "--layers", "1", "--methods", "divprun"]) == 1
    assert "divprune" in capsys.readouterr().err
