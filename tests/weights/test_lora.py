"""Adapters: of no effect at first, alone in being trained, and gone from what is exported."""

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from photon.losses import answer_loss
from photon.weights.lora import PROJECTIONS, Lora, add_adapters, merge_adapters, save_adapters
from tests.helpers import photon_model, random_batch


def logits(model, batch, stage="hard"):
    return model(batch, stage).answers.logits


def adapted(seed=0, **options):
    """A model whose adapters have moved off zero."""
    model = photon_model(seed)
    add_adapters(model, Lora(r=3, alpha=6, **options))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if "lora_B" in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(0.2 * noise)
    return model


@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_fresh_adapters_change_nothing(stage) -> None:
    batch, *_ = random_batch()
    model = photon_model()
    before = logits(model, batch, stage)
    add_adapters(model, Lora(r=2))
    torch.testing.assert_close(logits(model, batch, stage), before, rtol=0, atol=0)


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj", "v_proj")])
def test_gradients_reach_what_trains_and_nothing_else(targets) -> None:
    model = adapted(targets=targets)
    batch, *_ = random_batch()
    answers = model(batch, "hard").answers
    answer_loss(answers.logits, answers.targets, answers.questions).mean().backward()
    found = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    layers = range(4)
    parts = {name: "mlp" if name.split("_")[0] in ("gate", "up", "down") else "self_attn"
             for name in targets}  # fmt: skip
    expected = {
        f"backbone.model.language_model.layers.{i}.{part}.{name}.lora_{which}.default.weight"
        for i in layers
        for name, part in parts.items()
        for which in "AB"
    }
    expected |= {"backbone.model.visual.patch_embed.proj.weight"}
    expected |= {f"pruner.{name}" for name, _ in model.pruner.named_parameters()}
    assert found == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


def test_merged_weights_answer_as_the_adapters_did(tmp_path) -> None:
    batch, *_ = random_batch()
    model, plain = adapted(), photon_model()
    before = logits(model, batch)
    assert not torch.allclose(before, logits(plain, batch))
    merge_adapters(model)
    torch.testing.assert_close(logits(model, batch), before, rtol=1e-9, atol=1e-9)
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.backbone.save_pretrained(tmp_path)
    stock, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in stock.state_dict().items():
        assert torch.equal(value, model.backbone.state_dict()[name]), name


def test_adapters_alone_load_on_the_stock_model(tmp_path) -> None:
    from peft import PeftModel

    model = adapted()
    save_adapters(model, Lora(r=3, alpha=6), tmp_path)
    merge_adapters(model)
    stock = PeftModel.from_pretrained(photon_model().backbone, tmp_path).merge_and_unload()
    ours = model.backbone.state_dict()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=1e-12, atol=1e-12)


def test_a_model_without_adapters_merges_to_itself() -> None:
    model = photon_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    merge_adapters(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": 0}, "lora.r=0"),
        ({"dropout": 1.0}, "lora.dropout=1.0"),
        ({"targets": ["qproj"]}, r"lora.targets=\['qproj'\]: legal values are q_proj"),
        ({"targets": []}, "legal values are q_proj"),
    ],
)
def test_what_adapters_cannot_be(options, says) -> None:
    with pytest.raises(ValueError, match=says):
        Lora(**options)
