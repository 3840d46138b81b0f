"""A small evaluated run whose masks are known, its page, and a browser where there is one."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from photon.commands.cli import main
from photon.evaluation.predictions import prediction_row
from photon.questions.record import Record, write_records
from photon.weights.checkpoints import save_export
from tests.model.test_dialogue import SIZE, small_model

GRID = (2, 4, 4)  # tokens of SIZE voxels
KEPT = (1, 0, 3)  # towards the head, in front, on the patient's left
ORGAN = (slice(16, 26), slice(4, 24), slice(88, 108))  # within that token
ASKED = "Is there a lesion?"


def tokens(*places):
    """Bool [d, h, w] with these tokens kept."""
    mask = np.zeros(GRID, bool)
    for place in places:
        mask[place] = True
    return mask


def row(record, text, mask, condition, **extra):
    """A prediction as the evaluator writes it."""
    packed = None if mask is None else np.packbits(mask).tobytes().hex()
    kept = None if mask is None else int(mask.sum())
    return prediction_row(
        record, text, condition, kept, None if mask is None else 32, 1.0, kept_mask=packed, **extra
    )


def write_scan(path, value=40, labels=None):
    """A body of one value below two slices of air, with the label map of ORGAN beside it."""
    voxels = np.full(SIZE, value, np.int16)
    voxels[:2] = -1000
    # Towards the left, the back and the head, as the store has it: LPS in nibabel's words.
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(voxels.T, affine), path)
    if labels is not None:
        ids = np.zeros(SIZE, np.uint8)
        ids[ORGAN] = 5
        nib.save(nib.Nifti1Image(ids.T, affine), labels)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory):
    """A run's folder: 43 questions about two scans, of which the last is about both."""
    folder = tmp_path_factory.mktemp("view")
    run = folder / "run"
    save_export(small_model(), run / "export")
    write_scan(folder / "a.nii.gz", 40, folder / "a_seg.nii.gz")
    write_scan(folder / "b.nii.gz", 90)
    records = [
        Record(
            f"q{i}", "ab"[i % 2] + ".nii.gz", ASKED if i else "How <b>large</b> & dense?", "yes",
            patient=f"p{i % 2}", subtask=("existence", "size")[i % 3 == 0],
            labels=None if i % 2 else "a_seg.nii.gz", evidence=() if i % 2 else (5,),
        )
        for i in range(42)
    ]  # fmt: skip
    records.append(Record("pair", "a.nii.gz", "What is new?", "12", more_volumes=("b.nii.gz",)))
    write_records(folder / "test.jsonl", records)
    scores = np.zeros(32, np.uint8)
    scores[np.ravel_multi_index(KEPT, GRID)] = 255
    own = []
    for i, record in enumerate(records[:-1]):
        mask = tokens(KEPT) if i < 40 else tokens(KEPT, (0, 3, 0))
        more = {"token_scores": scores.tobytes().hex()}
        own.append(row(record, "no" if i % 7 == 1 else "yes", mask, "photon", **more))
    both = np.concatenate([np.ones(32, bool), tokens((0, 0, 0)).ravel()])
    pair = row(records[-1], "12", both, "photon") | {"kept_tokens": 33, "visual_tokens": 64}
    write_jsonl(run / "predictions.jsonl", [*own, pair])
    others = {"random_keep": tokens((0, 3, 0)), "fastv@0.1": tokens((0, 0, 0)), "no_pruning": None}
    for name, mask in others.items():
        rows = [row(r, "no", mask, name) for r in records[:-1]]
        write_jsonl(run / "controls" / f"{name}.jsonl", rows)
    config = {
        "name": "a run",
        "dataset": {
            "_target_": "tasks.datamodule.RecordData",
            "test": str(folder / "test.jsonl"),
            "root": str(folder),
            "store": str(folder / "store"),
        },
        "evaluation": {"split": "test"},
    }
    (run / "run.json").write_text(json.dumps(config))
    return run


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture(scope="session")
def page(evaluated):
    """index.html of that run."""
    assert main(["view", str(evaluated)]) == 0
    return evaluated / "view" / "index.html"


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, which draws without a GPU."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright: the pages are tested in a browser"
    )
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium here (apt-get install chromium): the pages are tested in it")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=flags)
        yield launched
        launched.close()
