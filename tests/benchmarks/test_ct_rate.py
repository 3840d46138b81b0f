"""CT-RATE: reports, labels, and voxels that are rescaled once, by the right numbers."""

from pathlib import Path

import numpy as np
import pytest

from photon.benchmarks.benchmark import BadRow
from photon.benchmarks.ct_rate import CtRate
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.scans import FINDINGS
from photon.benchmarks.using import cases_of
from photon.errors import InputError
from photon.questions.fill_store import Case, is_prepared, prepare_cases
from photon.volume.preparation import Preparation
from photon.volume.reader import implausible
from photon.volume.store import VolumeStore
from tests.benchmarks import published
from tests.benchmarks.published import ct_rate_scan, save_scan, write_csv

SCANS = ("valid_1_a_1.nii.gz", "valid_2_a_1.nii.gz")
INTERCEPT = {SCANS[0]: -1024, SCANS[1]: -8192}
TINY = Preparation(spacing=(3.0, 3.0, 3.0), crop=(28, 28, 28), size=(28, 28, 28))


def hu() -> np.ndarray:
    """A body of 40 HU with a bone in air, (i, j, k), unlike along every axis."""
    rng = np.random.default_rng(0)
    array = np.full((64, 56, 40), -1000.0)
    array[10:50, 10:40, 4:30] = rng.normal(40, 15, (40, 30, 26))
    array[30:40, 12:20, 6:12] = 800
    return array.round().clip(-1024)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Two scans, as corrected (`valid_fixed`) and as originals with blank headers (`valid`)."""
    root = published.ct_rate(tmp_path_factory.mktemp("data"), {"train": [5], "test": [1, 2]})
    affine = np.diag([-0.75, -0.75, 1.5, 1.0])
    affine[:3, 3] = [-0.75 * -63 / 2, -0.75 * -55 / 2, -1.5 * 39 / 2]
    for name in SCANS:
        save_scan(ct_rate_scan(root, name, "valid_fixed"), hu(), affine)
        save_scan(ct_rate_scan(root, name, "valid"), hu() - INTERCEPT[name], None)
    return root


def prepared(reader: CtRate, store: Path) -> dict[str, np.ndarray]:
    """Name -> prepared HU of all readable test scans."""
    cases = cases_of(reader, reader.read("test", "reports"))
    outcome = prepare_cases(cases, store, TINY, workers=1, check_hu=True)
    bad = {case.source for case, _ in outcome.bad}
    voxels = VolumeStore(store, TINY)
    return {Path(c.source).name: voxels.load_hu(c.source) for c in cases if c.source not in bad}


def test_reports_and_labels(tree) -> None:
    reports = CtRate(str(tree)).read("test", "reports").records
    assert [r.answer for r in reports] == [f"Findings: The liver of {n} is large." for n in SCANS]
    assert [r.patient for r in reports] == ["valid_1", "valid_2"]
    questions = CtRate(str(tree)).read("test").records
    assert len(questions) == 36 and {r.subtask for r in questions} == set(FINDINGS)
    first = questions[0]
    assert first.question.startswith("Does the CT scan demonstrate medical material?\nA. Yes")
    assert first.answer == "B" and questions[1].answer == "A"
    assert CtRate().expected("train", "reports") == 47_149


def test_reports_without_a_section_or_a_label_that_is_none(tmp_path) -> None:
    published.ct_rate(tmp_path, {"test": [1, 2]})
    dataset = tmp_path / "CT-RATE" / "dataset"
    header = ["VolumeName", "Findings_EN", "Impressions_EN"]
    rows = [[SCANS[0], "Not given.", "Normal."], [SCANS[1], "Not given.", ""]]
    file = write_csv(dataset / "radiology_text_reports" / "validation_reports.csv", header, rows)
    reading = CtRate(str(tmp_path)).read("test", "reports")
    assert [r.answer for r in reading.records] == ["Impression: Normal."]
    assert reading.counts() == {"empty": 1} and reading.problems[0].where == f"{file}:3"
    file = dataset / "multi_abnormality_labels" / "valid_predicted_labels.csv"
    file.write_text(file.read_text().replace(f"{SCANS[1]},1", f"{SCANS[1]},2"))
    reading = CtRate(str(tmp_path)).read("test")
    assert len(reading.records) == 18 and reading.counts() == {"row": 1}


def test_originals_and_corrected_scans_give_the_same_voxels(tree, tmp_path) -> None:
    """-1024 and -8192 alike, by the CSV's spacing, and the corrected ones without the CSV."""
    fixed = prepared(CtRate(str(tree)), tmp_path / "a")
    original = prepared(CtRate(str(tree), scans="original", orientation="RAI"), tmp_path / "b")
    assert set(fixed) == set(original) == set(SCANS)
    for name in SCANS:
        np.testing.assert_array_equal(fixed[name], original[name])
    body = fixed[SCANS[0]][fixed[SCANS[0]] > -500]
    assert 20 < np.median(body) < 60 and fixed[SCANS[0]].max() > 700


def test_another_orientation_gives_other_voxels_from_the_same_store(tree, tmp_path) -> None:
    """The declared header is part of the key: a changed setting is never served stale voxels."""
    lps = prepared(CtRate(str(tree), scans="original", orientation="RAI"), tmp_path)
    other = CtRate(str(tree), scans="original", orientation="LAI")
    cases = cases_of(other, other.read("test", "reports"))
    assert not any(is_prepared(VolumeStore(tmp_path, TINY), case) for case in cases)
    mirrored = prepared(other, tmp_path)
    np.testing.assert_allclose(mirrored[SCANS[0]], lps[SCANS[0]][..., ::-1], atol=1)
    assert not np.array_equal(mirrored[SCANS[0]], lps[SCANS[0]])


def test_a_corrected_scan_is_never_rescaled_twice(tree, tmp_path) -> None:
    import nibabel as nib

    published.ct_rate(tmp_path, {"test": [1, 2]})
    for name in SCANS:  # corrected files in the originals' folder
        path = ct_rate_scan(tmp_path, name, "valid")
        path.parent.mkdir(parents=True)
        image = nib.Nifti1Image((hu() + 1024).astype(np.int16), np.diag([-0.75, -0.75, 1.5, 1]))
        image.header.set_slope_inter(1, -1024)
        image.to_filename(path)
    reader = CtRate(str(tmp_path), scans="original", orientation="RAI")
    cases = cases_of(reader, reader.read("test", "reports"))
    outcome = prepare_cases(cases, tmp_path / "store", TINY, workers=1)
    assert len(outcome.bad) == 2
    assert "its own header rescales (slope 1, intercept -1024)" in outcome.bad[0][1]


def test_values_that_cannot_be_hu_are_refused(tree, tmp_path) -> None:
    """HU in a blank header: the CSV's intercept comes on top, and the range check sees it."""
    published.ct_rate(tmp_path, {"test": [1, 2]})
    for name in SCANS:
        save_scan(ct_rate_scan(tmp_path, name, "valid"), hu(), None)
        save_scan(ct_rate_scan(tmp_path, name, "valid_fixed"), hu() + 1024, np.eye(4))
    twice = CtRate(str(tmp_path), scans="original", orientation="RAI")
    assert prepared(twice, tmp_path / "store") == {}
    never = CtRate(str(tmp_path))
    assert prepared(never, tmp_path / "store") == {}


def test_range_check() -> None:
    lungs = hu().transpose(2, 1, 0)
    lungs[lungs == -1000] = np.random.default_rng(1).normal(-850, 30, (lungs == -1000).sum())
    assert implausible(lungs) is None
    assert "rescale was applied twice" in implausible(lungs - 1024)
    assert "rescale was applied twice" in implausible(hu() - 8192)
    padded = hu().transpose(2, 1, 0)
    padded[:10] = -2048
    assert implausible(padded) is None


def test_originals_need_what_the_metadata_does_not_say(tree) -> None:
    reader = CtRate(str(tree), scans="original")
    with pytest.raises(InputError, match="scans=original needs orientation"):
        cases_of(reader, reader.read("test", "reports"))
    with pytest.raises(BadRow, match="has no usable row of valid_9_a_1.nii.gz"):
        CtRate(str(tree), scans="original", orientation="RAI").header("x/valid_9_a_1.nii.gz")
    assert CtRate(str(tree)).header("x/valid_9_a_1.nii.gz") is None


def test_a_scan_that_the_metadata_does_not_know_is_left_out(tree, tmp_path) -> None:
    published.ct_rate(tmp_path, {"test": [1, 2]})
    csv = tmp_path / "CT-RATE" / "dataset" / "metadata" / "validation_metadata.csv"
    csv.write_text("\n".join(csv.read_text().splitlines()[:2]) + "\n")
    reader = CtRate(str(tmp_path), scans="original", orientation="RAI")
    reading = reader.read("test", "reports")
    assert [Path(case.source).name for case in cases_of(reader, reading)] == [SCANS[0]]
    assert reading.counts() == {"metadata": 1} and reading.problems[0].where.endswith(":3")
    assert len(reading.records) == 1


def test_3d_rad_reads_the_same_originals(tree, tmp_path) -> None:
    published.rad3d(tmp_path, {"train": [5], "test": [1, 2]})
    (tmp_path / "CT-RATE").symlink_to(tree / "CT-RATE")
    reader = Rad3D(str(tmp_path), scans="original", orientation="RAI")
    headers = {Path(c.source).name: c.header for c in cases_of(reader, reader.read("test"))}
    assert {name: header.intercept for name, header in headers.items()} == INTERCEPT
    assert headers[SCANS[0]].spacing == (0.75, 0.75, 1.5)


def test_a_declared_header_can_be_taken_back(tree, tmp_path) -> None:
    source = str(ct_rate_scan(tree, SCANS[0], "valid_fixed"))
    header = CtRate(str(tree), scans="original", orientation="RAI").header(SCANS[0])
    store = VolumeStore(tmp_path, TINY)
    plain = Case(source)
    prepare_cases([plain], tmp_path, TINY, workers=1)
    store.declare(source, header)
    assert not is_prepared(store, plain) and store.declared(source) == header
    store.declare(source, None)
    assert is_prepared(store, plain)


def test_the_published_metadata_sample(shared_data, tmp_path) -> None:
    folder = tmp_path / "CT-RATE" / "dataset" / "metadata"
    folder.mkdir(parents=True)
    sample = shared_data / "qa" / "CT-RATE" / "validation_metadata_sample.csv"
    (folder / "validation_metadata.csv").write_bytes(sample.read_bytes())
    reader = CtRate(str(tmp_path), scans="original", orientation="RAI")
    names = [line.split(",")[0] for line in sample.read_text().splitlines()[1:]]
    headers = [reader.header(name) for name in names if name.startswith("valid")]
    assert len(headers) == 54 and {h.slope for h in headers} == {1.0}
    assert {h.intercept for h in headers} == {-1024.0, -8192.0}
    assert all(0.2 < h.spacing[0] < 1.5 and 0.5 <= h.spacing[2] <= 3 for h in headers)
