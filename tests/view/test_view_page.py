"""What `python -m photon view RUN` writes, without a browser."""

import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.view import drawing
from photon.view.cases import drawn_mask, drawn_scores, title_of
from photon.view.page import MOST, detail
from tests.model.test_dialogue import SIZE
from tests.view.conftest import GRID, KEPT, tokens


def data_of(page):
    text = (page.parent / "data.js").read_text()
    return json.loads(text.removeprefix("const PHOTON = ").removesuffix(";\n"))


def volume_of(page, name):
    """The NIfTI file that a data script hands over."""
    text = (page.parent / f"{name}.js").read_text()
    told, content = re.fullmatch(r'photonData\("(.*)", "(.*)"\);\n', text).groups()
    assert told == name
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content)))


def test_cases_hold_answers_masks_and_verdicts(page):
    data = data_of(page)
    assert [c["title"] for c in data["conditions"]] == [
        "Photon", "no pruning", "random keep", "fastv at 10%",
    ]  # fmt: skip
    assert len(data["cases"]) == 43 and [v["name"] for v in data["volumes"]] == [
        "a.nii.gz",
        "b.nii.gz",
    ]
    second = data["cases"][1]
    assert second["by"]["photon"]["right"] is False and second["answer"] == "yes"
    mask = np.unpackbits(np.frombuffer(bytes.fromhex(second["by"]["photon"]["mask"]), np.uint8))
    assert np.array_equal(mask.reshape(GRID).astype(bool), tokens(KEPT))
    assert data["cases"][0]["evidence"] == [5] and data["volumes"][0]["labels"]


def test_of_a_pair_the_last_scan_is_drawn_with_its_own_tokens(page):
    pair = data_of(page)["cases"][-1]
    assert pair["volume"] == 1 and set(pair["by"]) == {"photon"}
    mask = np.unpackbits(np.frombuffer(bytes.fromhex(pair["by"]["photon"]["mask"]), np.uint8))
    assert mask.nonzero()[0].tolist() == [0]


def test_volumes_lie_where_the_scanner_had_them(page, evaluated):
    """Voxels keep their place in millimetres; values are off by no more than half a step."""
    drawn, source = volume_of(page, "volumes/0"), nib.load(evaluated.parent / "a.nii.gz")
    ahead = nib.affines.apply_affine(source.affine, [100, 10, 20])
    at = nib.affines.apply_affine(np.linalg.inv(drawn.affine), ahead).round().astype(int)
    assert drawn.shape == SIZE[::-1] and abs(drawn.dataobj[tuple(at)] - 40) <= drawing.STEP / 2
    labels = volume_of(page, "labels/0")
    assert np.allclose(labels.affine, drawn.affine) and labels.dataobj[tuple(at)] == 5
    assert not (page.parent / "labels" / "1.js").exists()


def test_nothing_is_fetched_from_elsewhere(page):
    """No address but those of the licences and of XML names, and the licences lie beside."""
    for file in page.parent.glob("*"):
        if file.is_file() and file.name != "niivue.LICENSES.txt" and "niivue.min" not in file.name:
            assert not re.search(r"https?://", file.read_text()), file
    assert "BSD" in (page.parent / "niivue.LICENSES.txt").read_text()


def test_averaging_keeps_places():
    """The middle of a block of voxels is the middle of the voxel that stands for it."""
    hu = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    affine = np.array([[-2.0, 0, 0, 5], [0, -3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    small, at = drawing.shrunk(hu, affine, 2)
    assert small.shape == (2, 3, 4) and small[1, 2, 3] == round(hu[2:, 4:, 6:].mean())
    corners = [affine @ [w, h, d, 1] for d in (2, 3) for h in (4, 5) for w in (6, 7)]
    assert np.allclose(at @ [3, 2, 1, 1], np.mean(corners, axis=0))
    kept, same = drawing.shrunk(hu, affine, 1)
    assert kept is hu and same is affine


def test_many_large_volumes_are_drawn_in_less_detail():
    assert detail(60, (112, 112, 112)) == 1
    by = detail(100, (140, 280, 280))
    assert 1 < by < 4 and 100 * 140 * 280 * 280 / by**3 * 0.85 <= MOST
    assert detail(10**6, (140, 280, 280)) == 4


def test_masks_are_mirrored_where_the_model_saw_a_mirrored_volume():
    mask, scores = tokens(KEPT), np.arange(32, dtype=np.uint8)
    packed = np.packbits(mask).tobytes().hex()
    drawn = np.frombuffer(bytes.fromhex(drawn_mask(packed, 32, GRID, True)), np.uint8)
    assert np.array_equal(np.unpackbits(drawn).reshape(GRID), mask[..., ::-1])
    assert drawn_mask(packed, 32, GRID, False) == packed
    told = np.frombuffer(bytes.fromhex(drawn_scores(scores.tobytes().hex(), GRID, True)), np.uint8)
    assert np.array_equal(told.reshape(GRID), scores.reshape(GRID)[..., ::-1])
    assert drawn_mask(None, 32, GRID, False) is None and drawn_scores(None, GRID, False) is None


def test_values_that_are_no_hu_get_a_window_of_their_own():
    assert drawing.window_of(np.full((8, 8, 8), -1000.0)) is None
    low, high = drawing.window_of(np.arange(4096.0).reshape(16, 16, 16))
    assert 0 <= low < high <= 4096


@pytest.mark.parametrize(
    "name, title",
    [("photon", "Photon"), ("fastv@0.25", "fastv at 25%"), ("random@50", "random, 50 tokens")],
)
def test_conditions_have_titles(name, title):
    assert title_of(name) == title


def test_what_is_no_run_is_one_message(tmp_path, evaluated, capsys):
    assert main(["view", str(tmp_path)]) == 1
    assert "run.json cannot be read" in capsys.readouterr().err
    (tmp_path / "run.json").write_text((evaluated / "run.json").read_text())
    assert main(["view", str(tmp_path)]) == 1
    assert "no export (photon.json)" in capsys.readouterr().err
    assert main(["view", str(evaluated), "--cases", "0"]) == 1
    assert main(["view", "a.nii", "--model", "x", "--cases", "3"]) == 1
    assert "--cases are of a run's page" in capsys.readouterr().err
