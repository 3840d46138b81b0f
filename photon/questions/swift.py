"""One JSON row in any of ms-swift's layouts -> system, turns, visuals, and whatever else it holds.

Rules: ms-swift `dataset/preprocessor/core.py` and `template/base.py` (aliases, role names, tags).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from photon.errors import InputError
from photon.volume.sources import Source

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "bot": "assistant"}
ROLES |= {"assistant": "assistant", "system": "system"}
MEDIA = ("videos", "images", "video", "image", "volume", "volumes")
QUERY = ("query", "prompt", "input", "instruction", "question", "problem")
RESPONSE = ("response", "answer", "output", "targets", "target", "answer_key", "answers")
RESPONSE += ("solution", "text", "completion", "content")
TAG = re.compile(r"<(video|image)>")
LEADING_TAGS = re.compile(r"^(?:\s*<(?:video|image)>)+")


@dataclass
class Conversation:
    """A row in one shape; `history` holds the turns before (question, answer).

    volumes: what the row is about (volumes, images, videos), in the order of their tags.
    """

    volumes: tuple[Source, ...]
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
    media = _media(rest)
    turns: list[list[str | None]] = []
    tag_moved, tags = False, []
    for message in messages:
        role, text, inline = _message(message)
        media += inline
        if role == "system":
            system = text
        elif role == "user":
            tags += TAG.findall(text)
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
    history = tuple((str(q), str(a)) for q, a in turns[:-1])
    question, answer = turns[-1]
    volumes = _ordered(media, tags)
    return Conversation(volumes, str(question), answer, system, history, tag_moved, rest)


def _ordered(media: list[tuple[str, Source]], tags: list[str]) -> tuple[Source, ...]:
    """What a row names in the order of its tags, each of which takes the next under its key.

    Where tags and keys disagree in kind (a volume under "images" with <video>), in the row's order.
    """
    if not media:
        raise InputError(
            'the row names 0 volumes and images; give one, as "videos": ["case.nii.gz"] or '
            '"images": ["case.png"]'
        )
    if len(media) > 1 and len(tags) not in (0, len(media)):
        raise InputError(
            f"the row names {len(media)} volumes or images and holds {len(tags)} <video> or "
            "<image> tags; write one for each"
        )
    if sorted(tags) != sorted(kind for kind, _ in media):
        return tuple(source for _, source in media)
    waiting = {kind: iter([s for k, s in media if k == kind]) for kind in tags}
    return tuple(next(waiting[kind]) for kind in tags)


def _media(rest: dict) -> list[tuple[str, Source]]:
    """(video or image, source) of every media key; a single string counts as a list of one.

    A list within the list names the frames of one video.
    """
    found: list[tuple[str, Source]] = []
    for key in MEDIA:
        value = rest.pop(key, None)
        if value is None:
            continue
        items = [value] if isinstance(value, str | dict) else value
        if not isinstance(items, list):
            raise InputError(f"{key} must be a path or a list of paths, not {type(value).__name__}")
        kind = "image" if key.startswith("image") else "video"
        found += [(kind, _source(key, item)) for item in items]
    return found


def _source(key: str, item: object) -> Source:
    path = item.get("path") if isinstance(item, dict) else item
    frames = path if isinstance(path, list) else [path]
    if not frames or not all(isinstance(frame, str) and frame for frame in frames):
        raise InputError(f"{key} holds {item!r}, not a path; write the volume's or image's path")
    return tuple(frames) if isinstance(path, list) else frames[0]


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
    history = rest.pop("history", None) or []
    if not isinstance(history, list):
        raise InputError("history must be a list of [question, answer] pairs")
    for pair in history:
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


def _message(message: dict) -> tuple[str, str, list[tuple[str, Source]]]:
    """(role, text, what is written inline in an OpenAI-style content list, see `_media`)."""
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
    text, media = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text += str(part.get("text", ""))
        elif kind in ("video", "image"):
            media += _media({f"{kind}s": [part.get(kind)]})
            text += f"<{kind}>"
        else:
            raise InputError(f"content part {part!r} is not text, video or image; leave it out")
    return role, text, media
