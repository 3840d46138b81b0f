"""Pointing reads the layer's own attention, and masks teach it in pretraining and in Phase 2."""

import math

import pytest
import torch

from photon.batch.supervision import Pointers
from tasks.finetune import Finetune
from tasks.pretrain import Attention
from tasks.terms.pointing import Pointing
from tests.helpers import FAMILIES, photon_model, random_batch
from tests.test_training import configure, data, train  # noqa: F401  (a fixture)

# Muon multiplies each matrix fifteen times a step, in bfloat16, which is slow on some CPUs.
FEW_MATRICES = ("model.text.num_hidden_layers=2", "pruner.layer=0.5")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_layer(family):
    model = photon_model(layer=0.5, family=family)
    batch, _, _ = random_batch()
    attention = Attention(model, model.cut - 1)
    context = model(batch, stage="off").context
    instruction = batch.instruction.nonzero().squeeze(1)
    question = [q for q, n in enumerate(context.text.lengths) for _ in range(n)]
    owner = [batch.volume_of[q] for q in question]
    logits, rows = attention.logits(batch, Pointers(instruction, owner, torch.zeros(0)))
    assert logits.requires_grad
    keys = context.visual_keys.split(context.visual.lengths)
    group = context.queries.shape[1] // context.visual_keys.shape[1]
    for row, segment in enumerate(rows):
        k = keys[owner[row]].repeat_interleave(group, 1)  # (V, N, H)
        expected = (k * context.queries[row]).sum(-1).mean(1) / math.sqrt(k.shape[-1])
        torch.testing.assert_close(logits[segment].double(), expected, atol=1e-4, rtol=1e-4)


def test_pretraining_learns_to_point(data, tmp_path):  # noqa: F811
    config = configure(
        data / "pretrain",
        "experiment=pretrain_tiny",
        "trainer.max_steps=40",
        "phases={describe:0.7,answer:0.3}",
        "task.describe.see_first=0.25",
        "dataset.volumes_per_batch=3",
        *FEW_MATRICES,
    )
    _, log = train(config, tmp_path / "describe", "describe")
    assert log["loss/attention"].isna().sum() == 7 and len(log) == 28
    told = log.dropna(subset=["loss/attention"])
    for name in ("answer", "pointing"):
        column = told[f"loss/{name}"]
        assert column.iloc[-4:].mean() < column.iloc[:3].mean()
    _, log = train(config, tmp_path / "answer", "answer")
    assert torch.isfinite(torch.tensor(log["loss"].to_numpy())).all() and len(log) == 12


def test_masks_teach_the_saliency_of_phase_2(data, tmp_path):  # noqa: F811
    options = ("trainer.max_steps=25", "callbacks.pruning={soft:0.9,hard:0.95,flip:0.95}")
    rate = "task.finetune.optimizer.lr=2e-3"
    term = ("task=[align,finetune,pointing]", "task.finetune.terms.pointing.weight=1.0")
    config = configure(data, *term, "task.finetune.robust.probability=0", rate, *options)
    _, log = train(config, tmp_path)
    assert log["loss/pointing"].iloc[-5:].mean() < 0.8 * log["loss/pointing"].iloc[:3].mean()


def test_pointing_needs_a_saliency():
    with pytest.raises(ValueError, match="needs pruner=photon"):
        Finetune(photon_model(pruner=None), torch.optim.AdamW, terms={"pointing": Pointing()})
