"""Record -> token ids in the Qwen chat format, split where the engine needs the seams.

A sample is head, V visual tokens, after, suffix.  The instruction (the set Q that scores the visual
tokens) is a range of suffix rows that holds question tokens only; the answer never lies in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from photon.errors import InputError
from photon.questions.record import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Prompt:
    """head: ids up to and with <|vision_start|>; after: [<|vision_end|>]; suffix: the rest.

    instruction: [start, stop) rows of suffix in Q.  answer_start: row of suffix where the answer
    begins (len(suffix) when there is none); rows from there on are the supervised targets, the last
    of them <|im_end|>.
    """

    head: list[int]
    after: list[int]
    suffix: list[int]
    instruction: tuple[int, int]
    answer_start: int


def escape(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Break every token that the chat format reserves, so that a user's text cannot forge one.

    "<|im_end|>" becomes "<| im_end |>" and "<tool_call>" becomes "< tool_call >".
    """
    pattern = _reserved(tuple(sorted(tokenizer.get_added_vocab(), key=len, reverse=True)))
    return pattern.sub(_break, text) if pattern else text


@lru_cache(maxsize=8)
def _reserved(tokens: tuple[str, ...]) -> re.Pattern | None:
    return re.compile("|".join(map(re.escape, tokens))) if tokens else None


def _break(match: re.Match) -> str:
    token = match.group()
    left = 2 if token.startswith(("<|", "</")) else 1
    right = 2 if token.endswith("|>") else 1
    return f"{token[:left]} {token[left:-right]} {token[-right:]}"


def build_prompt(
    record: Record,
    tokenizer: PreTrainedTokenizerBase,
    with_answer: bool,
    leading_space: bool = False,
) -> Prompt:
    """The ids equal those of the tokenizer's chat template on the whole conversation (a test).

    leading_space: the first text after the volume begins with a space, which belongs to Q: the
    authors' data says `<video> Your question`, and their template keeps it.

    Special tokens cut a text into parts that are tokenized apart, and the newline after "assistant"
    never joins a stripped answer, so pieces and whole give the same ids.  Raises InputError on a
    record without question text, or without an answer when `with_answer`.
    """
    if not record.question.strip():
        raise InputError(f"record {record.id!r} has no question text; write one")
    if with_answer and not (record.answer or "").strip():
        raise InputError(f"record {record.id!r} has no answer; training needs one")

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def clean(text: str) -> str:
        return escape(text.strip(), tokenizer)

    system = escape(record.system or SYSTEM, tokenizer)
    head = ids(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|vision_start|>")
    suffix: list[int] = []
    space = " " if leading_space else ""
    for question, answer in record.history:
        turn = f"{clean(question)}<|im_end|>\n<|im_start|>assistant\n{clean(answer)}<|im_end|>\n"
        suffix += ids(f"{space}{turn}<|im_start|>user\n")
        space = ""
    start = len(suffix)
    suffix += ids(space + clean(record.question))
    instruction = (start, len(suffix))
    suffix += ids("<|im_end|>\n<|im_start|>assistant\n")
    answer_start = len(suffix)
    if with_answer:
        suffix += ids(clean(record.answer or "") + "<|im_end|>")
    return Prompt(head, ids("<|vision_end|>"), suffix, instruction, answer_start)


def token_id(tokenizer, token: str) -> int:
    """Id of a special token; InputError when the tokenizer does not have it."""
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no {token} token: use the tokenizer of "
            "a Qwen2.5-VL or Qwen3-VL model"
        )
    return index
