"""BERTScore with an encoder that lies on this machine, and the sums behind corpus BLEU-1.

Not through a library: bert-score 0.3.13 fails on empty answers with transformers 5 and loses the
space that RoBERTa's tokenizer needs before a first word; torchmetrics leaves the special tokens out
of the match and returns scores of sentences of unequal length in another order. Tests compare with
bert-score's own values where both compute.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from photon.errors import InputError
from photon.evaluation.metrics import bleu_scorer

ROBERTA_LARGE_LAYER = 17  # bert-score's default for lang="en"
LONGEST = 512  # tokens
PAIRS = 512  # whose states are in memory at once


class BertScorer:
    """BERTScore F1, not rescaled and without idf weights, from hidden states of one layer.

    folder: an encoder in Hugging Face's layout (`config.json`, weights, tokenizer); roberta-large
    with layer 17 gives the published numbers. Nothing is downloaded. InputError where it cannot be
    loaded or has fewer layers.
    """

    def __init__(
        self, folder: str | Path, layer: int = ROBERTA_LARGE_LAYER, device: str = "cpu"
    ) -> None:
        from transformers import AutoModel, AutoTokenizer  # here: most reports need no encoder

        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{folder}: no encoder for BERTScore (there is no config.json). Give the folder of "
                "roberta-large, or null to report the metric as not computed."
            )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            model = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{folder}: not an encoder for BERTScore ({error})") from error
        layers = model.config.num_hidden_layers
        if not 1 <= layer <= layers:
            raise InputError(
                f"BERTScore layer {layer}: the encoder in {folder} has {layers} layers"
            )
        self.model, self.layer, self.device = model.eval().to(device), layer, device
        self._special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        self._known: dict[tuple[str, str], float] = {}  # many conditions give the same answers

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """F1 of each pair, float64 [Q]; 0 where a side is empty."""
        pairs = [(p.strip(), r.strip()) for p, r in zip(predictions, references, strict=True)]
        new = sorted({(p, r) for p, r in pairs if p and r} - self._known.keys())
        for start in range(0, len(new), PAIRS):
            chunk = new[start : start + PAIRS]
            states = self._encode({text for pair in chunk for text in pair})
            self._known |= {(p, r): _f1(states[p], states[r]) for p, r in chunk}
        return np.array([self._known.get(pair, 0.0) for pair in pairs], dtype=np.float64)

    @torch.inference_mode()
    def _encode(self, texts: Collection[str], size: int = 64) -> dict[str, tuple[Tensor, Tensor]]:
        """Normalised hidden states of each text, and which of its tokens are words."""
        out = {}
        ordered = sorted(texts, key=lambda text: (len(text), text))  # little padding
        for start in range(0, len(ordered), size):
            chunk = ordered[start : start + size]
            batch = self.tokenizer(
                # RoBERTa's words begin with a space; other tokenizers strip it.
                [f" {text}" for text in chunk],
                padding=True,
                truncation=True,
                max_length=min(LONGEST, self.tokenizer.model_max_length),
                return_tensors="pt",
            ).to(self.device)
            states = self.model(**batch, output_hidden_states=True).hidden_states[self.layer]
            states = torch.nn.functional.normalize(states, dim=-1).cpu()
            for i, text in enumerate(chunk):
                real = batch["attention_mask"][i].bool().cpu()
                ids = batch["input_ids"][i].cpu()[real].tolist()
                word = torch.tensor([token not in self._special for token in ids])
                out[text] = states[i][real], word
        return out


def _f1(prediction: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> float:
    (p, p_word), (r, r_word) = prediction, reference
    match = p @ r.T
    # Every token may be matched with, but only words count: the weights of bert-score.
    precision = match.max(dim=1).values[p_word].mean()
    recall = match.max(dim=0).values[r_word].mean()
    total = float(precision + recall)
    return float(2 * precision * recall) / total if total else 0.0


@functools.lru_cache(maxsize=1 << 16)  # constants and many conditions give the same answers
def bleu1_counts(prediction: str, reference: str) -> tuple[int, int, int]:
    """(matching words, words of the prediction, words of the reference): corpus BLEU-1's sums.

    Words are sacrebleu's 13a tokens, each matched as often as it stands in the reference. The BLEU
    of a set of pairs is `bleu1_of` of the sum over them.
    """
    stats = bleu_scorer().corpus_score([prediction.strip()], [[reference.strip()]])
    return stats.counts[0], stats.sys_len, stats.ref_len


def bleu1_of(sums: np.ndarray) -> np.ndarray:
    """BLEU-1 from summed counts [..., 3] (see `bleu1_counts`) -> [...]; 0 without any word."""
    matched, own, reference = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.exp(np.minimum(0.0, 1.0 - reference / own))
        return np.where(own > 0, matched / own * brevity, 0.0)


def constant_scores(tried: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """{"bleu1": [C], "rouge1": [C]} of giving each of `tried` [C] to all references.

    Equal to `bleu1_of` the summed `bleu1_counts` and to the mean ROUGE-1, without scoring every
    pair by itself.
    """
    times = Counter(text.strip() for text in references)
    weights = np.array(list(times.values()), dtype=np.float64)
    out = {}
    for metric, words in (("bleu1", _bleu_words), ("rouge1", _rouge_words)):
        known = [Counter(words(text)) for text in times]
        lengths = np.array([sum(counts.values()) for counts in known], dtype=np.float64)
        counts_of: dict[str, np.ndarray] = {}
        for i, counts in enumerate(known):
            for word, count in counts.items():
                counts_of.setdefault(word, np.zeros(len(known)))[i] = count
        none = np.zeros(len(known))
        scores = np.zeros(len(tried))
        for c, text in enumerate(tried):
            own = Counter(words(text.strip()))
            size = sum(own.values())
            matched = sum((np.minimum(counts_of.get(w, none), n) for w, n in own.items()), none)
            if metric == "bleu1":
                sums = np.array([matched @ weights, size * weights.sum(), lengths @ weights])
                scores[c] = bleu1_of(sums)
            else:
                f1 = 2 * matched / np.maximum(size + lengths, 1)
                scores[c] = f1 @ weights / weights.sum()
        out[metric] = scores
    return out


@functools.cache
def _tokenizers():
    from rouge_score.tokenizers import DefaultTokenizer
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a(), DefaultTokenizer(use_stemmer=False)


def _bleu_words(text: str) -> list[str]:
    return _tokenizers()[0](text).split()


def _rouge_words(text: str) -> list[str]:
    return _tokenizers()[1].tokenize(text)
