"""Phantom data sets on disk: complete, disjoint, reproducible, resumable."""

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from photon import files
from photon.errors import InputError
from photon.phantoms import phantom_vqa as module
from photon.phantoms.layout import BY_NAME, NAMES, PhantomConfig
from photon.phantoms.patient import write_nifti
from photon.phantoms.phantom_vqa import write_phantom_dataset
from photon.questions.label_names import display
from tests.helpers import load_split

CONFIG = PhantomConfig(shape=(56, 56, 56), spacing=6.0)
OPTIONS = {"workers": 1, "phantom": CONFIG, "questions_per_volume": 12}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, 6, 2, 3, seed=1, **OPTIONS)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_and_counts(root):
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["splits"]["train"] == {"patients": 6, "volumes": 6, "questions": 72}
    assert manifest["names"]["14"] == "liver_lesion" and "liver" in manifest["reference"]
    assert len(list((root / "ct").iterdir())) == len(list((root / "labels").iterdir())) == 11
    patients = {s: {r.patient for r in load_split(root, s)} for s in ("train", "val", "test")}
    assert [len(p) for p in patients.values()] == [6, 2, 3]
    assert len(set.union(*patients.values())) == 11, "no patient is in two splits"
    ids = [r.id for s in patients for r in load_split(root, s)]
    assert len(set(ids)) == len(ids)
    arrays = {np.asanyarray(nib.load(p).dataobj).tobytes() for p in (root / "ct").iterdir()}
    assert len(arrays) == 11, "no phantom occurs twice"


def test_files_on_disk_answer_the_questions(root):
    """Through nibabel, as a stranger would read them."""
    checked = 0
    for record in load_split(root, "train"):
        if record.extra["kind"] != "lesion_present" or record.question_type != "free":
            continue
        image = nib.load(root / record.labels)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
        found = (np.asanyarray(image.dataobj) == BY_NAME[record.organ].id + 10).any()
        assert record.answer == ("yes" if found else "no")
        checked += 1
    assert checked >= 1
    ct = nib.load(root / "ct" / "test_00001.nii.gz")
    assert ct.get_data_dtype() == np.int16 and ct.header.get_zooms() == (6.0, 6.0, 6.0)
    assert ct.header.get_slope_inter() in ((None, None), (1.0, 0.0))


def test_reports_state_the_facts(root):
    reports = load_split(root, "train_reports")
    assert len(reports) == 6 * 3
    assert len({report.answer for report in reports}) == len(reports)
    for report in reports:
        parts = dict(re.findall(r"([a-z][a-z ]+): ([^.]+)\.", report.answer))
        facts = report.extra["facts"]
        for name, fact in facts["organs"].items():
            text = parts.pop(display(name)).split(", ")
            if not fact["present"]:
                assert text == ["absent"]
                continue
            count = len(fact["lesions"])
            assert text[-1] == f"{count or 'no'} lesion{'s' * (count != 1)}"
            assert set(text[:-1]) <= {fact["size"], f"{fact['attenuation']} attenuation"}
        for side, there in facts["effusion"].items():
            assert parts.pop(f"{side} pleural effusion") == ("yes" if there else "no")
        assert not parts
        for start, stop, labels in report.extra["spans"]:
            name, said = re.search(r"([a-z ]+): ([^.]*)$", report.answer[:stop]).groups()
            assert report.answer[start:stop] == said and report.answer[stop] == "."
            seen = {i for i in labels if i < 19}
            organ = "lung" if "effusion" in name else name.strip()
            assert all(organ in display(NAMES[i - 10 * (i > 10)]) for i in seen)
            assert bool(labels) == (said != "absent")


def test_second_call_touches_nothing(root, monkeypatch):
    before = contents(root)
    monkeypatch.setattr(module, "write_patient", None)
    manifest = write_phantom_dataset(root, 6, 2, 3, seed=1, **OPTIONS)
    assert contents(root) == before and manifest["splits"]["test"]["volumes"] == 3


def test_processes_and_interruptions_do_not_change_a_byte(root, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(root, again)
    for name in ("manifest.json", "train.jsonl", "ct/train_00002.nii.gz"):
        (again / name).unlink()
    fingerprint = json.loads((root / "manifest.json").read_text())["fingerprint"]
    (again / "building.json").write_text(json.dumps({"fingerprint": fingerprint}))
    kept = (again / "ct/train_00001.nii.gz").stat().st_mtime_ns
    seen = []
    write_phantom_dataset(
        again, 6, 2, 3, seed=1, progress=lambda *x: seen.append(x), **{**OPTIONS, "workers": 2}
    )
    assert contents(again) == contents(root) and seen[-1] == (11, 11)
    assert (again / "ct/train_00001.nii.gz").stat().st_mtime_ns == kept


def test_another_configuration_is_refused(root):
    with pytest.raises(InputError, match="another configuration"):
        write_phantom_dataset(root, 6, 2, 3, seed=2, **OPTIONS)
    with pytest.raises(InputError, match="another configuration"):
        write_phantom_dataset(root, 6, 2, 3, seed=1, **{**OPTIONS, "numeric": 0.5})


def test_damaged_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json is not valid JSON.*delete it"):
        write_phantom_dataset(tmp_path, 1, 1, 1, **OPTIONS)


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        write_nifti(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.int16), np.eye(4))
    assert not list(tmp_path.iterdir())
