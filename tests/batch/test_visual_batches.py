"""Rows with images, several images, videos and volumes: from real files to the stock classes."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from photon.batch.batch import IGNORE
from photon.batch.dataset import Collate, VolumeQuestions
from photon.errors import InputError
from photon.evaluation.views import ViewItems
from photon.model.photon import PhotonModel
from photon.questions.record import read_records
from photon.volume.images.preparation import ImagePreparation
from photon.volume.preparation import Preparation
from photon.volume.store import VolumeStore
from photon.weights.backbone import token_id
from photon.weights.checkpoints import load_tokenizer
from tests.helpers import FAMILIES, TEXT, TEXT3, VISION, VISION3, photon_model
from tests.model.conftest import double_islands  # noqa: F401  (a fixture)

IMAGES = ImagePreparation(min_pixels=32 * 32, max_pixels=64 * 64, frame_pixels=40 * 40, frames=5)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SECONDS = 0.5  # between frames of a folder, at the default of 2 a second
# What each row names, in the order of its tags.
ROWS = {
    "image": {"images": ["a b.png"]},
    "three images": {"images": ["a b.png", "c.jpg", "a b.png"]},
    "video": {"videos": ["clip"]},
    "frame list": {"videos": [["clip/0.png", "clip/1.png", "clip/2.png"]]},
    "volume": {"videos": ["scan.nii.gz"]},
    "volume, image and video": {"videos": ["scan.nii.gz", "clip"], "images": ["c.jpg"]},
}
TAGS = {"volume, image and video": "<video><image><video>"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("visuals")
    rng = np.random.default_rng(0)

    def picture(height, width):
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))

    picture(40, 70).save(folder / "a b.png")
    picture(90, 64).save(folder / "c.jpg")
    (folder / "clip").mkdir()
    for i in range(5):
        picture(50, 40).save(folder / "clip" / f"{i}.png")
    scan = rng.integers(-900, 900, (56, 56, 28)).astype(np.int16)
    nib.Nifti1Image(scan, np.diag([-1.0, -1, 1, 1])).to_filename(folder / "scan.nii.gz")
    with open(folder / "rows.jsonl", "w") as stream:
        for name, media in ROWS.items():
            for question in ("What is shown?", "Is there a lesion in the liver?"):
                text = TAGS.get(name, "") + question
                turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "no"}]
                row = {"id": f"{name}: {question}", "messages": turns, **media}
                stream.write(json.dumps(row) + "\n")
    return folder


def stock_patch_model(family: str, positions: str = "trained") -> PhotonModel:
    """The stock patch of the family, (2, 14, 14) or (2, 16, 16) of 3 channels, tiny otherwise."""
    tokenizer = load_tokenizer("tiny")
    name, text, tower = {
        "qwen2_5": (
            "Qwen2_5_VL",
            TEXT,
            {**VISION, "patch_size": 14, "window_size": 112, "tokens_per_second": 2},
        ),
        "qwen3": ("Qwen3VL", TEXT3, {**VISION3, "patch_size": 16}),
    }[family]
    torch.manual_seed(0)
    side = tower["patch_size"] * 2
    config = getattr(transformers, f"{name}Config")(
        text_config={**text, "vocab_size": len(tokenizer), "pad_token_id": None},
        vision_config={**tower, "in_channels": 3},
        tie_word_embeddings=True,
        **{
            f"{what}_token_id": token_id(tokenizer, token)
            for what, token in (("video", "<|video_pad|>"), ("image", "<|image_pad|>"),
                                ("vision_start", "<|vision_start|>"),
                                ("vision_end", "<|vision_end|>"))
        },
    )  # fmt: skip
    backbone = getattr(transformers, f"{name}ForConditionalGeneration")(config).double()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    size = (28, 56, 56) if family == "qwen2_5" else (16, 64, 64)
    preparation = Preparation(size=size, crop=size, images=replace(IMAGES, factor=side))
    return PhotonModel(
        backbone, None, tokenizer=tokenizer, preparation=preparation, depth_stride=6,
        image_mean=CLIP[0], image_std=CLIP[1], positions=positions,
    ).eval()  # fmt: skip


def questions(folder: Path, store: Path, model: PhotonModel) -> VolumeQuestions:
    records, problems = read_records(folder / "rows.jsonl", root=folder)
    assert not problems and len(records) == 2 * len(ROWS)
    return VolumeQuestions(records, VolumeStore(store, model.preparation), folder)


def kinds_of(name: str) -> list[str]:
    media = ROWS[name]
    default = ["image"] * len(media.get("images", [])) + ["video"] * len(media.get("videos", []))
    return [tag.strip("<") for tag in TAGS[name].split(">")[:-1]] if name in TAGS else default


def stock_ids(model, record, name, grids, seconds) -> list[int]:
    """The chat template's text with each placeholder spelt out as the stock processors do."""
    parts = [{"type": kind} for kind in kinds_of(name)]
    parts.append({"type": "text", "text": record.question})
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": "no"}]
    text = model.tokenizer.apply_chat_template(chat, tokenize=False)
    for kind, (t, h, w), step in zip(kinds_of(name), grids, seconds, strict=True):
        pad, tokens = f"<|{kind}_pad|>", h * w // 4
        if kind == "video" and model.backbone.config.model_type == "qwen3_vl":
            frames = [i * step for i in range(5)] if step == SECONDS else range(2 * t)
            ends = [(frames[2 * k], frames[min(2 * k + 1, len(frames) - 1)]) for k in range(t)]
            if name == "frame list":
                ends = [(0, 0.5), (1, 1)]
            spelt = "".join(
                f"<{(a + b) / 2:.1f} seconds><|vision_start|>{'@' * tokens}<|vision_end|>"
                for a, b in ends
            )
            text = text.replace(f"<|vision_start|>{pad}<|vision_end|>", spelt, 1)
        else:
            text = text.replace(pad, "@" * (t * tokens), 1)
        text = text.replace("@", "#" if kind == "image" else "~")
    text = text.replace("#", "<|image_pad|>").replace("~", "<|video_pad|>")
    return model.tokenizer.encode(text, add_special_tokens=False)[:-1]  # the closing newline


def trained_positions(kinds, grids, intervals):
    """Qwen2.5-VL's own rule, written out: what follows a grid starts at its largest position + 1.

    kinds: 0 text, 1 image, 2 video, a row each.
    """
    found, row = [], 0
    visual = iter(zip(grids, intervals, strict=True))
    while row < len(kinds):
        free = max((max(p) for p in found), default=-1) + 1
        if kinds[row] == 0:
            found.append((free, free, free))
            row += 1
            continue
        (t, h, w), step = next(visual)
        found += [(free + int(a * step), free + b, free + c)
                  for a in range(t) for b in range(h // 2) for c in range(w // 2)]  # fmt: skip
        row += t * h * w // 4
    return torch.tensor(found).T


def stock_logits(model, batch, question, name, seconds):
    """The stock class on one question: its own ids, and positions of its own or of the rule."""
    item = batch.volume_of[question]
    grids, kinds = batch.grids[item], kinds_of(name)
    sizes = [sum(t * h * w for t, h, w in group) for group in batch.grids]
    rows = model.normalize(batch.patches.double()).split(sizes)[item]
    pieces = rows.split([t * h * w for t, h, w in grids])
    ids = torch.tensor([stock_ids(model, batch.records[question], name, grids, seconds)])
    config = model.backbone.config
    kind_ids = (ids == config.image_token_id).int() + 2 * (ids == config.video_token_id).int()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["mm_token_type_ids"] = kind_ids
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        which = [i for i, one in enumerate(kinds) if one == kind]
        if which:
            inputs[pixels] = torch.cat([pieces[i] for i in which])
            inputs[f"{kind}_grid_thw"] = torch.tensor([grids[i] for i in which])
    per_patch = [2 * s if s == SECONDS else 3.0 for s in seconds]  # a volume: 6 = 2 a second * 3
    if config.model_type == "qwen2_5_vl":
        steps = [s for s, kind in zip(per_patch, kinds, strict=True) if kind == "video"]
        inputs["second_per_grid_ts"] = torch.tensor(steps) if steps else None
        if model.positions == "trained":
            where = trained_positions(kind_ids[0].tolist(), grids, [2 * s for s in per_patch])
            text = torch.arange(ids.shape[1]).expand(1, 1, -1)
            inputs["position_ids"] = torch.cat([text, where[:, None]])
    return ids[0], model.backbone(**inputs, use_cache=False).logits[0]


@pytest.mark.parametrize(
    ("family", "positions"), [("qwen2_5", "trained"), ("qwen2_5", "stock"), ("qwen3", "trained")]
)
def test_every_mix_in_one_batch_equals_stock(double_islands, folder, tmp_path, family, positions):  # noqa: F811
    """Image, several images, video, list of frames, volume, and all three in one question."""
    assert family in FAMILIES
    model = stock_patch_model(family, positions)
    data = questions(folder, tmp_path, model)
    batch = Collate(model.builder, model.tokenizer, True)([data[i] for i in range(len(data))])
    assert len(batch.grids) == len(ROWS) and len(batch.suffixes) == 2 * len(ROWS)
    with torch.no_grad():
        ours = model(replace(batch, patches=batch.patches.double()), stage="off").answers
        for question, rows in enumerate(ours.questions):
            item = batch.volume_of[question]
            name, sources = list(ROWS)[item], batch.records[question].volumes
            seconds = [1.0 if "scan" in str(source) else SECONDS for source in sources]
            ids, logits = stock_logits(model, batch, question, name, seconds)
            prefix, suffix = list(batch.prefixes)[item], list(batch.suffixes)[question]
            got = torch.cat([batch.prefix_ids[prefix], batch.suffix_ids[suffix]])
            assert got.tolist() == ids.tolist(), name
            supervised = batch.targets[suffix] != IGNORE
            expected = logits[-len(supervised) :][supervised]
            assert expected.std() > 0.1
            torch.testing.assert_close(ours.logits[rows], expected, atol=1e-9, rtol=1e-9)


def test_rows_keep_their_order_and_round_trip(folder, tmp_path):
    records, _ = read_records(folder / "rows.jsonl")
    mixed = records[-1]
    assert mixed.volumes == ("scan.nii.gz", "c.jpg", "clip")
    assert records[6].volumes == (("clip/0.png", "clip/1.png", "clip/2.png"),)
    (tmp_path / "again.jsonl").write_text("".join(json.dumps(r.to_row()) + "\n" for r in records))
    again, problems = read_records(tmp_path / "again.jsonl")
    assert again == records and not problems
    row = mixed.to_row()
    assert row["videos"] == ["scan.nii.gz", "clip"] and row["images"] == ["c.jpg"]
    assert row["messages"][0]["content"].startswith("<video><image><video>Is there")


def test_pruning_takes_visual_tokens_of_all_kinds(folder, tmp_path):
    model = stock_patch_model("qwen2_5").float()
    model.pruner = photon_model(dtype=torch.float32, keep=0.5).pruner
    data = questions(folder, tmp_path, model)
    batch = Collate(model.builder, model.tokenizer, True)([data[i] for i in range(len(data))])
    output = model(batch, stage="hard")
    visual = [batch.visual_lengths[v] for v in batch.volume_of]
    assert output.selection.counts.tolist() == [round(n / 2) for n in visual]
    output.answers.logits.square().mean().backward()
    assert model.backbone.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("view", ["blank_volume", "noise_volume", "shuffled_volume"])
def test_controls_show_frames_too(folder, tmp_path, view):
    model = stock_patch_model("qwen2_5")
    records, _ = read_records(folder / "rows.jsonl")
    records = [r for r in records if len(r.volumes) == 1]
    store = VolumeStore(tmp_path, model.preparation)
    items = ViewItems(view, records, records, store, folder)
    data = items.dataset()
    shown = [items.show(data[i]) for i in range(len(data))]
    batch = Collate(model.builder, model.tokenizer, False)(shown)
    own = VolumeQuestions(records, store, folder)
    plain = Collate(model.builder, model.tokenizer, False)([own[i] for i in range(len(own))])
    if view == "shuffled_volume":
        assert batch.grids != plain.grids and sorted(batch.grids) == sorted(plain.grids)
    else:
        assert batch.grids == plain.grids and not torch.equal(batch.patches, plain.patches)
        assert bool((batch.patches == 0).all()) == (view == "blank_volume")


def test_an_image_before_patches_that_see_volumes_only(folder, tmp_path):
    """Also where its pixels are of the wrong factor: one sentence with the way out."""
    volumes_only = photon_model(pruner=None)
    volumes_only.preparation = Preparation(size=(28, 56, 56), crop=(28, 56, 56), images=IMAGES)
    data = questions(folder, tmp_path, volumes_only)
    collate = Collate(volumes_only.builder, load_tokenizer("tiny"), False)
    with pytest.raises(InputError, match=r"record 'image: What.*a b.png is a 2D.*photon_max"):
        collate([data[0]])
    unnamed = replace(data[1].records[0], volume="", more_volumes=())
    with pytest.raises(InputError, match="what is asked about is a 2D image or video"):
        collate([replace(data[1], records=[unnamed])])
    model = stock_patch_model("qwen2_5")
    model.preparation = replace(model.preparation, images=replace(IMAGES, factor=32))
    data = questions(folder, tmp_path, model)
    with pytest.raises(InputError, match="set preparation.images.factor=28"):
        Collate(model.builder, model.tokenizer, False)([data[0]])
