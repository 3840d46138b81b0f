"""Small random models and batches for tests: genuine Qwen shapes in miniature."""

from pathlib import Path

import torch

from photon.batch.builder import BatchBuilder
from photon.model.photon import PhotonModel
from photon.pruning.its import PhotonPruner
from photon.questions.prompts import Prompt
from photon.questions.record import Record, read_records

VOCAB = 64
START, IMAGE, VIDEO = 1, 2, 3
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCAB,
    "bos_token_id": None,
    "eos_token_id": 7,
    "pad_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 1]},
}
VISION = {
    "depth": 3,
    "hidden_size": 24,
    "num_heads": 2,
    "intermediate_size": 32,
    "out_hidden_size": 32,
    "patch_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 1,
    "window_size": 8,
    "fullatt_block_indexes": [1],
}


FAMILIES = ("qwen2_5", "qwen3")
# A head that is not hidden / heads, a table of 5 x 5 positions, and features for 2 of 4 layers.
TEXT3 = dict(TEXT, head_dim=12)
TEXT3["rope_parameters"] = dict(TEXT["rope_parameters"], mrope_section=[2, 2, 2])
VISION3 = {k: v for k, v in VISION.items() if k not in ("window_size", "fullatt_block_indexes")}
VISION3 |= {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]}


def backbone(seed=0, dtype=torch.float64, scale=4.0, family="qwen2_5", text=None, **vision):
    """A random stock backbone; weights are scaled up so that attention is far from uniform."""
    import transformers

    name, own, tower = {
        "qwen2_5": ("Qwen2_5_VL", TEXT, VISION),
        "qwen3": ("Qwen3VL", TEXT3, VISION3),
    }[family]
    text = dict(own, **(text or {}))
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(
        text_config=dict(text, rope_parameters=dict(text["rope_parameters"])),
        vision_config=dict(tower, **vision),
        tie_word_embeddings=True,
        video_token_id=VIDEO,
        image_token_id=IMAGE,
        vision_start_token_id=START,
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln_q" not in name:
                parameter.mul_(scale)
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def photon_model(seed=0, dtype=torch.float64, pruner="photon", family="qwen2_5", **options):
    """A PhotonModel whose threshold predictor has been moved off its initial constant."""
    if pruner == "photon":
        torch.manual_seed(seed + 1)
        pruner = PhotonPruner(hidden=8, **options)
        torch.nn.init.normal_(pruner.predictor.mlp[2].weight, std=0.5)
        pruner = pruner.to(dtype)
    return PhotonModel(backbone(seed, dtype, family=family), pruner).train()


def builder(patch=(2, 2, 2), channels=1, depth_stride=1):
    return BatchBuilder(patch, channels, 2, depth_stride, VIDEO)


def prompt(generator, n_head=3, n_question=4, n_answer=2):
    """A random prompt; n_answer 0 gives one without an answer."""

    def draw(n):
        return torch.randint(8, VOCAB, (n,), generator=generator).tolist()

    suffix = draw(n_question) + [5, 6] + (draw(n_answer) + [7] if n_answer else [])
    return Prompt(list(range(10, 10 + n_head)), [4], suffix, (0, n_question), n_question + 2)


def random_batch(
    seed=0,
    questions=((4, 3), (5,), (3, 6, 4)),
    shapes=None,
    dtype=torch.float64,
    n_answer=(2, 1, 3),
    **options,
):
    """One volume a group, or several where its shape is a list; numbers are questions' lengths."""
    generator = torch.Generator().manual_seed(seed)
    shapes = shapes or [(6, 8, 12), (4, 12, 8), (8, 8, 8)]
    volumes = [
        tuple(
            torch.rand(shape, generator=generator, dtype=dtype)
            for shape in (group if isinstance(group, list) else [group])
        )
        for group in shapes[: len(questions)]
    ]
    prompts = [
        [
            prompt(generator, n_question=n, n_answer=n_answer[i % len(n_answer)] if n_answer else 0)
            for i, n in enumerate(group)
        ]
        for group in questions
    ]
    return builder(**options)(volumes, prompts), volumes, prompts


def talkative(model, seed=0):
    """The model with a head and weights under which answers depend on what was asked.

    Random tied weights repeat one token, whatever they see: such answers prove nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    head = model.backbone.lm_head
    drawn = torch.randn(head.weight.shape, generator=generator, dtype=torch.float64)
    head.weight = torch.nn.Parameter(0.3 * drawn.to(head.weight.dtype))
    language = model.backbone.model.language_model
    with torch.no_grad():
        language.embed_tokens.weight.mul_(2)
        for layer in language.layers:
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias.zero_()
            layer.self_attn.o_proj.weight.mul_(2)
            layer.mlp.down_proj.weight.mul_(2)
    return model.eval()


def load_split(root: str | Path, split: str) -> list[Record]:
    """Records of one file of a phantom data set."""
    return read_records(Path(root) / f"{split}.jsonl", root=root, strict=True)[0]
