"""docs/configuration.md is what conf/ and the docstrings say today."""

import pytest
from omegaconf import OmegaConf

from photon.docstrings import arguments
from tasks import describe
from tests.test_configs import compose


@pytest.fixture(scope="module")
def text() -> str:
    return describe.page()


def test_the_page_is_current(text) -> None:
    assert describe.PAGE.read_text() == text, "stale: run python -m tasks.describe"


def test_every_key_of_a_run_is_on_the_page(text) -> None:
    for experiment in ("demo", "phase2", "pretrain_tiny"):
        whole = OmegaConf.to_container(compose(f"experiment={experiment}", "task=[finetune]"))
        for key in described_keys(whole):
            above = [f"`{key.rsplit('.', n)[0]}.*`" for n in (1, 2)]
            assert f"`{key}`" in text or any(name in text for name in above), key


def described_keys(node, path=""):
    """Full keys of the values below a node, without the parts that only say what is built."""
    if not isinstance(node, dict) or not node:
        return [path]
    found = []
    for name, child in node.items():
        if name not in ("_target_", "_partial_") and path != "phases":
            found += described_keys(child, f"{path}.{name}" if path else name)
    return found


def test_a_value_carries_its_comment_and_its_target(tmp_path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(
        "# The head.\n_target_: tasks.x.Y\na: 1 # beside\n# above,\n# on two lines\n"
        "b: { c: [1, 2], d: null }\n"
    )
    a, c, d = describe.leaves(path)
    assert (a.key, a.text, a.comment, a.target) == ("a", "1", "beside", "tasks.x.Y")
    assert (c.key, c.text, c.comment) == ("b.c", "[1, 2]", "above, on two lines")
    assert (d.inner, d.comment) == (("b", "d"), "") and describe.head(path) == "The head."


def test_docstrings_are_read_through_bases_and_references() -> None:
    from tasks.finetune import Finetune

    told = arguments(Finetune)
    assert told["warmup"].startswith("share of the steps")  # of PhotonTask
    assert "Eq. 18" in told["band"]
