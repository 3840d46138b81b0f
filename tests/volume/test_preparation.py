"""Settings: presets, checks with a way out, and fingerprints that follow the voxels."""

import json
from dataclasses import fields, replace

import pytest

from photon.errors import InputError
from photon.volume.preparation import PRESETS, Preparation


def test_presets() -> None:
    paper, official = Preparation.preset("paper"), Preparation.preset("official")
    assert paper == Preparation() and paper.size == (140, 280, 280)
    assert (paper.spacing, paper.crop, paper.hu) == ((1, 1, 1), (364, 364, 364), (-1000, 1000))
    assert official.intensity == "minmax" and official.flip_x and not official.antialias
    assert Preparation.preset("tiny").size == (112, 112, 112)
    assert Preparation.preset("tiny", hu=[0, 80]).hu == (0, 80)
    with pytest.raises(InputError, match="'huge'.*paper, official, tiny"):
        Preparation.preset("huge")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("size", (140, 280, 270), "W = 270 is not a multiple of 28.*Take 280"),
        ("size", (141, 280, 280), "D = 141 is not a multiple of 14"),
        ("size", (140, 280), "three positive whole numbers"),
        ("crop", (364, 364, -1), "preparation.crop"),
        ("crop", (364, 364, 1.5), "whole numbers"),
        ("spacing", (1, 0, 1), "preparation.spacing"),
        ("spacing", "fine", "preparation.spacing"),
        ("orientation", "RAX", "'RAX' is not an orientation"),
        ("orientation", "RLS", "orientation"),
        ("assume_orientation", "here", "assume_orientation"),
        ("hu", (1000, -1000), "rising pair"),
        ("hu", (-40000, 0), "16-bit"),
        ("intensity", "zscore", "'zscore' is not one of window, minmax"),
        ("windows", [], "not a list of ranges"),
        ("windows", [-160, 240], "preparation.windows: -160 is not a rising pair"),
        ("windows", [[-1000, 1000], [240, -160]], "preparation.windows.*rising pair"),
        ("windows", [[-160, 240], [-450, 1050]], r"\[-450, 1050\] reaches beyond preparation.hu"),
        ("nan", "zero", "'zero' is not one of reject, air"),
    ],
)
def test_illegal_values_name_the_key_and_the_way_out(key, value, words) -> None:
    with pytest.raises(InputError, match=words):
        Preparation(**{key: value})


def test_fingerprints() -> None:
    base = Preparation()
    changed = {
        "orientation": "LPS",
        "spacing": None,
        "crop": None,
        "size": (112, 112, 112),
        "hu": (-200, 300),
        "intensity": "minmax",
        "windows": [[-1000, 1000]],
        "flip_x": True,
        "antialias": False,
        "nan": "air",
        "assume_orientation": "RAI",
    }
    assert {*changed, "images"} == {field.name for field in fields(Preparation)}
    for key, value in changed.items():
        other = replace(base, **{key: value})
        assert other.fingerprint() != base.fingerprint(), key
        on_loading = key in ("intensity", "windows", "flip_x")
        assert (other.store_fingerprint() == base.store_fingerprint()) is on_loading, key
    assert replace(base, size=[140, 280, 280]).fingerprint() == base.fingerprint()
    images = replace(base, images={"fps": 1.0})  # has its own, and can be chosen at use
    assert images.images != base.images and images.fingerprint() == base.fingerprint()
    assert images.store_fingerprint() == base.store_fingerprint()


def test_windows_need_the_plain_intensity() -> None:
    with pytest.raises(InputError, match="intensity=minmax both say"):
        Preparation.preset("official", windows=[[-160, 240]])


WINDOWED = {"windows": [[-1000, 1000], [-160, 240]]}


@pytest.mark.parametrize(
    ("name", "changes"), [*((name, {}) for name in PRESETS), ("tiny", WINDOWED)]
)
def test_dict_round_trip(name, changes) -> None:
    preparation = Preparation.preset(name, **changes)
    assert json.loads(json.dumps(preparation.to_dict())) == preparation.to_dict()
    assert Preparation.from_dict(preparation.to_dict()) == preparation
    with pytest.raises(InputError, match="'colour'.*orientation"):
        Preparation.from_dict({"colour": 1})
    with pytest.raises(InputError, match="version"):
        Preparation.from_dict({**preparation.to_dict(), "version": 99})
