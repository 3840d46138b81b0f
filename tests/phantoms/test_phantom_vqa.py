"""PhantomVQA: answers from the files on disk, change between scans, another scanner, the prior."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from photon.batch.builder import BatchBuilder
from photon.batch.dataset import Collate, VolumeQuestions
from photon.errors import InputError
from photon.evaluation.coverage import token_coverage
from photon.evaluation.evaluator import Evidence
from photon.phantoms.language_prior import Thinning, question_of
from photon.phantoms.layout import BY_NAME, PhantomConfig
from photon.phantoms.patient import QUESTION_NAMES, Asked, Patient, write_nifti
from photon.phantoms.phantom import make_patient
from photon.phantoms.phantom_vqa import (
    PhantomDataset,
    patient_records,
    write_phantom_dataset,
)
from photon.questions import templates
from photon.questions.candidates import Candidate
from photon.questions.change import change_candidates
from photon.questions.from_masks import find_candidates
from photon.questions.label_names import display
from photon.questions.measure import measure
from photon.volume.preparation import Preparation
from photon.volume.store import VolumeStore
from photon.weights.checkpoints import load_tokenizer
from tasks.phantom_data import PhantomData
from tests.helpers import load_split
from tests.questions.test_from_masks import Solver, verify

OPTIONS = {
    "n_train": 4, "n_val": 1, "n_test": 2, "n_ood": 2, "follow_up": 0.5, "seed": 3, "workers": 1,
    "phantom": {"shape": [56, 56, 56], "spacing": 6.0, "lesion_radius": [5.0, 8.0]},
    "ood": {"shape": [34, 56, 56], "spacing": [9.0, 5.0, 5.0], "field": [0.911, 0.833, 0.833],
            "noise_hu": 35.0, "hu_shift": 20.0, "orientation": "RAS"},
}  # fmt: skip
OWN = ("train", "val", "test", "test_ood")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom_vqa")
    write_phantom_dataset(folder, **OPTIONS)
    return folder


def read(path):
    """(array [D,H,W], affine) of a file."""
    image = nib.load(path)
    return np.asanyarray(image.dataobj).transpose(2, 1, 0), image.affine


class PairSolver:
    """Answers questions about change from their words and two label maps, by plain loops."""

    def __init__(self, maps, voxels):
        self.maps, self.voxels = maps, voxels
        self.ids = {display(name): organ.id for name, organ in BY_NAME.items()}

    def counts(self, organ):
        lesions = [labels == self.ids[organ] + 10 for labels in self.maps]
        return [ndimage.label(lesion, np.ones((3, 3, 3)))[1] for lesion in lesions]

    def diameters(self, organ):
        both = [(labels == self.ids[organ] + 10).sum() for labels in self.maps]
        return [(6 * n * v / np.pi) ** (1 / 3) for n, v in zip(both, self.voxels, strict=True)]

    def status(self, before, after):
        return {(0, 0): "none", (0, 1): "new", (1, 0): "resolved", (1, 1): "persistent"}[
            bool(before), bool(after)
        ]

    def change(self, organ):
        assert self.counts(organ) == [1, 1]
        before, after = self.diameters(organ)
        if abs(after / before - 1) < 0.1:
            return "stable"
        return "grown" if after > before else "shrunk"

    def fluid(self, side):
        label = {"right": 19, "left": 20}[side]
        return self.status(*((labels == label).any() for labels in self.maps))

    def new_side(self, organ):
        new = [s for s in ("left", "right") if self.status(*self.counts(f"{s} {organ}")) == "new"]
        return {0: "neither", 2: "both"}.get(len(new), new[0] if new else "")

    def solve(self, question):
        def lesion(organ):
            return self.status(*self.counts(organ))

        def yes(status):
            return lambda organ: "yes" if lesion(organ) == status else "no"

        patterns = [
            (r"Is there a new lesion in the (.+)\?", yes("new")),
            (r"Has a lesion appeared in the (.+) since the earlier scan\?", yes("new")),
            (r"Has a lesion in the (.+) resolved\?", yes("resolved")),
            (r"Has a lesion disappeared from the (.+) since .+\?", yes("resolved")),
            (r"Is a lesion in the (.+) new, resolved or persistent\?", lesion),
            (r"What became of the lesion in the (.+) since the earlier scan\?", lesion),
            (r"Has the lesion in the (.+) grown or shrunk\?", self.change),
            (r"How has the lesion in the (.+) changed since the earlier scan\?", self.change),
            (r"Is a (.+) pleural effusion new, resolved or persistent\?", self.fluid),
            (r"What became of the (.+) pleural effusion since the earlier scan\?", self.fluid),
            (r"Which (.+) contains a new lesion\?", self.new_side),
            (r"On which side does a (.+) contain a new lesion\?", self.new_side),
        ]
        for pattern, answer in patterns:
            if match := re.fullmatch(pattern, question.split("\n")[0]):
                return answer(match.group(1))
        raise AssertionError(f"the test does not understand {question!r}")


def by_candidate(records):
    groups = defaultdict(list)
    for record in records:
        groups[record.volumes].append(record)
    return groups


def test_splits_share_no_patient_and_no_volume(root):
    records = {split: load_split(root, split) for split in (*OWN, "test_balanced")}
    for key in ("patient", "volume"):
        seen = [{getattr(r, key) for r in records[split]} for split in OWN]
        assert len(set.union(*seen)) == sum(map(len, seen))
    assert {r.volumes for r in records["test_balanced"]} == {r.volumes for r in records["test"]}
    ids = [r.id for group in records.values() for r in group]
    assert len(ids) == len(set(ids))
    manifest = json.loads((root / "manifest.json").read_text())
    assert manifest["splits"]["test_ood"]["patients"] == 2
    assert manifest["splits"]["test_ood"]["volumes"] == 3 and len(manifest["content"]) == 64
    subtasks = {r.subtask for group in records.values() for r in group}
    assert subtasks == set(templates.SUBTASKS)


@pytest.mark.parametrize("split", ["train", "test_ood", "test_balanced"])
def test_answers_follow_from_the_files(root, split):
    """Also of another scanner's files, whose axes run the other way."""
    reference = json.loads((root / "manifest.json").read_text())["reference"]
    for volumes, records in by_candidate(load_split(root, split)).items():
        scans = [read(root / v) for v in volumes]
        maps = [read(root / m)[0] for m in records[0].label_maps]
        if len(volumes) == 1:
            ((array, affine),) = scans
            verify(records, Solver(array, maps[0], affine, QUESTION_NAMES, reference))
            continue
        present = set(np.unique(maps[0])) | set(np.unique(maps[1]))
        solver = PairSolver(maps, [abs(np.linalg.det(a[:3, :3])) for _, a in scans])
        for record in records:
            text = record.choices[record.answer_letter] if record.choices else record.answer
            assert text == solver.solve(record.question), record
            assert record.evidence and set(record.evidence) <= present
            assert record.subtask == "longitudinal_comparison"


def test_strata_are_those_of_the_smallest_lesion_in_evidence(root):
    seen = Counter()
    for records in by_candidate(load_split(root, "train")).values():
        scans = [(read(root / m)) for m in records[0].label_maps]
        for record in records:
            sizes = []
            for labels, affine in scans:
                for label in {i for i in record.evidence if 11 <= i <= 18}:
                    parts, n = ndimage.label(labels == label, np.ones((3, 3, 3)))
                    mm3 = abs(np.linalg.det(affine[:3, :3]))
                    voxels = [(parts == i).sum() for i in range(1, n + 1)]
                    sizes += [(6 * v * mm3 / np.pi) ** (1 / 3) for v in voxels]
            uses_lesions = re.search("lesion|new_side", record.extra["kind"])
            wanted = "none"
            if uses_lesions and sizes:
                wanted = "large" if min(sizes) >= 36 else "small"
            assert record.extra["stratum"] == wanted, record
            seen[wanted] += 1
    assert min(seen[key] for key in ("none", "small", "large")) > 10, seen


def test_another_scanner_is_another(root):
    usual, other = (nib.load(root / f"ct/{s}_00000.nii.gz") for s in ("test", "test_ood"))
    assert nib.aff2axcodes(usual.affine) == ("L", "P", "S")
    assert nib.aff2axcodes(other.affine) == ("R", "A", "S")
    assert usual.header.get_zooms() == (6, 6, 6) and other.header.get_zooms() == (5, 5, 9)
    assert other.shape == (56, 56, 34)
    air = [np.asanyarray(i.dataobj)[1:3, 1:3].astype(float) for i in (usual, other)]
    noise = [a[a > -1024].std() for a in air]
    assert noise[1] > 1.4 * noise[0]


def test_orientation_of_a_file_moves_no_voxel(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (5, 6, 7)
    digests = {write_nifti(tmp_path / f"{o}.nii.gz", array, affine, o) for o in ("LPS", "ASR")}
    assert len(digests) == 2
    image = nib.load(tmp_path / "ASR.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("A", "S", "R")
    for d, h, w in np.ndindex(array.shape):
        place = np.linalg.solve(image.affine, affine @ [w, h, d, 1.0])[:3]
        assert image.dataobj[tuple(np.rint(place).astype(int))] == array[d, h, w]


def test_the_same_configuration_gives_the_same_content(root, tmp_path):
    again = write_phantom_dataset(tmp_path / "again", **OPTIONS)
    first = json.loads((root / "manifest.json").read_text())
    assert again == first


def candidate(kind, organ, answer, options=("yes", "no")):
    return Candidate(kind, organ, {"x": organ}, answer, options, ())


def test_thinning_gives_the_wanted_shares():
    """Expected shares after thinning, worked out from the counts."""
    counts = {"liver": (900, 300), "spleen": (200, 1000), "heart": (1200, 0)}
    candidates = [candidate("k", o, a) for o, n in counts.items() for a, c in zip(("yes", "no"), n)
             for _ in range(c)]  # fmt: skip
    for prior, top in ((0.0, 0.5), (0.3, 0.5), (0.8, 0.8)):
        thinning = Thinning(candidates, prior, seed=1)
        for organ in ("liver", "spleen"):
            kept = [n * thinning.keep(candidate("k", organ, a))
                    for a, n in zip(("yes", "no"), counts[organ])]  # fmt: skip
            assert max(kept) / sum(kept) == pytest.approx(top, abs=0.01)
            assert max(thinning.keep(candidate("k", organ, a)) for a in ("yes", "no")) == 1.0
        assert thinning.keep(candidate("k", "heart", "yes")) == 0.0, "always yes"
        assert thinning.keep(candidate("k", "unseen", "yes")) == 0.0
    favourites = {
        tuple(
            Thinning(candidates, 0.8, seed).shares(
                question_of(candidate("k", o, "yes")), ["no", "yes"]
            )["yes"]
            for o in ("liver", "spleen")
        )
        for seed in range(12)
    }
    assert len(favourites) == 4, "every organ has a favourite of its own"
    with pytest.raises(ValueError, match="prior=1.0"):
        Thinning(candidates, 1.0)


@pytest.fixture(scope="module")
def many():
    """What can be asked about coarse patients: [(patient, asked)]."""
    config = PhantomConfig(shape=(28, 28, 28), spacing=12.0)
    reference = config.reference()
    out = []
    for seed in range(100):
        scenes = [
            measure(p.array, p.labels, p.affine, QUESTION_NAMES) for p in make_patient(seed, config)
        ]
        rng = np.random.default_rng(seed)
        patient = Patient(None, f"p{seed}", "train", seed, True, config, reference, 0)
        single = find_candidates(scenes[0], reference, rng)
        out.append((patient, Asked((f"{seed}.nii.gz",), ("l",), single)))
        both = (f"{seed}.nii.gz", f"{seed}_follow_up.nii.gz")
        out.append((patient, Asked(both, ("l", "m"), list(change_candidates(*scenes)))))
    return out


def told(records):
    return [(question_key(r), r.choices[r.answer_letter] if r.choices else r.answer, r)
            for r in records if r.value is None]  # fmt: skip


def question_key(record):
    return record.extra["kind"], record.organ


@pytest.mark.parametrize("prior", [0.0, 0.6, 0.85])
def test_a_blind_model_reaches_the_prior(many, prior):
    """The commonest training answer of every kind and organ, on other patients."""
    spec = PhantomDataset(prior=prior, numeric=0.0)
    thinning = Thinning([i for _, asked in many for i in asked.candidates], prior)
    halves = [[], []]
    for patient, asked in many:
        halves[patient.seed % 2] += told(patient_records(patient, asked, "train", spec, thinning))
    counts = defaultdict(Counter)
    for key, answer, _ in halves[0]:
        counts[key][answer] += 1
    right, chance = [], []
    for key, answer, record in halves[1]:
        if "lesion_organ" in key or "lesion_larger" in key:
            continue  # asked of pairs: few of each in a data set as small as this
        options = record.choices or {a: a for a in counts[key]}
        right.append(answer == (counts[key].most_common(1) or [(None, 0)])[0][0])
        chance.append(1 / max(len(options), 2))
    assert len(right) > 300
    wanted = max(prior, np.mean(chance))
    assert np.mean(right) == pytest.approx(wanted, abs=0.08), np.mean(chance)


def test_constant_answers_do_not_pay(many):
    """Per kind: the best answer that ignores the organ and the scan."""
    spec, thinning = PhantomDataset(), Thinning([i for _, a in many for i in a.candidates], 0.0)
    kinds = defaultdict(list)
    for patient, asked in many:
        for _, answer, record in told(patient_records(patient, asked, "train", spec, thinning)):
            kinds[record.extra["kind"]].append((answer, record))
    assert len(kinds) > 15
    for kind, rows in kinds.items():
        share = Counter(answer for answer, _ in rows).most_common(1)[0][1] / len(rows)
        options = max((len(r.choices) for _, r in rows if r.choices), default=2)
        assert len(rows) < 40 or share < 1 / options + 0.12, f"{kind}: {share:.2f} of {options}"


def test_thinning_counts_questions_by_their_words():
    first, second = candidate("k", "liver", "yes"), candidate("k", "spleen", "yes")
    assert question_of(first) != question_of(second)
    assert question_of(first) == question_of(candidate("k", "liver", "no"))


def test_both_scans_reach_the_batch(root, tmp_path):
    preparation = Preparation(spacing=(6.0,) * 3, crop=(56,) * 3, size=(56,) * 3)
    records = [r for r in load_split(root, "train") if len(r.volumes) == 2]
    store = VolumeStore(tmp_path, preparation)
    dataset = VolumeQuestions(records, store, root, with_labels=True)
    assert len(dataset) == 2
    shown = dataset[0]
    first = shown.records[0]
    for i, path in enumerate(first.volumes):
        own = replace(
            first, volume=path, labels=first.label_maps[i], more_volumes=(), more_labels=()
        )
        alone = VolumeQuestions([own], store, root, with_labels=True)[0]
        assert np.array_equal(shown.volumes[i], alone.volumes[0])
        assert np.array_equal(shown.labels[i], alone.labels[0])
    builder = BatchBuilder((14, 14, 14), 1, 2, 1, visual_id=5)
    batch = Collate(builder, load_tokenizer("tiny"), False)([shown])
    assert batch.visual_lengths == [2 * 16] and len(batch.records) == len(shown.records)
    token = (14, 28, 28)
    for record, share in zip(batch.records, Evidence(batch, token).shares):
        both = [token_coverage(labels, record.evidence, token).ravel() for labels in shown.labels]
        assert np.array_equal(share, np.concatenate(both)) and share.sum() > 0
    others = {name: name for name in first.volumes}
    others[first.volumes[1]] = first.volumes[0]
    swapped = VolumeQuestions(records, store, root, with_labels=True, substitute=others)[0]
    assert swapped.labels is None and np.array_equal(swapped.volumes[1], shown.volumes[0])


def test_wrong_settings_are_named(tmp_path):
    for options, message in (
        ({"follow_up": 1.5}, "follow_up: 1.5"),
        ({"prior": 1.0}, "prior: 1.0"),
        ({"ood": {"shape": (4, 4, 4)}}, "at least 28"),
        ({"forms": ("essay",)}, "forms: "),
    ):
        with pytest.raises(ValueError, match=message):
            PhantomDataset(**options)
    data = PhantomData(tmp_path, tmp_path, n_train=1, n_test=1)
    with pytest.raises(InputError, match="no split 'tset'"):
        data.path("tset")
    with pytest.raises(InputError, match="dataset.n_ood"):
        data.path("test_ood")
