"""Open questions: BLEU-1, ROUGE-1 and BERTScore of a task, averaged over its subtasks."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from photon.benchmarks.protocol import Bert, Row, Scored, answer_of, text_of
from photon.evaluation.measures import Measure, mean_of
from photon.evaluation.metrics import rouge1_one
from photon.evaluation.text_metrics import bleu1_counts, bleu1_of

NO_ENCODER = "BERT Score: not computed, as evaluation.bert_encoder names no encoder"


def add_text(
    scored: Scored,
    group: str,
    rows: Sequence[Row],
    groups: Sequence[str],
    published: bool,
    bert: Bert | None,
) -> None:
    """Add BLEU, ROUGE and BERT Score of open questions to `scored`, means over `groups`.

    published: as the scripts of 3D-RAD and of the paper do it. Answers pass through a CSV file that
    pandas reads (an empty answer and "None" come back as "nan"), and ROUGE-1 is the median of 1,000
    random resamples (theirs are not seeded). Otherwise an empty answer is empty, and ROUGE-1 is the
    plain mean.
    """
    ids = tuple(str(r["id"]) for r in rows)
    groups = tuple(groups)
    predictions, references = [text_of(r) for r in rows], [answer_of(r) for r in rows]
    if published:
        predictions, references = through_csv(predictions, references, groups)
    predictions = [text.strip() for text in predictions]
    references = [text.strip() for text in references]
    pairs = list(zip(predictions, references, strict=True))
    counts = np.array([bleu1_counts(*pair) for pair in pairs], dtype=np.float64)
    rouge = mean_of(ids, groups, [rouge1_one(*pair) for pair in pairs])
    scored.measures[group, "BLEU"] = Measure(ids, groups, counts, bleu1_of)
    scored.measures[group, "ROUGE"] = Measure(
        ids, groups, rouge.stats, centre="median" if published else "value"
    )
    if bert is None:
        scored.measures[group, "BERT Score"] = None
        if NO_ENCODER not in scored.notes:
            scored.notes.append(NO_ENCODER)
    else:
        scored.measures[group, "BERT Score"] = mean_of(ids, groups, bert(predictions, references))


def through_csv(
    predictions: Sequence[str], references: Sequence[str], groups: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Both columns as they are after a CSV file of each group was written and read by pandas."""
    own, true = list(predictions), list(references)
    for name in dict.fromkeys(groups):
        rows = [i for i, group in enumerate(groups) if group == name]
        file = io.StringIO(newline="")
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["Pred", "Answer"])
        writer.writerows([predictions[i].strip(), references[i].strip()] for i in rows)
        file.seek(0)
        frame = pd.read_csv(file)
        for i, pred, answer in zip(rows, frame["Pred"], frame["Answer"], strict=True):
            own[i], true[i] = str(pred), str(answer)
    return own, true
