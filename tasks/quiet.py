"""Messages of libraries that tell a user of this project nothing; all others stay visible.

Each entry names one message and why it does not apply here. Nothing is silenced by level or module.
"""

import logging
import re
import warnings

from transformers.utils.logging import disable_progress_bar

# Logger, and how its message begins.
LOGGED = {
    "lightning.pytorch.utilities.rank_zero": (
        r"(GPU|TPU) available: ",  # the configuration says which accelerator to use
        r".*\[litlogger\]",  # an advertisement
        r"`Trainer\.fit` stopped: `max_(steps|epochs)=",  # our own line says so
    ),
    # A version of Lightning's default; our checkpoints are always read with weights_only=True.
    "lightning.pytorch.trainer.connectors.checkpoint_connector": (r"`weights_only` was not set",),
    "absl": (r"Using default tokenizer",),  # rouge-score, whose default is the published one
}
# How the text of a Python warning begins.
WARNED = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # inside Lightning
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # steps count
    r".*does not have many workers which may be a bottleneck",  # dataset.workers is a choice
)


class _Without(logging.Filter):
    """Drops the records whose message begins with one of the patterns."""

    def __init__(self, patterns: tuple[str, ...]):
        super().__init__()
        self.pattern = re.compile("|".join(f"(?:{p})" for p in patterns))

    def filter(self, record: logging.LogRecord) -> bool:
        return self.pattern.match(record.getMessage()) is None


def quiet() -> None:
    """Leave out the messages listed above, and the bars that Transformers draws around a file."""
    for name, patterns in LOGGED.items():
        logger = logging.getLogger(name)
        for old in [f for f in logger.filters if isinstance(f, _Without)]:
            logger.removeFilter(old)
        logger.addFilter(_Without(patterns))
    for pattern in WARNED:
        warnings.filterwarnings("ignore", pattern)
    disable_progress_bar()
