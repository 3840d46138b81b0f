"""One JSON row in any of ms-swift's layouts -> system, turns, volumes, and whatever else it holds.

Rules: ms-swift `dataset/preprocessor/core.py` and `template/base.py` (aliases, role names, tags).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from photon.errors import InputError

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "bot": "assistant"}
ROLES |= {"assistant": "assistant", "system": "system"}
MEDIA = ("videos", "images", "video", "image", "volume", "volumes")
QUERY = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE = ("response", "answer", "output", "targets", "target", "answer_key", "answers")
RESPONSE += ("solution", "text", "completion", "content")
TAG = re.compile(r"<(?:video|image)>")
LEADING_TAGS = re.compile(r"^(?:\s*<(?:video|image)>)+")


@dataclass
class Conversation:
    """A row in one shape; `history` holds the turns before (question, answer)."""

    volumes: tuple[str, ...]
    question: str
    answer: str | None
    system: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    tag_moved: bool = False
    rest: dict = field(default_factory=dict)


def normalise_row(row: dict) -> Conversation:
    """Raises InputError (the caller adds file and line) on a row that makes no conversation."""
    rest = dict(row)
    messages = _messages(rest)
    system = rest.pop("system", None) or None
    paths = _media(rest)
    turns: list[list[str | None]] = []
    tag_moved, tags = False, 0
    for message in messages:
        role, text, inline = _message(message)
        paths += inline
        if role == "system":
            system = text
        elif role == "user":
            tags += len(TAG.findall(text))
            tag_moved |= TAG.search(text if turns else LEADING_TAGS.sub("", text)) is not None
            turns.append([TAG.sub("", text).strip(), None])
        elif not turns or turns[-1][1] is not None:
            raise InputError("an assistant message has no user message before it; add the question")
        else:
            turns[-1][1] = text
    if not turns or not turns[-1][0]:
        raise InputError("the question has no text; write it after <video> in the user message")
    if any(answer is None for _, answer in turns[:-1]):
        raise InputError("two user messages follow each other; put the answer between them")
    if not paths:
        raise InputError('the row names 0 volumes; give one, as "videos": ["case.nii.gz"]')
    if len(paths) > 1 and tags not in (0, len(paths)):
        raise InputError(
            f"the row names {len(paths)} volumes and holds {tags} <video> tags; write one for each"
        )
    history = tuple((str(q), str(a)) for q, a in turns[:-1])
    question, answer = turns[-1]
    return Conversation(tuple(paths), str(question), answer, system, history, tag_moved, rest)


def _media(rest: dict) -> list[str]:
    """Paths under every media key; a single string counts as a list of one."""
    paths: list[str] = []
    for key in MEDIA:
        value = rest.pop(key, None)
        if value is None:
            continue
        items = [value] if isinstance(value, str | dict) else value
        if not isinstance(items, list):
            raise InputError(f"{key} must be a path or a list of paths, not {type(value).__name__}")
        for item in items:
            path = item.get("path") if isinstance(item, dict) else item
            if not isinstance(path, str) or not path:
                raise InputError(f"{key} holds {item!r}, not a path; write the volume's path")
            paths.append(path)
    return paths


def _messages(rest: dict) -> list:
    """Pop the conversation in whichever layout it is written."""
    for key in ("messages", "conversations", "conversation"):
        value = rest.pop(key, None)
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise InputError(f"{key} must be a list of objects with role and content")
        return [part for item in value for part in _pairs(item)]
    messages: list[dict] = []
    for pair in rest.pop("history", None) or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise InputError("history must be a list of [question, answer] pairs")
        messages.append({"role": "user", "content": pair[0]})
        messages.append({"role": "assistant", "content": pair[1]})
    question = _alpaca(rest) or _first(rest, QUERY)
    if question is None:
        raise InputError('the row has no question; give "messages", or "query" and "response"')
    messages.append({"role": "user", "content": question})
    answer = _first(rest, RESPONSE)
    if isinstance(answer, list):
        answer = answer[0] if answer else None
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def _pairs(item: dict) -> list[dict]:
    """A ShareGPT item {"human": .., "assistant": ..} becomes two messages; others stay."""
    if "role" in item or "from" in item:
        return [item]
    keys = [key for key in item if key in ROLES]
    if not keys:
        raise InputError(f"message {item!r} has no role; write role and content")
    return [{"role": key, "content": item[key]} for key in keys]


def _alpaca(rest: dict) -> str | None:
    if "instruction" in rest and "input" in rest:
        parts = [rest.pop("instruction"), rest.pop("input")]
        return "\n".join(part for part in parts if part)
    return None


def _first(rest: dict, keys: tuple[str, ...]) -> object:
    for key in keys:
        if rest.get(key) is not None:
            return rest.pop(key)
    return None


def _message(message: dict) -> tuple[str, str, list[str]]:
    """(role, text, volume paths written inline in an OpenAI-style content list)."""
    name = message.get("role", message.get("from"))
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise InputError(f"role {name!r} is unknown; use system, user or assistant")
    content = message.get("content", message.get("value"))
    if isinstance(content, int | float) and not isinstance(content, bool):
        content = str(content)
    if isinstance(content, str):
        return role, content, []
    if not isinstance(content, list):
        raise InputError(f"the {role} message has no text; write it under content")
    text, paths = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text += str(part.get("text", ""))
        elif kind in ("video", "image"):
            paths += _media({"videos": part.get(kind)})
            text += "<video>"
        else:
            raise InputError(f"content part {part!r} is not text, video or image; leave it out")
    return role, text, paths
