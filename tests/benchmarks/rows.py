"""Prediction rows of benchmarks for tests."""


def choice(id, prediction, letter, choices, task="t", subtask="s", answer=None, **extra):
    texts = dict(zip("ABCDEFGHIJ", choices, strict=False))
    return {
        "id": str(id), "volume": "v", "question_type": "choice", "choices": texts,
        "answer_letter": letter, "answer": letter if answer is None else answer,
        "prediction": prediction, "task": task, "subtask": subtask, "value": None, **extra,
    }  # fmt: skip


def free(id, prediction, answer, task="t", subtask="s", value=None, **extra):
    return {
        "id": str(id), "volume": "v", "question_type": "free", "choices": None,
        "answer_letter": None, "answer": answer, "prediction": prediction, "task": task,
        "subtask": subtask, "value": value, **extra,
    }  # fmt: skip
