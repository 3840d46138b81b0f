"""The lock files: each requirement in its range, on each platform, with hashes, without torch."""

import re
from itertools import product

import pytest
from packaging.requirements import Requirement

PLATFORMS = list(product(("3.11", "3.12", "3.13"), (("linux", "x86_64"), ("darwin", "arm64"))))


def locked(root, name="requirements.lock") -> list[tuple[Requirement, str]]:
    """(requirement, the lines of its hashes) of a lock file."""
    text = (root / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.split("--hash")[0]), line) for line in lines]


def wanted(root, name: str) -> list[Requirement]:
    lines = (root / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("python", "platform"), PLATFORMS)
def test_each_range_has_one_locked_version(root, python, platform) -> None:
    system, machine = platform
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": system, "platform_machine": machine}
    versions: dict[str, str] = {}
    for requirement, _ in locked(root) + locked(root, "requirements-deepspeed.lock"):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in versions, f"{requirement.name} twice"
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            versions[requirement.name] = pin.version
    files = ("requirements.txt", "requirements-dev.txt", "requirements-gpu.txt")
    for requirement in (r for file in files for r in wanted(root, file)):
        if requirement.name in ("torch", "flash-attn", "hydra-submitit-launcher"):
            continue
        version = versions[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-deepspeed.lock"])
def test_everything_has_a_hash_and_nothing_comes_with_torch_or_from_a_place(root, name) -> None:
    for requirement, line in locked(root, name):
        assert "--hash=sha256:" in line, requirement
        assert not re.match(r"(torch|triton|nvidia-.*|cuda-.*)$", requirement.name), requirement
    assert not re.search(r"://|--index|--find-links|file:| @ ", (root / name).read_text())
