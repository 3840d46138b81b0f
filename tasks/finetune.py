"""Phase 2: everything learns, on questions, while pruning is scheduled (A.1.1, A.2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from photon.annotations import Fraction, Positive
from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate
from photon.losses import (
    Band,
    Occasional,
    Robust,
    Routing,
    band_loss,
    flip_loss,
    retention_ratio,
    robust_loss,
)
from photon.model.photon import Output, PhotonModel
from photon.pruning.base import Selection
from photon.volume.perturb import perturb, sample_perturbation
from photon.weights.lora import Lora, add_adapters, merge_adapters, save_adapters
from tasks.base import Optimizer, PhotonTask
from tasks.sharding import FullySharded
from tasks.terms import Term

TERMS = ("answer", "band", "robust", "flip")  # contributions to the loss; zero where absent


class Finetune(PhotonTask):
    """L = (L_CE or L_band or L_robust) + L_flip (Eq. 21), with the stages of `PruningSchedule`.

    Args:
        model, optimizer, warmup, vision_lr: see `PhotonTask`.
        band: low, high, weight, on (Eq. 18); only unperturbed questions, once tokens are weighted.
        robust: probability (a volume), weight and exact (Eq. 19); a perturbed volume's questions
            have no other loss, and give the pruner no gradient.
        flip: probability (a question) and weight (Eq. 20), from the schedule's flip step on.
        routing: `paper` adds the flip term to a question's other loss; `exclusive` replaces it, as
            the released code does.
        terms: further terms by name, see `tasks.terms` (not in the paper).
        lora: adapters on the language model in place of training all weights (not in the paper);
            added to the weights at the end.
    """

    prunes = True

    def __init__(
        self,
        model: PhotonModel,
        optimizer: Optimizer,
        warmup: Fraction = 0.05,
        vision_lr: Positive | None = None,
        band: Band | Mapping = Band(),  # noqa: B008  (frozen)
        robust: Robust | Mapping = Robust(0.15),  # noqa: B008
        flip: Occasional | Mapping = Occasional(0.05),  # noqa: B008
        routing: Literal["paper", "exclusive"] = "paper",
        terms: Mapping[str, Term] | None = None,
        lora: Lora | Mapping | None = None,
    ):
        super().__init__(model, optimizer, warmup, vision_lr)
        if routing not in ("paper", "exclusive"):
            raise ValueError(f"task.finetune.routing={routing!r}: legal values: paper, exclusive")
        self.lora = Lora(**lora) if isinstance(lora, Mapping) else lora
        if self.lora is None:
            self.model.requires_grad_(True)
        else:
            add_adapters(self.model, self.lora)
        self.band = band if isinstance(band, Band) else Band(**band)
        self.robust = robust if isinstance(robust, Robust) else Robust(**robust)
        self.flip_loss = flip if isinstance(flip, Occasional) else Occasional(**flip)
        self.routing = routing
        self.further = dict(terms or {})
        for term in self.further.values():
            term.check(model)
            self.collate = self.collate if term.collate is Collate else term.collate

    def on_fit_end(self) -> None:
        if self.lora is None:
            return
        if self.lora.save and self.trainer.is_global_zero:
            save_adapters(self.model, self.lora, Path(self.trainer.default_root_dir) / "adapters")
        merge_adapters(self.model)

    def training_step(self, batch: VolumeBatch, batch_index: int) -> Tensor:
        n = len(batch.suffixes)
        flipping = self.flip and self.stage == "hard" and self.model.pruner is not None
        routing = Routing.draw(
            torch.tensor(batch.volume_of),
            len(batch.grids),
            self.robust.probability,
            self.flip_loss.probability if flipping else 0.0,
            self.routing,
        )
        batch = perturb_volumes(
            batch, routing.robust, self.model.builder.channels, self.robust.exact
        )
        weight = routing.answer / (n * self.trainer.accumulate_grad_batches)
        flip = self._flip_together(routing.flip) if flipping else None
        output = self.model(batch, self.stage, weight, flip)
        terms = self.terms(output, routing)
        for name, term in self.further.items():
            value = term(self.model, batch, output, routing.answer.to(self.device))
            if value is not None:
                terms[name] = term.weight * value
        loss = sum(terms.values()) + 0.0 * self._touch()
        self.count(batch, output)
        self.retention_rows = retention_rows(batch, output.selection, self.band)
        self.log("loss", loss)
        # Every term in every step: Lightning repeats the last value of what is not logged.
        zero = torch.zeros((), device=self.device)
        for name in (*TERMS, *self.further):
            # The sum can be negative (Eq. 19), so the bar shows the answer's term.
            self.log(f"loss/{name}", terms.get(name, zero).detach(), prog_bar=name == "answer")
        self._log_retention(output.selection)
        return loss

    def terms(self, output: Output, routing: Routing) -> dict[str, Tensor]:
        """The weighted loss terms of a batch, each averaged over all of its questions."""
        device = output.answers.logits.device
        answer, robust = routing.answer.to(device), routing.robust.to(device)
        n = len(answer)
        terms = {"answer": self.answer_term(output, answer)}
        if output.selection is not None and output.selection.prob is not None:
            outside = band_loss(
                retention_ratio(output.selection, self.band.on), self.band.low, self.band.high
            )
            terms["band"] = self.band.weight * (outside * answer).sum() / n
        if bool(routing.robust.any()):
            entropy = robust_loss(output.answers.logits, output.answers.questions)
            terms["robust"] = self.robust.weight * (entropy * robust).sum() / n
        if output.flipped is not None:
            flipped = output.flipped
            penalty = flip_loss(flipped.logits, flipped.targets, flipped.questions)
            drawn = routing.flip.to(device)  # more may have run, see `_flip_together`
            terms["flip"] = self.flip_loss.weight * (penalty * drawn).sum() / n
        return terms

    def _flip_together(self, flip: Tensor) -> Tensor:
        """The questions (Q,) whose flipped pass runs.

        Sharded layers run on all processes or on none: where another process drew a question and
        this one did not, its first question runs too, and its loss counts as zero.
        """
        if isinstance(self.trainer.strategy, FullySharded):
            mine = bool(flip.any())  # what is reduced is overwritten
            drawn = torch.tensor(float(mine), device=self.device)
            drawn = self.trainer.strategy.reduce(drawn, reduce_op="sum")
            if bool(drawn > 0) and not mine:
                flip = flip.clone()
                flip[0] = True
        return flip

    def _touch(self) -> Tensor:
        """Zero that depends on the pruner, whose weights are unused while pruning is off (DDP)."""
        pruner = self.model.pruner
        used = [] if pruner is None else [p.sum() for p in pruner.parameters()]
        return torch.stack(used).sum() if used else torch.zeros((), device=self.device)

    def _log_retention(self, selection: Selection | None) -> None:
        if selection is None:
            return
        self.log("keep", selection.hard_ratio.mean(), prog_bar=True)
        self.log("keep/soft", selection.soft_ratio.detach().mean())
        if selection.theta is not None:
            self.log("theta", selection.theta.detach().mean())

    def on_after_backward(self) -> None:
        monitor = getattr(self.model.pruner, "monitor", {})
        if monitor:
            # Where std(eta) lies below eps_std, Eq. 13 divides by the floor and fades out.
            self.log("surrogate/eta_std", monitor["eta_std"])


def perturb_volumes(
    batch: VolumeBatch, robust: Tensor, channels: int, exact: bool = True
) -> VolumeBatch:
    """The batch with the volumes of the marked questions (Q,) perturbed (Eq. 19)."""
    volumes = {v for v, use in zip(batch.volume_of, robust.tolist(), strict=True) if use}
    if not volumes:
        return batch
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    rows = list(batch.patches.split(batch.patch_counts))
    for v in sorted(volumes):
        rows[v] = perturb(rows[v], sample_perturbation(generator), generator, channels, exact)
    return batch.with_patches(torch.cat(rows))


def retention_rows(batch: VolumeBatch, selection: Selection | None, band: Band) -> list[dict]:
    """One row a subtask of the batch, for retention.parquet."""
    lengths = batch.visual_lengths
    visual = torch.tensor([lengths[v] for v in batch.volume_of], dtype=torch.float)
    if selection is None:
        columns = {"soft_keep": torch.ones_like(visual), "hard_keep": torch.ones_like(visual)}
        kept = visual
    else:
        told = {"soft_keep": selection.soft_ratio, "hard_keep": selection.hard_ratio}
        told |= {"kept": selection.counts}
        if selection.theta is not None:
            told["theta"] = selection.theta
        together = torch.stack([value.detach().float() for value in told.values()]).cpu()
        columns = dict(zip(told, together, strict=True))
        kept = columns.pop("kept")
        ratio = columns["soft_keep" if band.on == "soft" else "hard_keep"]
        columns["band_hit"] = ((ratio < band.low) | (ratio > band.high)).float()
    columns["kept_tokens"], columns["visual_tokens"] = kept, visual
    names = [record.subtask or "all" for record in batch.records]
    rows = []
    for name in dict.fromkeys(names):
        at = torch.tensor([i for i, other in enumerate(names) if other == name])
        row = {key: float(value[at].mean()) for key, value in columns.items()}
        rows.append({"subtask": name, "n": len(at), **row})
    return rows
