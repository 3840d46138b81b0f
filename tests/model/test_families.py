"""Pruning off, both families equal their stock classes on images, videos and volumes."""

import pytest
import torch

from photon.model.encoder import VolumeEncoder
from photon.model.layers import DecoderLayers
from photon.model.photon import PhotonModel
from tests.helpers import FAMILIES, backbone, photon_model, random_batch
from tests.model.stock import NAMES, stock_logits, visual_batch

DTYPES = [(torch.float64, 1e-9), (torch.float32, 5e-5)]


@pytest.mark.parametrize("dtype, tolerance", DTYPES, ids=["float64", "float32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_stock_whatever_is_seen(double_islands, family, dtype, tolerance):
    """Six kinds of items in one batch, two questions each, against one question at a time."""
    model = photon_model(dtype=dtype, pruner=None, family=family).eval()
    batch = visual_batch(NAMES, dtype=dtype)
    with torch.no_grad():
        ours = model(batch, stage="off").answers
        for question, rows in enumerate(ours.questions):
            expected = stock_logits(model.backbone, batch, NAMES, question)
            assert expected.std() > 0.2
            got = ours.logits[rows]
            torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_tower_equals_stock_with_its_deepstack_features(double_islands, family):
    """Grids that neither windows nor the position table divide, one of a single row of tokens."""
    visual = backbone(family=family).model.visual
    grids = [(2, 6, 10), (3, 4, 4), (1, 2, 14)]
    rows = torch.randn(2 * 60 + 3 * 16 + 28, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = visual(rows, torch.tensor(grids))
        got = VolumeEncoder(visual)(rows, grids)
    torch.testing.assert_close(got.tokens, expected.pooler_output, atol=1e-10, rtol=1e-10)
    features = getattr(expected, "deepstack_features", ())
    assert len(got.deepstack) == len(features) == (2 if family == "qwen3" else 0)
    for ours, stock in zip(got.deepstack, features, strict=True):
        torch.testing.assert_close(ours, stock, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sections", [[24, 20, 20], [16, 24, 24], [2, 3, 1]])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_frequency_turns_with_the_axis_that_stock_gives_it(family, sections):
    head = 2 * sum(sections)
    text = {"hidden_size": head, "head_dim": head, "num_attention_heads": 1, "vocab_size": 8}
    text |= {"num_hidden_layers": 1, "num_key_value_heads": 1, "intermediate_size": 8}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}
    if family == "qwen2_5":
        del text["head_dim"]
    language = backbone(family=family, text=text, out_hidden_size=head).model.language_model
    positions = torch.randint(300, (3, 40), generator=torch.Generator().manual_seed(0))
    stock = language.rotary_emb(torch.zeros(1, dtype=torch.float64), positions[:, None])
    layers = DecoderLayers(language)
    for ours, theirs in zip(layers.rope(positions), stock, strict=True):
        assert torch.equal(ours, theirs[0])
    # A cast rounds the stock frequencies: at position 300 they are tenths of a radian off.
    for ours, theirs in zip(layers.bfloat16().rope(positions), stock, strict=True):
        assert torch.equal(ours, theirs[0].float())


def rotary(**rope):
    text = {"rope_parameters": {"rope_theta": 1e4, "mrope_section": [1, 2, 1], **rope}}
    return backbone(text=text).model.language_model


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_stretched_frequencies_equal_stock(kind):
    language = rotary(rope_type=kind, factor=4.0, original_max_position_embeddings=64)
    positions = torch.arange(90).reshape(3, 30)
    stock = language.rotary_emb(torch.zeros(1, dtype=torch.float64), positions[:, None])
    for ours, theirs in zip(DecoderLayers(language).rope(positions), stock, strict=True):
        torch.testing.assert_close(ours, theirs[0], atol=1e-7, rtol=1e-7)
    assert (stock[0].max() > 1) == (kind == "yarn")


def test_what_the_loops_do_not_do_is_refused():
    with pytest.raises(ValueError, match="rope_type='dynamic': .* legal values are default"):
        PhotonModel(backbone(text={"rope_parameters": {
            "rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0, "mrope_section": [1, 2, 1]
        }}))  # fmt: skip
    sliding = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    with pytest.raises(ValueError, match="text.use_sliding_window=false"):
        PhotonModel(backbone(text=sliding))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_mixed_precision_is_near_full_precision(family, stage):
    """bf16 autocast around float32 weights, recomputed activations, as a GPU would train."""
    model = photon_model(dtype=torch.float32, layer=0.25, family=family)
    model = PhotonModel(model.backbone, model.pruner, checkpointing=True).train()
    for parameter in model.backbone.parameters():
        parameter.data /= 2  # the tests' weights are large, and attention near one-hot
    batch = visual_batch(NAMES, dtype=torch.float32)
    full = model(batch, stage)
    # The same tokens stay: which do is not what this compares.
    model.pruner.keep = None if full.selection is None else full.selection.counts
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch, stage)
    together = torch.stack([full.answers.logits.flatten(), mixed.answers.logits.float().flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.95
    mixed.answers.logits.float().square().mean().backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_positions_are_a_switch(double_islands, family):
    """`stock` equals what the stock class makes of token types; `trained` differs for a volume.

    Qwen3-VL itself knows images and single frames only: a volume's block has no stock positions.
    """
    names = NAMES if family == "qwen2_5" else ["image", "frames", "images"]
    model = photon_model(pruner=None, family=family).eval()
    stride = getattr(model.backbone.config.vision_config, "tokens_per_second", 1)
    logits = {}
    for positions in ("stock", "trained"):
        batch = visual_batch(names, stride, positions)
        with torch.no_grad():
            answers = model(batch, stage="off").answers
        logits[positions] = [answers.logits[rows] for rows in answers.questions]
    for question, got in enumerate(logits["stock"]):
        with torch.no_grad():
            expected = stock_logits(model.backbone, batch, names, question, "stock")
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
        deep = names[batch.volume_of[question]] in ("video", "volume", "image and volume")
        same = torch.allclose(got, logits["trained"][question], atol=1e-6)
        assert same != deep, question


def test_the_switch_reaches_the_builder():
    stock = PhotonModel(backbone(), positions="stock", depth_stride=9)
    trained = PhotonModel(backbone(), depth_stride=9)
    assert (stock.builder.positions, trained.builder.positions) == ("stock", "trained")
    _, volumes, prompts = random_batch(questions=((4,),))
    first = [m.builder(volumes, prompts).suffix_positions[0, 0] for m in (stock, trained)]
    # 3 text rows, then (3, 2, 3) tokens, one more text row.
    assert first == [3 + 3 + 1, 3 + 2 * 9 + 1 + 1]
    with pytest.raises(ValueError, match="model.positions='max': legal values are trained, stock"):
        PhotonModel(backbone(), positions="max")
