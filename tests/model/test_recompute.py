"""Activation checkpointing changes what is kept between the passes, and nothing else."""

import pytest
import torch

from photon.model.photon import PhotonModel
from tests.helpers import photon_model, random_batch

FLIP = torch.tensor([True, False, False, True, False, True])


def passes(model, batch, stage):
    """Answer loss, gradients, and the bytes that the forward pass kept for the backward pass."""
    kept = 0

    def keep(tensor):
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(batch, stage, flip=FLIP if stage == "hard" else None)
        loss = out.answers.logits.square().mean()
        if out.flipped is not None:
            loss = loss + out.flipped.logits.square().mean()
    loss.backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), gradients, kept


@pytest.mark.parametrize(
    "family, stage, direction, tail",
    [
        ("qwen2_5", "off", "taylor", "question"),
        ("qwen2_5", "soft", "taylor", "question"),
        ("qwen2_5", "hard", "taylor", "question"),
        ("qwen2_5", "hard", "gate", "question"),
        ("qwen3", "soft", "taylor", "question"),
        ("qwen3", "hard", "gate", "question"),
        ("qwen2_5", "hard", "gate", "union"),
        ("qwen3", "soft", "gate", "all"),
    ],
)
def test_gradients_are_those_of_kept_activations(family, stage, direction, tail):
    plain = photon_model(layer=0.25, family=family, direction=direction, tail=tail)
    thrifty = PhotonModel(plain.backbone, plain.pruner, checkpointing=True).train()
    batch, _, _ = random_batch()
    loss, gradients, kept = passes(plain, batch, stage)
    same, recomputed, less = passes(thrifty, batch, stage)
    assert loss == same and gradients.keys() == recomputed.keys()
    assert any("predictor" in name for name in gradients) == (stage != "off")
    for name, gradient in gradients.items():
        assert torch.equal(recomputed[name], gradient), name
    assert less < kept / 3


def test_layers_run_twice_and_the_selection_once():
    plain = photon_model(layer=0.5)
    model = PhotonModel(plain.backbone, plain.pruner, checkpointing=True).train()
    runs = {"encoder": 0, "decoder": 0, "selection": 0}

    def count(name):
        def hook(*_):
            runs[name] += 1

        return hook

    model.backbone.model.visual.blocks[0].norm1.register_forward_hook(count("encoder"))
    model.backbone.model.language_model.layers[0].input_layernorm.register_forward_hook(
        count("decoder")
    )
    model.pruner.predictor.register_forward_hook(count("selection"))
    batch, _, _ = random_batch()
    passes(model, batch, "hard")
    assert runs == {"encoder": 2, "decoder": 2, "selection": 1}
    model.eval()
    passes(model, batch, "hard")
    assert runs == {"encoder": 3, "decoder": 3, "selection": 2}
