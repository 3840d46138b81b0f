"""AbdomenAtlas: reports, and archives that unpack to a folder each."""

from photon.benchmarks.abdomenatlas import AbdomenAtlas
from tests.benchmarks.published import (
    abdomenatlas,
)


def test_abdomenatlas_reports_and_archive_folders(tmp_path) -> None:
    abdomenatlas(tmp_path, {"train": [1, 2], "test": [3]})
    images = tmp_path / "AbdomenAtlas" / "image_only"
    (images / "AbdomenAtlas3_images_1_232" / "BDMAP_00000001").mkdir(parents=True)
    (images / "BDMAP_00000002").mkdir()
    train = AbdomenAtlas(str(tmp_path)).read("train", "reports").records
    assert [r.volume for r in train] == [
        "AbdomenAtlas/image_only/AbdomenAtlas3_images_1_232/BDMAP_00000001/ct.nii.gz",
        "AbdomenAtlas/image_only/BDMAP_00000002/ct.nii.gz",
    ]
    assert {r.answer for r in train} == {"The liver is normal."}
    structured = AbdomenAtlas(str(tmp_path), report="structured").read("test").records
    assert [r.answer for r in structured] == ["Liver:\nnormal"]  # a line break within a cell
    fusion = AbdomenAtlas(str(tmp_path), report="fusion narrative").read("train")
    assert not fusion.records and fusion.counts() == {"empty": 2}
    assert [p.where.rsplit(":", 1)[1] for p in fusion.problems] == ["2", "4"]
