"""The tiny model's tokenizer: byte-level BPE in Qwen's format, learned from our own questions.

It is a genuine `Qwen2Tokenizer` (pre-tokenizer, special tokens, chat template), so that code and
data written for it carry over to Qwen2.5-VL.  The built files are committed in photon/weights/tiny;
`python -m photon.phantoms.tokenizer [--out FOLDER]` rebuilds them byte for byte.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from photon.phantoms.layout import NAMES
from photon.questions import templates
from photon.questions.label_names import (
    COMPOSITES,
    FAMILIES,
    GROUPS,
    TOTALSEGMENTATOR,
    display,
    lesion_organ,
    plural,
    split_side,
)
from photon.questions.prompts import SYSTEM
from photon.questions.record import LETTERS, choice_text

TINY = Path(__file__).resolve().parents[1] / "weights" / "tiny"
VOCAB_SIZE = 1200
# Qwen2.5's own added tokens; code takes their ids from the tokenizer, never from a constant.
CONTROL_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start "
        "quad_end vision_start vision_end vision_pad image_pad video_pad"
    ).split()
)
PLAIN_TOKENS = ("<tool_call>", "</tool_call>") + tuple(
    f"<|{name}|>" for name in "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep".split()
)
# Qwen2's pre-tokenizer: letters, single digits, punctuation and line breaks are kept apart.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The text part of Qwen2.5-VL's template: system, turns, volumes and images as placeholders.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWERS = (
    *templates.YES_NO, *templates.SIDE_SETS, *templates.SIZE_CLASSES, *templates.HU_CLASSES,
    *templates.STATUSES, *templates.CHANGES, "upper", "lower", "brighter", "darker", "above",
    "below", "12 mL", "-57 HU", "36 mm", "absent", "visible",
)  # fmt: skip
LESION_WORDS = ("lesion", "cyst", "tumor", "nodule", "mass")
# Words of published radiology questions, so that a user's own question is not spelt in bytes.
CLINICAL_WORDS = """patient image images CT slice chest abdomen pelvis thorax finding findings
abnormality diagnosis disease opacity consolidation atelectasis emphysema bronchiectasis
calcification fibrosis lymph node nodules masses metastasis cancer tumor tumors aneurysm
stenosis stent fracture hernia ascites thickening enlarged dilated diameter length millimeters
centimeters measured increased decreased normal abnormal present absent located location shape
margin density contrast enhancement wall bone muscle fat fluid air vessel vein artery gland
thyroid coronary pulmonary hepatic renal biliary kidney stone gallstones cirrhosis steatosis
pneumonia hemorrhage edema pericardial mediastinal bilateral unilateral anterior posterior
lateral medial proximal distal compared previous yes option following likely most between number
total volume ratio percent""".split()
# Phantoms are what the tiny model reads most, so that their words merge first.
PHANTOM_REPEAT, ANSWER_REPEAT = 6, 400


def build_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Qwen2Tokenizer:
    """Train the merges on `texts`; the same texts give the same tokenizer.

    `vocab_size` counts everything: 256 bytes, merges, and the 22 special tokens at the end.  Fewer
    merges are made where the texts hold no more.  Raises ValueError below 278.
    """
    merges_room = vocab_size - len(CONTROL_TOKENS) - len(PLAIN_TOKENS)
    if merges_room < 256:
        raise ValueError(f"vocab_size={vocab_size} must be at least 278: 256 bytes, 22 specials")
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=merges_room,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    base.train_from_iterator(texts, trainer)
    trained = json.loads(base.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(CONTROL_TOKENS[1:2] + CONTROL_TOKENS[3:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in PLAIN_TOKENS])
    return tokenizer


def corpus() -> Iterator[str]:
    """Texts in a fixed order: questions of every kind and organ, captions, options and answers."""
    organs = {label: name for label, name in NAMES.items() if not lesion_organ(name)}
    yield from _questions(organs, PHANTOM_REPEAT)
    together = dict(enumerate((*COMPOSITES, *GROUPS), start=1000))
    yield from _questions({**TOTALSEGMENTATOR, **together}, 1)
    for answer in ANSWERS:
        yield from (answer for _ in range(ANSWER_REPEAT))
        yield from (choice_text("", {"A": answer}) for _ in range(ANSWER_REPEAT // 4))
    turns = (f"system\n{SYSTEM}", "user\n", "assistant\n")
    for text in (*turns, *templates.REPORT_REQUESTS, *LETTERS):
        yield from (text for _ in range(ANSWER_REPEAT))
    for word in CLINICAL_WORDS:
        yield from (f"The {word}" for _ in range(4))


def _questions(names: Mapping[int, str], repeat: int) -> Iterator[str]:
    for name in names.values():
        base, side = split_side(name)
        words = {"x": display(name), "y": display(name), "w": "lesion"}
        paired = side and "_lobe" not in base
        words["n"] = plural(base) if paired else next(iter(FAMILIES))
        for kind, phrasings in templates.PHRASES.items():
            for index in range(len(phrasings)):
                text = templates.phrase(kind, index, **words)
                yield from (choice_text(text, {}) for _ in range(repeat))
        yield from (f"{display(name)}: small, low attenuation, 1 lesion." for _ in range(repeat))
        yield from (f"No lesions. {display(name)}: normal. {words['n']}" for _ in range(repeat))
    for noun in (*FAMILIES, *LESION_WORDS):
        yield from (templates.phrase("family_count", 0, n=noun) for _ in range(repeat * 4))


def write_tokenizer(folder: str | Path, vocab_size: int = VOCAB_SIZE) -> Qwen2Tokenizer:
    """Build from the question generator's vocabulary and save; returns the tokenizer."""
    tokenizer = build_tokenizer(corpus(), vocab_size)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def main() -> None:
    """Rebuild the committed tokenizer."""
    prog = "python -m photon.phantoms.tokenizer"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--out", type=Path, default=TINY, help="folder (default: the tiny's)")
    write_tokenizer(parser.parse_args().out)


if __name__ == "__main__":
    main()
