"""How often each answer of each question comes up, and thinning it to a wanted language prior.

A question is a kind and the names in it. Its answers are brought to equal shares, or one of them,
its favourite, to a share of its own, by leaving candidates out: nothing is said that is not so.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

from photon.questions.candidates import Candidate

SMOOTHING = 10.0  # candidates of the whole kind that count as the question's own
RARE = 0.02  # share below which an answer counts as one that the question never has


class Thinning:
    """Probability that a candidate stays, so that its question's answers get the wanted shares.

    Args:
        candidates: all of a data set; their frequencies are what is evened out.
        prior: share of the favourite answer, in [0, 1); where it is below an equal share, all
            answers get an equal share. Numbers are left as they are.
        seed: of which answer is the favourite.
    """

    def __init__(self, candidates: Iterable[Candidate], prior: float, seed: int = 0):
        if not 0.0 <= prior < 1.0:
            raise ValueError(f"prior={prior} must lie in [0, 1)")
        self.prior, self.seed = prior, seed
        self.own: dict[tuple, Counter[str]] = defaultdict(Counter)
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.options: dict[tuple, tuple[str, ...]] = {}
        for candidate in candidates:
            if candidate.value is None:
                self.own[question_of(candidate)][candidate.answer] += 1
                self.kinds[candidate.kind][candidate.answer] += 1
                self.options[question_of(candidate)] = candidate.options
        self.known: dict[tuple, dict[str, float]] = {}

    def keep(self, candidate: Candidate) -> float:
        """In [0, 1]; 0 for a question that is not among the candidates or always answered alike."""
        if candidate.value is not None:
            return 1.0
        question = question_of(candidate)
        if question not in self.options:
            return 0.0
        if question not in self.known:
            self.known[question] = self._keep(question)
        return self.known[question].get(candidate.answer, 0.0)

    def _keep(self, question: tuple) -> dict[str, float]:
        own, kind = self.own[question], self.kinds[question[0]]
        options = self.options[question]
        in_kind = {option: kind[option] for option in options}
        total = sum(in_kind.values())
        share = {
            option: (own[option] + SMOOTHING * in_kind[option] / total)
            / (sum(own.values()) + SMOOTHING)
            for option in options
        }
        answers = sorted(option for option in options if share[option] >= RARE)
        if len(answers) < 2:
            return {}
        wanted = self.shares(question, answers)
        ratio = {answer: wanted[answer] / share[answer] for answer in answers}
        return {answer: value / max(ratio.values()) for answer, value in ratio.items()}

    def shares(self, question: tuple, answers: list[str]) -> dict[str, float]:
        """The wanted shares of the (sorted) answers of a question."""
        digest = hashlib.sha256(repr((self.seed, question)).encode()).digest()
        favourite = answers[digest[0] % len(answers)]
        top = max(self.prior, 1 / len(answers))
        rest = (1 - top) / (len(answers) - 1)
        return {answer: top if answer == favourite else rest for answer in answers}


def question_of(candidate: Candidate) -> tuple:
    """What the question's words say: its kind, its organ and the names in it."""
    return (candidate.kind, candidate.organ, *sorted(candidate.words.items()))
