"""BERTScore against a loop, with a random encoder in the layout of roberta-large."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from photon.errors import InputError
from photon.evaluation.text_metrics import BertScorer

PREDICTIONS = ["right hilar region.", "no effusion", "30x13 mm", "", "liver", "liver liver"]
REFERENCES = ["Right hilar region", "no pleural effusion", "30x13 mm", "pacemaker", "", "the liver"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer without merges and three random layers."""
    folder = tmp_path_factory.mktemp("encoder")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    words = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    words.save(str(folder / "tokenizer.json"))
    names = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
                 cls_token="<s>", sep_token="</s>", mask_token="<mask>")  # fmt: skip
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3,
            num_attention_heads=2, intermediate_size=24, max_position_embeddings=70,
            pad_token_id=1, bos_token_id=0, eos_token_id=2,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def reference(folder, prediction, answer, layer):
    """BERTScore F1 by loops over tokens: words match any token, and only words are counted."""
    words, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    sides = []
    for text in (prediction, answer):
        ids = words(" " + text)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        sides.append([v / np.linalg.norm(v) for v in states.numpy().astype(float)])
    own, true = sides
    precision = np.mean([max(float(a @ b) for b in true) for a in own[1:-1]])
    recall = np.mean([max(float(a @ b) for a in own) for b in true[1:-1]])
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [1, 3])
def test_the_score_is_the_greedy_match_of_words(folder, layer):
    scores = BertScorer(folder, layer)(PREDICTIONS, REFERENCES)
    for i in (0, 1, 2, 5):
        expected = reference(folder, PREDICTIONS[i], REFERENCES[i], layer)
        assert scores[i] == pytest.approx(expected, abs=1e-5), PREDICTIONS[i]
    assert scores[2] == pytest.approx(1.0)  # the same words
    assert scores[3] == scores[4] == 0.0  # one side is empty
    assert 0 < scores[1] < 1


def test_padding_and_order_change_nothing(folder):
    scorer = BertScorer(folder, 2)
    together = scorer(PREDICTIONS, REFERENCES)
    alone = [BertScorer(folder, 2)([p], [r])[0] for p, r in zip(PREDICTIONS, REFERENCES)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert scorer(PREDICTIONS[::-1], REFERENCES[::-1]) == pytest.approx(together[::-1], abs=1e-5)


def test_an_encoder_that_cannot_serve_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="no encoder for BERTScore"):
        BertScorer(tmp_path)
    with pytest.raises(InputError, match="layer 17: .* has 3 layers"):
        BertScorer(folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not an encoder"):
        BertScorer(tmp_path)
