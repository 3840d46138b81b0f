"""Does the surrogate point where the loss really goes? A.1.4 measured on a trained model.

For tokens drawn from each question's kept ones: the change of the answer loss when the token is
dropped after layer l, when its hidden row is shrunk a little, and what first order predicts, -eta.

Shape suffixes: C copies of a question, one a token that is tried; J its visual tokens; R prefix
and S suffix rows of a batch; D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from photon.batch.batch import VolumeBatch
from photon.batch.dataset import Collate, VolumeQuestions
from photon.evaluation.evaluator import Evidence
from photon.evaluation.table import aligned
from photon.model.decoder import Trunk
from photon.model.photon import Answers, PhotonModel
from photon.packing import Segments
from photon.pruning.base import Selection
from photon.pruning.its import PhotonPruner
from photon.pruning.saliency import precise
from photon.pruning.surrogate import SurrogateConfig, row_scores, surrogate_gradient
from photon.questions.record import read_records
from photon.study.gradient_share import gradient_shares
from photon.volume.store import VolumeStore

DIRECTIONS = ("paper", "taylor", "magnitude", "gate")


@dataclass(frozen=True)
class TokenChange:
    """One question: per tried token, what was predicted and what happened (losses in nats)."""

    question: str
    eta: np.ndarray  # <x, g>, from which A.1.4 predicts a change of -eta on removal
    gate: np.ndarray  # derivative by the token's weight as a key, which predicts -gate
    dropped: np.ndarray  # loss without the token, minus loss
    shrunk: np.ndarray  # (loss with the token's row times 1 - step, minus loss) / step
    surrogate: dict[str, np.ndarray]  # dL/dq by direction; negative: descent keeps the token
    evidence: np.ndarray  # share of the token that the question's evidence covers; NaN: unknown


def token_changes(
    model: PhotonModel,
    batch: VolumeBatch,
    evidence: Sequence[np.ndarray | None],
    keep_all: bool,
    tokens: int = 32,
    step: float = 0.05,
    seed: int = 0,
) -> Iterator[TokenChange]:
    """Changes for `tokens` kept tokens of every question of a batch with answers.

    keep_all: start from all visual tokens; otherwise from what the model's pruner keeps. evidence:
    per question the share of each visual token that it covers, or None.
    """
    trunk, selection = _start(model, batch, keep_all)
    config = getattr(model.pruner, "surrogate", SurrogateConfig())
    rng = np.random.default_rng(seed)
    for i, pairs in enumerate(selection.pairs):
        own = Selection(selection.keep[pairs], Segments([pairs.stop - pairs.start]))
        kept = own.keep_idx.numpy()
        tried = np.sort(rng.choice(kept, min(tokens, len(kept)), replace=False))
        one = _copies(trunk, i, 1)
        x, g, gate = _gradients(model, one, own)
        prob = torch.full((len(x),), 0.5) if selection.prob is None else selection.prob[pairs]
        eta, m = row_scores(x, g)
        fixed = prob, own.keep, own.pairs
        surrogate = {
            d: surrogate_gradient(eta, m, *fixed, replace(config, direction=d))
            for d in DIRECTIONS
            if d != "gate"
        }
        gated = replace(config, direction="gate")
        surrogate["gate"] = surrogate_gradient(gate, gate.abs(), *fixed, gated)
        with torch.no_grad():
            base = _losses(model, one, own.keep)
            copies = _copies(trunk, i, len(tried))
            masks = own.keep.repeat(len(tried), 1)
            number = torch.arange(len(tried))
            scaled = copies.hidden.clone()
            scaled[copies.batch.visual_rows.view(len(tried), -1)[number, tried]] *= 1 - step
            shrunk = _losses(model, replace(copies, hidden=scaled), masks.flatten()) - base
            masks[number, tried] = False
            dropped = _losses(model, copies, masks.flatten()) - base
        share = evidence[i]
        yield TokenChange(
            batch.records[i].id,
            eta[tried].numpy(),
            gate[tried].numpy(),
            dropped.numpy(),
            (shrunk / step).numpy(),
            {d: values[tried].numpy() for d, values in surrogate.items()},
            np.full(len(tried), np.nan) if share is None else share[tried],
        )


def _start(model: PhotonModel, batch: VolumeBatch, keep_all: bool) -> tuple[Trunk, Selection]:
    """State after layer l, and the tokens from which single ones are taken away."""
    with torch.no_grad():
        trunk = model.trunk(batch, model.encode(batch), model.cut)
        selection = model.select(trunk)
    if keep_all:
        selection = replace_keep(selection, torch.ones_like(selection.keep))
    return trunk, selection


def replace_keep(selection: Selection, keep: Tensor) -> Selection:
    """The selection with another mask; scores and probabilities stay."""
    return Selection(keep, selection.pairs, selection.scores, selection.prob, selection.theta)


def _gradients(model: PhotonModel, one: Trunk, own: Selection) -> tuple[Tensor, Tensor, Tensor]:
    """Visual rows (J, D) of a question alone, and the gradients of its loss.

    By these rows, zero for what is dropped, and by the weight of each token where the question
    reads it, (J,): 1 as it is, 0 hides it from the question.
    """
    hidden = one.hidden.clone().requires_grad_()
    gate = torch.zeros(len(own.keep), dtype=hidden.dtype, requires_grad=True)
    layout = one.batch.lay_out(own.keep, model.pruner.tail)
    suffix = model.decoder.above(replace(one, hidden=hidden), layout, model.cut, gate=gate)
    answers = model.answers(one.batch, suffix)
    by_rows, by_gate = torch.autograd.grad(_answer_losses(answers).sum(), (hidden, gate))
    rows = one.batch.visual_rows
    return hidden.detach()[rows], by_rows[rows] * own.keep[:, None], by_gate


def _copies(trunk: Trunk, i: int, n: int) -> Trunk:
    """The trunk of one question, n times as if about n volumes."""
    batch = trunk.batch
    prefix, suffix = list(batch.prefixes)[batch.volume_of[i]], list(batch.suffixes)[i]
    start = batch.prefixes.total

    def taken(x: Tensor) -> Tensor:
        """The question's rows of (R + S, ...), prefixes of all copies first."""
        parts = x[prefix], x[start + suffix.start : start + suffix.stop]
        return torch.cat([part.repeat(n, *[1] * (x.dim() - 1)) for part in parts])

    count = batch.visual_lengths[batch.volume_of[i]]
    first = sum(batch.visual_lengths[: batch.volume_of[i]])
    of_copies = replace(
        batch,
        prefix_positions=batch.prefix_positions[:, prefix].repeat(1, n),
        visual=batch.visual[prefix].repeat(n),
        visual_lengths=[count] * n,
        prefixes=Segments([prefix.stop - prefix.start] * n),
        suffix_positions=batch.suffix_positions[:, suffix].repeat(1, n),
        targets=batch.targets[suffix].repeat(n),
        suffixes=Segments([suffix.stop - suffix.start] * n),
        volume_of=list(range(n)),
    )
    parts = (trunk.visual.tokens, *trunk.visual.deepstack)
    tokens, *deepstack = (part[first : first + count].repeat(n, 1) for part in parts)
    visual = replace(trunk.visual, tokens=tokens, deepstack=tuple(deepstack))
    return replace(trunk, batch=of_copies, hidden=taken(trunk.hidden), visual=visual)


def _losses(model: PhotonModel, copies: Trunk, keep: Tensor) -> Tensor:
    """Answer loss of the copies of a question with masks (C * J,), (C,)."""
    selection = Selection(keep, copies.batch.pairs)
    suffix = model.decoder.tail(copies, selection, model.cut, model.pruner)
    return _answer_losses(model.answers(copies.batch, suffix))


def _answer_losses(answers: Answers) -> Tensor:
    """`losses.answer_loss` in at least the model's precision: small differences are what counts."""
    losses = F.cross_entropy(precise(answers.logits), answers.targets, reduction="none")
    return answers.questions.mean(losses)


def summarise(changes: Sequence[TokenChange]) -> dict[str, float | int | None]:
    """Agreement between prediction and measurement, over all tokens of all questions.

    rank_*: Spearman correlation within a question, averaged over questions: of -eta with the change
    on removal and on shrinking; of -dL/dq of each direction with the change on removal (positive:
    descent raises q of the tokens that the answer needs most); of coverage by the evidence with the
    change on removal. sign, sign_gate: share of tokens where -eta (-gate) and the change on removal
    agree in sign.
    useful: share of tokens whose removal raises the loss. loss_of_*: mean rise of the loss when one
    of the quarter of tokens that a direction favours most is removed, less the mean over all tried.
    """
    pooled = {
        key: np.concatenate([getattr(c, key) for c in changes])
        for key in ("eta", "gate", "dropped", "shrunk")
    }
    out: dict[str, float | int | None] = {
        "questions": len(changes),
        "tokens": len(pooled["eta"]),
        "rank_eta_dropped": _ranks([(-c.eta, c.dropped) for c in changes]),
        "rank_eta_shrunk": _ranks([(-c.eta, c.shrunk) for c in changes]),
        "sign": float(np.mean((-pooled["eta"] > 0) == (pooled["dropped"] > 0))),
        "rank_gate_dropped": _ranks([(-c.gate, c.dropped) for c in changes]),
        "sign_gate": float(np.mean((-pooled["gate"] > 0) == (pooled["dropped"] > 0))),
        "useful": float(np.mean(pooled["dropped"] > 0)),
        "mean_change": float(pooled["dropped"].mean()),
    }
    for direction in DIRECTIONS:
        pairs = [(-c.surrogate[direction], c.dropped) for c in changes]
        out[f"rank_{direction}"] = _ranks(pairs)
        out[f"loss_of_{direction}"] = float(np.mean([_favoured(a, b) for a, b in pairs]))
    covered = [(c.evidence, c.dropped) for c in changes if np.isfinite(c.evidence).all()]
    out["rank_evidence"] = _ranks(covered)
    return out


def _ranks(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Mean Spearman correlation over questions in which both sides vary."""
    varied = [(a, b) for a, b in pairs if np.ptp(a) > 0 and np.ptp(b) > 0]
    found = [spearmanr(a, b).statistic for a, b in varied]
    return float(np.mean(found)) if found else None


def _favoured(liking: np.ndarray, change: np.ndarray) -> float:
    """Mean change over the quarter with the highest liking, less the mean over all."""
    best = np.argsort(-liking, kind="stable")[: max(1, len(liking) // 4)]
    return float(change[best].mean() - change.mean())


# The command ------------------------------------------------------------------------------------

STARTS = {"all tokens": True, "kept by the pruner": False}
ROWS = {
    "questions": "questions",
    "tokens": "tokens tried",
    "useful": "share of tokens whose removal raises the loss",
    "mean_change": "mean change of the loss on removal (nats)",
    "rank_eta_shrunk": "rank correlation of -eta with the change on shrinking",
    "rank_eta_dropped": "rank correlation of -eta with the change on removal",
    "sign": "share of tokens where both have one sign",
    "rank_gate_dropped": "rank correlation of -dL/dgate with the change on removal",
    "sign_gate": "share of tokens where both have one sign",
    **{f"rank_{d}": f"rank correlation of -dL/dq, {d}, with it" for d in DIRECTIONS},
    **{f"loss_of_{d}": f"extra loss of losing a favourite of {d} (nats)" for d in DIRECTIONS},
    "rank_evidence": "rank correlation of evidence coverage with it",
    **{f"share_{d}": f"gradient of q and k: {d} to the answers'" for d in DIRECTIONS},
}


def measure(
    model: PhotonModel,
    questions: Path,
    root: Path,
    store: str | Path,
    volumes: int,
    per_volume: int,
    tokens: int,
) -> dict[str, dict[str, float | int | None]]:
    """Summaries by what the tokens are taken from: all of them, or those that the pruner keeps.

    Of the latter also `gradient_shares`, averaged over volumes.
    """
    records = read_records(questions, strict=True)[0]
    cases = VolumeStore(store, model.preparation)
    dataset = VolumeQuestions(records, cases, root, per_volume, with_labels=True)
    collate = Collate(model.builder, model.tokenizer, with_answer=True)
    changes: dict[str, list[TokenChange]] = {name: [] for name in STARTS}
    shares: list[dict[str, float]] = []
    for index in range(min(volumes, len(dataset))):
        batch = collate([dataset[index]])
        evidence = Evidence(batch, model.builder.token).pair_shares
        for name, keep_all in STARTS.items():
            changes[name] += token_changes(model, batch, evidence, keep_all, tokens)
        if isinstance(model.pruner, PhotonPruner):
            shares.append(gradient_shares(model, batch, DIRECTIONS))
    out = {name: summarise(found) for name, found in changes.items()}
    mean = {f"share_{d}": float(np.mean([s[d] for s in shares])) for d in DIRECTIONS if shares}
    out["kept by the pruner"] |= mean
    return out


def table(found: Mapping[str, Mapping[str, float | int | None]]) -> list[str]:
    """Markdown lines: a row a number, a column a start."""

    def text(value: float | int | None) -> str:
        return "-" if value is None else str(value) if isinstance(value, int) else f"{value:+.4f}"

    columns = found.values()
    body = [[title, *(text(entry.get(key)) for entry in columns)] for key, title in ROWS.items()]
    return aligned(["", *found], body)
