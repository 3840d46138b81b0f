"""The tiny tokenizer: reproducible, offline, in Qwen's format, with whole words."""

import json

import pytest
from transformers import AutoTokenizer, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from photon.phantoms import tokenizer as module
from photon.phantoms.layout import NAMES
from photon.questions import templates
from photon.questions.label_names import display, lesion_organ


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(module.TINY), local_files_only=True)


def test_committed_files_are_what_a_fresh_build_gives(tmp_path):
    """Byte for byte; of the configuration what both hold, as versions write different keys."""
    module.write_tokenizer(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"tokenizer.json", "tokenizer_config.json"}
    for path in tmp_path.iterdir():
        fresh, committed = path.read_bytes(), (module.TINY / path.name).read_bytes()
        if path.name == "tokenizer_config.json":
            fresh, committed = json.loads(fresh), json.loads(committed)
            shared = fresh.keys() & committed.keys()
            fresh, committed = ({k: d[k] for k in shared} for d in (fresh, committed))
        assert fresh == committed, path.name


def test_training_is_deterministic_and_depends_on_the_texts():
    texts = ["the liver is large", "the spleen is small", "which kidney?"] * 5
    first, again = (module.build_tokenizer(texts, 320) for _ in range(2))
    assert first.get_vocab() == again.get_vocab()
    other = module.build_tokenizer(["quite other words"] * 5, 320)
    assert other.get_vocab() != first.get_vocab()


def test_qwen_format(tokenizer):
    assert isinstance(tokenizer, Qwen2Tokenizer) and module.SPLIT == PRETOKENIZE_REGEX
    assert 1000 <= len(tokenizer) <= 1200
    specials = [*module.CONTROL_TOKENS, *module.PLAIN_TOKENS]
    ids = tokenizer.convert_tokens_to_ids(specials)
    assert len(specials) == 22 and sorted(ids) == list(range(len(tokenizer) - 22, len(tokenizer)))
    for token, index in zip(specials, ids):
        assert tokenizer.encode(token) == [index]
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.tokenize("1420") == ["1", "4", "2", "0"], "digits stay apart, as in Qwen"


def test_any_text_survives(tokenizer):
    text = "Stra\u00dfe \u2265 37.5 \u00b0C\n\t\u4f60\u597d \U0001f600 x_y"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_are_one_token(tokenizer):
    words = [*templates.YES_NO, *templates.SIDE_SETS, *templates.SIZE_CLASSES]
    words += [*templates.STATUSES, *templates.CHANGES]
    words += [*templates.HU_CLASSES, "upper", "lower", "brighter", "darker"]
    for word in words:
        assert len(tokenizer.encode(word)) == 1, word
        assert len(tokenizer.encode(" " + word)) == 1, word
    for name in NAMES.values():
        if not lesion_organ(name):
            text = " " + display(name)
            assert len(tokenizer.encode(text)) == len(text.split()), text


def test_questions_are_short(tokenizer):
    texts = list(dict.fromkeys(module.corpus()))
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    words = sum(len(text.split()) for text in texts)
    assert tokens < 1.5 * words


def test_vocabulary_too_small():
    with pytest.raises(ValueError, match="vocab_size=200"):
        module.build_tokenizer(["a"], 200)
