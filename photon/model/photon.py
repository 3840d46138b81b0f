"""The model: encoder, packed decoder and pruner around a stock Qwen backbone.

Shape suffixes: Q questions, A supervised rows, V visual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from photon.batch.batch import VolumeBatch
from photon.batch.builder import BatchBuilder, Timestamps
from photon.batch.positions import Resume, check_resume
from photon.model.attention import check_backend
from photon.model.cache import KeyValues
from photon.model.decoder import PhotonDecoder, Trunk
from photon.model.encoder import VisualFeatures, VolumeEncoder
from photon.packing import Segments
from photon.pruning.base import (
    Keep,
    PruneContext,
    Pruner,
    Selection,
    blocks_of,
    selection_layer,
    stages_of,
)
from photon.questions.prompts import token_id
from photon.volume.preparation import Preparation

Stage = Literal["off", "soft", "hard"]


@dataclass(frozen=True)
class Answers:
    """Logits (A, vocabulary) of the supervised rows only, their targets (A,), and their owners."""

    logits: Tensor
    targets: Tensor
    questions: Segments


@dataclass(frozen=True)
class Output:
    """What one pass yields; `flipped` are the answers under the inverted mask (Eq. 20)."""

    answers: Answers
    visual_tokens: Tensor  # (V, D) encoder output
    context: PruneContext | None = None
    selection: Selection | None = None
    flipped: Answers | None = None


@dataclass
class Arrival:
    """Where the last stage of a pruner has selected, and what was kept on the way.

    selection: of the last stage, over the pairs of `trunk`; whole: what all stages leave of the
    pairs of the first trunk. spans: the layers between stages with the visual tokens (Q,) that each
    question reads there. caches: of those layers, where they are kept.
    """

    trunk: Trunk
    selection: Selection
    pruner: Pruner
    cut: int
    whole: Selection
    spans: list[tuple[int, Tensor]] = field(default_factory=list)
    caches: list[KeyValues] = field(default_factory=list)


class PhotonModel(nn.Module):
    """Answers questions about volumes, keeping the visual tokens that each question needs.

    Args:
        backbone: a stock `Qwen2_5_VLForConditionalGeneration` or `Qwen3VLForConditionalGeneration`;
            its modules and weights are used.
        pruner: what to keep after layer l, or None for the unpruned model.
        attention: sdpa, flash or varlen (see `AttentionPlan`).
        kv: `full` lets a decoding step attend, in layers up to l, to all visual tokens, as in
            training; `compact` only to the kept ones, as the released code does.
        tokenizer, preparation, depth_stride, slab: what turns a volume and a question into a batch
            for this model (see `Preparation` and `BatchBuilder`).
        image_mean, image_std: of the voxels in [0, 1] that the patch embedding expects, one value
            or one a channel.
        positions: where text resumes after a volume, see `prefix_positions`.
        leading_space: of the text after a volume, see `build_prompt`.
        air: HU, or None; tokens of a volume without a voxel above it (air, padding) are never
            computed. Needs a preparation whose voxels are HU. Not in the paper.
        checkpointing: in training, recompute every encoder block and decoder layer in the backward
            pass instead of keeping its activations. Not in the paper.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pruner: Pruner | None = None,
        attention: str = "sdpa",
        kv: Literal["full", "compact"] = "full",
        tokenizer: PreTrainedTokenizerBase | None = None,
        preparation: Preparation | None = None,
        depth_stride: int = 1,
        slab: int = 1,
        image_mean: float | Sequence[float] = 0.0,
        image_std: float | Sequence[float] = 1.0,
        positions: Resume = "trained",
        checkpointing: bool = False,
        air: float | None = None,
        leading_space: bool = False,
    ):
        super().__init__()
        check_backend(attention)
        if kv not in ("full", "compact"):
            raise ValueError(f"model.kv={kv!r}: legal values are full, compact")
        check_resume(positions)
        self.backbone = backbone
        self.pruner = pruner
        self.attention = attention
        self.kv = kv
        self.tokenizer = tokenizer
        self.preparation = preparation
        self.depth_stride = depth_stride
        self.slab = slab
        self.image_mean, self.image_std = image_mean, image_std
        self.positions = positions
        self.leading_space = leading_space
        self.air = air
        self.encoder = VolumeEncoder(backbone.model.visual, attention, checkpointing)
        self.decoder = PhotonDecoder(backbone.model.language_model, attention, checkpointing)

    @property
    def n_layers(self) -> int:
        return self.decoder.layers.n_layers

    @property
    def cut(self) -> int:
        """l, the number of decoder layers that run at full length."""
        return selection_layer(self.n_layers, self.pruner.layer)

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        return token_id(self.tokenizer, "<|im_end|>")

    @property
    def builder(self) -> BatchBuilder:
        """Turns volumes and prompts into this model's batches."""
        vision = self.backbone.config.vision_config
        frames_apart = self.backbone.config.model_type == "qwen3_vl"
        return BatchBuilder(
            patch=(vision.temporal_patch_size, vision.patch_size, vision.patch_size),
            channels=vision.in_channels,
            merge=vision.spatial_merge_size,
            depth_stride=self.depth_stride,
            visual_id=self.backbone.config.video_token_id,
            slab=self.slab,
            positions=self.positions,
            image_id=self.backbone.config.image_token_id,
            tokens_per_second=getattr(vision, "tokens_per_second", 1),
            timestamps=Timestamps(self.tokenizer) if frames_apart else None,
            context=self.backbone.config.text_config.max_position_embeddings,
            air=None if self.air is None else self.preparation.value(self.air),
            leading_space=self.leading_space,
        )

    def forward(
        self,
        batch: VolumeBatch,
        stage: Stage = "hard",
        weight: Tensor | None = None,
        flip: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Output:
        """Teacher-forced pass.

        stage: `off` keeps all tokens, `soft` scales them by q after layer l (a pruner without q, as
        the baselines, drops already), `hard` drops them.
        weight (Q,): factor of each question's own loss in the total loss, for the surrogate (see
        `DropTokens`); a question of weight zero gives the pruner no gradient. Default 1/Q.
        flip (Q,) boolean: questions to answer under the inverted mask as well; that pass reruns
        only the layers above l.
        """
        stage = "off" if self.pruner is None else stage
        visual = self.encode(batch, blocks_of(self.pruner))
        trunk = self.trunk(batch, visual, None if self.pruner is None else self.cut)
        if self.pruner is None:
            return Output(self.answers(batch, trunk.suffix), visual.tokens)
        context = trunk.context(self.pruner.score_rope)
        if stage == "off":
            hidden = self.decoder.tail(trunk, None, self.cut)
            return Output(self.answers(batch, hidden), visual.tokens, context)
        arrival = self.arrive(trunk, generator=generator)
        trunk, selection, pruner, cut = (
            arrival.trunk, arrival.selection, arrival.pruner, arrival.cut
        )  # fmt: skip
        if weight is None:
            weight = torch.full((len(batch.suffixes),), 1 / len(batch.suffixes))
        weight = weight.to(trunk.hidden.device)
        soft = stage == "soft" and selection.prob is not None
        hidden = self.decoder.tail(trunk, selection, cut, pruner, soft, weight)
        answers, flipped = self.answers(batch, hidden), None
        if flip is not None and bool(flip.any()):
            questions = flip.tolist()
            inverted = selection.flip()
            hidden = self.decoder.tail(trunk, inverted, cut, pruner, questions=questions)
            flipped = self.answers(batch, hidden, questions)
        return Output(answers, visual.tokens, context, arrival.whole, flipped)

    def answers(
        self, batch: VolumeBatch, hidden: Tensor, questions: Sequence[bool] | None = None
    ) -> Answers:
        """Logits at the supervised ones of the suffix rows (n, D) of the questions that ran."""
        at, targets, segments = batch.supervised_rows, batch.targets, batch.answers
        targets = targets[at]
        if questions is not None:
            runs, device = torch.tensor(questions), at.device
            mine = runs[Segments(segments.lengths).ids].nonzero()[:, 0].to(device)
            place = runs[Segments(batch.suffixes.lengths).ids].cumsum(0).to(device) - 1
            at, targets = place[at[mine]], targets[mine]
            kept = [n * run for n, run in zip(segments.lengths, questions, strict=True)]
            segments = Segments(kept, device)
        return Answers(self.logits(hidden[at]), targets, segments)

    def encode(self, batch: VolumeBatch, blocks: Collection[float] = ()) -> VisualFeatures:
        """Visual tokens (V, D) of all volumes of a batch, and what Qwen3-VL adds above.

        blocks: whose attention is noted, see `VolumeEncoder`.
        """
        grids = [grid for group in batch.grids for grid in group]
        if not grids:
            width = self.backbone.config.text_config.hidden_size
            return VisualFeatures(torch.zeros(0, width, device=batch.patches.device))
        patches = self.normalize(batch.patches)
        return self.encoder(patches, grids, torch.cat(batch.present), blocks)

    def normalize(self, patches: Tensor) -> Tensor:
        """Patch rows (P, C * voxels) in [0, 1] to what the patch embedding expects."""
        channels = self.backbone.config.vision_config.in_channels
        mean, std = (
            torch.as_tensor(value, dtype=patches.dtype, device=patches.device).reshape(-1, 1)
            for value in (self.image_mean, self.image_std)
        )
        return ((patches.unflatten(1, (channels, -1)) - mean) / std).flatten(1)

    def trunk(
        self,
        batch: VolumeBatch,
        visual: VisualFeatures,
        stop: int | None = None,
        cache: KeyValues | None = None,
    ) -> Trunk:
        """The first `stop` layers (None: all), the last of which a pruner may score."""
        return self.decoder.trunk(batch, visual, self.n_layers if stop is None else stop, cache)

    def select(
        self,
        trunk: Trunk,
        keep: Keep = None,
        pruner: Pruner | None = None,
        generator: torch.Generator | None = None,
    ) -> Selection:
        """The pruner's choice, outside autocast: scores meet a threshold in float32."""
        pruner = self.pruner if pruner is None else pruner
        with torch.autocast(trunk.hidden.device.type, enabled=False):
            return pruner.select(trunk.context(pruner.score_rope), keep, generator)

    def arrive(
        self,
        trunk: Trunk,
        keep: Keep = None,
        pruner: Pruner | None = None,
        generator: torch.Generator | None = None,
        cut: int | None = None,
        caching: bool = False,
        mark: Callable[[str], None] = lambda stage: None,
    ) -> Arrival:
        """The choices of all stages of a pruner, and the layers between them.

        trunk: after the layers up to the first stage, or after `cut` layers. keep: of the last
        stage, unless the pruner divides it (`PrunerStages.budgets`).
        caching: keep the keys and values of those layers. mark: is told what was done, for a clock.
        """
        pruner = self.pruner if pruner is None else pruner
        stages = stages_of(pruner)
        cuts = [selection_layer(self.n_layers, stage.layer) for stage in stages]
        cuts[0] = cuts[0] if cut is None else cut
        budgets = [keep]
        if len(stages) > 1:
            budgets = pruner.budgets(keep, trunk.batch.pairs)
        whole, spans, caches = None, [(cuts[0], trunk.batch.pairs.counts)], []
        for i, (stage, budget) in enumerate(zip(stages, budgets, strict=True)):
            chosen = self.select(trunk, budget, stage, generator)
            whole = chosen if whole is None else chosen.within(whole)
            mark("selection")
            if i == len(stages) - 1:
                break
            cache = KeyValues() if caching and cuts[i] < cuts[i + 1] else None
            trunk = self.decoder.narrow(trunk, chosen, cuts[i], cuts[i + 1], cache)
            spans.append((cuts[i + 1] - cuts[i], chosen.counts))
            caches += [] if cache is None else [cache]
            mark("layers above l")
        spans.append((self.n_layers - cuts[-1], chosen.counts))
        return Arrival(trunk, chosen, stage, cuts[-1], whole, spans, caches)

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head over the given rows (n, D) only."""
        return self.backbone.lm_head(self.decoder.layers.model.norm(hidden))
