"""Conditions of an evaluation: one reading for many selections, exact budgets, oracle, resuming."""

import dataclasses

import numpy as np
import pytest
import torch

from photon.evaluation.conditions import budget_conditions, parse_condition
from photon.evaluation.coverage import token_coverage
from photon.evaluation.evaluator import Evaluator, random_keep_mask
from photon.evaluation.views import noise
from photon.model.photon import PhotonModel
from photon.phantoms.phantom_vqa import write_phantom_dataset
from photon.pruning.its import PhotonPruner
from photon.volume.preparation import Preparation
from photon.volume.store import VolumeStore
from photon.weights.backbone import backbone_config, new_backbone
from photon.weights.checkpoints import load_tokenizer
from tests.helpers import load_split
from tests.test_configs import compose

SIZE = 56
TOKENS = 16  # of a volume of 56^3 voxels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(root, n_train=1, n_val=0, n_test=3, questions_per_volume=4, seed=3)
    return root, load_split(root, "test")


@pytest.fixture(scope="module")
def model():
    words = load_tokenizer("tiny")
    plain = compose("model=tiny").model
    rope = {**plain.text.rope_parameters, "mrope_section": [16, 24, 24]}  # half the head size
    text = {**plain.text, "hidden_size": 128, "num_attention_heads": 1, "num_hidden_layers": 4,
            "intermediate_size": 128, "rope_parameters": rope}  # fmt: skip
    vision = {**plain.vision, "hidden_size": 80, "num_heads": 1, "intermediate_size": 96,
              "out_hidden_size": 128, "fullatt_block_indexes": [1]}  # fmt: skip
    preparation = Preparation(spacing=(6.0,) * 3, crop=(SIZE,) * 3, size=(SIZE,) * 3)
    torch.manual_seed(0)
    pruner = PhotonPruner(layer=0.5, hidden=8)
    torch.nn.init.normal_(pruner.predictor.mlp[2].weight, std=5.0)
    backbone = new_backbone(backbone_config(text, vision, words), seed=2)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)  # answers that depend on the input
    return PhotonModel(backbone, pruner, tokenizer=words, preparation=preparation).eval()


def evaluator(model, data, folder, **options):
    root, records = data
    store = VolumeStore(root / "store", model.preparation)
    settings = {"volumes_per_batch": 2, "max_new_tokens": 3, "fingerprint": "f", **options}
    return Evaluator(model, records, store, folder, root, **settings)


NAMES = (
    "photon",
    "no_pruning",
    "random_keep",
    *budget_conditions([0.25, 3], ["photon", "random", "uniform", "fastv", "oracle"]),
)


@pytest.fixture(scope="module")
def together(model, data, tmp_path_factory):
    return evaluator(model, data, tmp_path_factory.mktemp("together")).run(NAMES)


def test_conditions_that_share_a_reading_answer_like_conditions_alone(
    model, data, together, tmp_path
):
    for name in NAMES:
        needed = ["photon", name] if name == "random_keep" else [name]
        alone = evaluator(model, data, tmp_path / name).run(needed)[name]
        assert alone == together[name]
    answers = {tuple(row["prediction"] for row in together[name]) for name in NAMES}
    assert len(answers) > 3, "the conditions must be able to differ"


def test_the_encoder_and_the_layers_up_to_l_run_once_a_batch(model, data, tmp_path, monkeypatch):
    calls = []
    encode = PhotonModel.encode
    monkeypatch.setattr(PhotonModel, "encode", lambda *a: calls.append(1) or encode(*a))
    evaluator(model, data, tmp_path).run(NAMES)
    assert len(calls) == 2  # three volumes, two at a time


def test_workers_and_few_questions_a_pass_change_no_answer(
    model, data, together, tmp_path, monkeypatch
):
    """Read by two processes, bitwise; at most two questions a pass, where no volume has so few."""
    read = evaluator(model, data, tmp_path / "workers", workers=2).run(["photon", "no_pruning"])
    assert read == {name: together[name] for name in read}
    sizes, run = [], Evaluator._answer_batch

    def counted(self, batch, *rest):
        sizes.append(len(batch.records))
        run(self, batch, *rest)

    monkeypatch.setattr(Evaluator, "_answer_batch", counted)
    bounded = evaluator(model, data, tmp_path / "few", questions=2).run(["photon"])["photon"]
    assert max(sizes) == 2 and sum(sizes) == len(data[1])
    for row, other in zip(bounded, together["photon"], strict=True):
        assert row["prediction"] == other["prediction"] and row["kept_mask"] == other["kept_mask"]


def test_budgets_are_exact_counts(together):
    for pruner in ("photon", "random", "uniform", "fastv", "oracle"):
        assert {row["kept_tokens"] for row in together[f"{pruner}@0.25"]} == {4}
        assert {row["kept_tokens"] for row in together[f"{pruner}@3"]} == {3}
        for row in together[f"{pruner}@3"]:
            mask = np.unpackbits(np.frombuffer(bytes.fromhex(row["kept_mask"]), np.uint8))
            assert mask[: row["visual_tokens"]].sum() == 3
    own = [row["kept_tokens"] for row in together["photon"]]
    assert [row["kept_tokens"] for row in together["random_keep"]] == own
    assert {row["kept_tokens"] for row in together["no_pruning"]} == {TOKENS}


def test_the_oracle_keeps_all_evidence_where_the_budget_allows(model, data, together):
    root, records = data
    store = VolumeStore(root / "store", model.preparation)
    covered = 0
    for record, row in zip(records, together["oracle@0.25"], strict=True):
        if not record.evidence:
            assert row["coverage"] is None
            continue
        labels = store.load_labels(root / record.labels, like=root / record.volume)
        size = int((token_coverage(labels, record.evidence, (14, 28, 28)) > 0).sum())
        assert row["coverage"] == pytest.approx(min(1.0, 4 / size) if size else None)
        covered += size <= 4
    assert covered > 0
    uniform = {row["kept_mask"] for row in together["uniform@0.25"]}
    assert len(uniform) == 1


def test_a_cut_off_evaluation_goes_on_with_the_same_answers(model, data, together, tmp_path):
    first = evaluator(model, data, tmp_path)
    first.run(NAMES)
    for name, lines in (("fastv@3", 5), ("photon", 1), ("oracle@3", 0)):
        path = first.path(name)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    assert evaluator(model, data, tmp_path).run(NAMES) == together


def test_other_volumes_change_what_is_seen(model, data, tmp_path):
    names = ["photon", "blank_volume", "noise_volume", "shuffled_volume", "question_only"]
    rows = evaluator(model, data, tmp_path).run(names)
    assert all(r["coverage"] is None for name in names[1:] for r in rows[name])
    assert {r["visual_tokens"] for r in rows["question_only"]} == {0}
    assert {r["visual_tokens"] for r in rows["blank_volume"]} == {TOKENS}
    # Constant tokens differ by their place only, so nothing of the volume is left in the choice.
    by_question = {r["id"]: r["kept_mask"] for r in rows["blank_volume"]}
    own = {r["id"]: r["kept_mask"] for r in rows["photon"]}
    assert by_question != own
    turned = evaluator(model, data, tmp_path / "turned").run(["opposite_orientation"])
    masks = {r["id"]: r["kept_mask"] for r in turned["opposite_orientation"]}
    assert masks not in (own, by_question)
    like = torch.zeros(4, 4, 4)
    assert torch.equal(noise("a", like), noise("a", like))
    assert not torch.equal(noise("a", like), noise("b", like))


def test_a_model_without_a_pruner_can_be_pruned_at_budgets(model, data, tmp_path):
    """Training-free: the score is attached to a model that was never pruned."""
    bare = PhotonModel(
        model.backbone, None, tokenizer=model.tokenizer, preparation=model.preparation
    ).eval()
    names = ["photon", *budget_conditions([4], ["photon", "fastv", "uniform"])]
    rows = evaluator(bare, data, tmp_path, layer=0.5).run(names)
    assert {r["kept_tokens"] for r in rows["photon"]} == {TOKENS}
    assert {r["kept_tokens"] for name in names[1:] for r in rows[name]} == {4}
    trained = evaluator(model, data, tmp_path / "own").run(["fastv@4"])["fastv@4"]
    assert rows["fastv@4"] == trained


def test_pruners_before_the_language_model_answer_beside_those_inside(
    model, data, together, tmp_path, monkeypatch
):
    """They read the volumes at a cut of their own; what the others answer stays."""
    names = ["photon", "no_pruning", "fastv@3", "visionzip@3", "cdpruner@3", "hiprune@3"]
    calls, encode = [], PhotonModel.encode
    monkeypatch.setattr(PhotonModel, "encode", lambda *a: calls.append(1) or encode(*a))
    rows = evaluator(model, data, tmp_path).run(names)
    assert len(calls) == 4  # two batches at two cuts
    assert {name: rows[name] for name in names[:3]} == {name: together[name] for name in names[:3]}
    for name in names[3:]:
        assert {row["kept_tokens"] for row in rows[name]} == {3}
        assert rows[name] == evaluator(model, data, tmp_path / name).run([name])[name]
    masks = [[row["kept_mask"] for row in rows[name]] for name in names[3:]]
    assert masks[0] != masks[1] != masks[2]


def test_controls_too_can_drop_before_the_first_layer(model, data, together, tmp_path):
    """At layer None the same masks as inside act on what the first layer reads."""
    bare = PhotonModel(
        model.backbone, None, tokenizer=model.tokenizer, preparation=model.preparation
    ).eval()
    names = ["no_pruning", *budget_conditions([3], ["random", "uniform", "oracle", "divprune"])]
    rows = evaluator(bare, data, tmp_path, layer=None).run(names)
    for name in names[1:4]:
        masks = [[row["kept_mask"] for row in found[name]] for found in (rows, together)]
        assert masks[0] == masks[1]
    answers = [[row["prediction"] for row in rows[name]] for name in names]
    assert answers[0] == [row["prediction"] for row in together["no_pruning"]]
    assert answers[1] != [row["prediction"] for row in together["random@3"]]


def test_names_of_conditions():
    assert parse_condition("photon@0.1").keep == 0.1
    assert parse_condition("fastv@1").keep == 1 and isinstance(parse_condition("fastv@1").keep, int)
    assert parse_condition("oracle@1.0").keep == 1.0
    assert dataclasses.astuple(parse_condition("blank_volume", 7)) == (
        "blank_volume", "blank_volume", "photon", 7, False)  # fmt: skip
    for wrong in ("photon@", "photon@0", "photon@1.5", "photon@-1", "best@0.1", "no_prunin"):
        with pytest.raises(ValueError, match="legal"):
            parse_condition(wrong)


def test_random_keep_needs_the_run_that_it_imitates(model, data, tmp_path):
    with pytest.raises(ValueError, match="run it as well"):
        evaluator(model, data, tmp_path).run(["random_keep"])


def test_random_masks_are_seeded_per_question_and_uniform():
    mask = random_keep_mask("q0", 5, 40)
    assert mask.dtype == bool and mask.sum() == 5 and mask.shape == (40,)
    assert (mask == random_keep_mask("q0", 5, 40)).all()
    assert (mask != random_keep_mask("q1", 5, 40)).any()
    assert (mask != random_keep_mask("q0", 5, 40, seed=1)).any()
    hits = sum(random_keep_mask(f"q{i}", 5, 40) for i in range(2000))
    assert hits.min() > 180 and hits.max() < 320  # 250 expected, standard deviation 15
    assert random_keep_mask("q", 40, 40).all()
    with pytest.raises(ValueError, match="count=41"):
        random_keep_mask("q", 41, 40)
