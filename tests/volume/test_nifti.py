"""Reading NIfTI: every damaged or ambiguous file is refused by name, and good ones are exact."""

import gzip
import struct
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from photon.errors import InputError
from photon.volume.reader import find_sources, hash_source, read_labels, read_volume

AFFINE = np.array([[0.0, -2, 0, 10], [1.5, 0, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def voxels(shape=(5, 6, 7), dtype=np.int16, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(dtype)


def save(path: Path, data: np.ndarray, affine=AFFINE, **fields) -> Path:
    """A NIfTI file whose header fields are then overwritten in place, whatever they break."""
    nib.Nifti1Image(data, affine).to_filename(path)
    content = path.read_bytes()
    raw = bytearray(gzip.decompress(content) if path.suffix == ".gz" else content)
    offsets = {
        "dim": (40, "<8h"),
        "datatype": (70, "<h"),
        "pixdim": (76, "<8f"),
        "vox_offset": (108, "<f"),
        "scl_slope": (112, "<f"),
        "scl_inter": (116, "<f"),
        "xyzt_units": (123, "<B"),
        "qform_code": (252, "<h"),
        "sform_code": (254, "<h"),
        "srow": (280, "<12f"),
    }
    for name, value in fields.items():
        offset, code = offsets[name]
        values = value if isinstance(value, (list, tuple)) else [value]
        raw[offset : offset + struct.calcsize(code)] = struct.pack(code, *values)
    path.write_bytes(gzip.compress(bytes(raw), 1) if path.suffix == ".gz" else bytes(raw))
    return path


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_volume(path, **options)
    message = str(caught.value)
    assert path.name in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("dtype", ["i2", ">i2", "u1", "i4", "f4", ">f8", "u8", "i8"])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_voxels_and_affine_are_those_of_nibabel(tmp_path, dtype, name) -> None:
    data = np.abs(voxels()).astype(dtype) % 251
    image = nib.Nifti1Image(data, AFFINE, dtype=np.dtype(dtype))
    image.header.set_data_dtype(np.dtype(dtype))
    if dtype.startswith(">"):
        image = nib.Nifti1Image(data, AFFINE, image.header.as_byteswapped(">"))
    image.to_filename(tmp_path / name)
    volume = read_volume(tmp_path / name)
    reference = nib.load(tmp_path / name)
    assert volume.array.dtype == np.float32 and volume.array.flags.c_contiguous
    assert np.array_equal(volume.array, reference.get_fdata().transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.sha256 == hash_source(tmp_path / name)


def test_slope_and_intercept_are_applied_once(tmp_path) -> None:
    data = voxels()
    volume = read_volume(save(tmp_path / "a.nii.gz", data, scl_slope=2.0, scl_inter=-1024.0))
    assert np.array_equal(volume.array, (data * 2.0 - 1024).transpose(2, 1, 0))
    with pytest.warns(UserWarning, match="scl_slope"):
        volume = read_volume(save(tmp_path / "b.nii.gz", data, scl_slope=np.inf, scl_inter=0.0))
    assert np.array_equal(volume.array, data.transpose(2, 1, 0))


def test_nifti2_is_read(tmp_path) -> None:
    data = voxels()
    nib.Nifti2Image(data, AFFINE).to_filename(tmp_path / "two.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "two.nii.gz").array, data.transpose(2, 1, 0))


def big_gz(tmp_path: Path) -> tuple[Path, bytes]:
    path = save(tmp_path / "scan.nii.gz", voxels((40, 40, 40)))
    return path, path.read_bytes()


@pytest.mark.parametrize("keep", [0.6, 0.999])
def test_truncated_gzip(tmp_path, keep) -> None:
    path, whole = big_gz(tmp_path)
    path.write_bytes(whole[: int(len(whole) * keep)])
    refused(path, "too early", "Fetch the file again")


def test_gzip_without_its_trailer(tmp_path) -> None:
    path, whole = big_gz(tmp_path)
    path.write_bytes(whole[:-8])
    refused(path, "too early")


@pytest.mark.parametrize("where", [0.5, 0.9])
def test_bit_flip_in_the_stream(tmp_path, where) -> None:
    path, whole = big_gz(tmp_path)
    damaged = bytearray(whole)
    damaged[int(len(whole) * where)] ^= 8
    path.write_bytes(bytes(damaged))
    refused(path)


@pytest.mark.parametrize("back", [6, 2])
def test_wrong_checksum_or_length(tmp_path, back) -> None:
    path, whole = big_gz(tmp_path)
    damaged = bytearray(whole)
    damaged[-back] ^= 1
    path.write_bytes(bytes(damaged))
    refused(path, "damaged")


def test_header_only_and_absurd_offset(tmp_path) -> None:
    path = save(tmp_path / "head.nii", voxels())
    path.write_bytes(path.read_bytes()[:352])
    refused(path, "truncated")
    refused(save(tmp_path / "far.nii", voxels(), vox_offset=1e9), "damaged")
    refused(save(tmp_path / "nan.nii", voxels(), vox_offset=float("nan")), "damaged")


def test_bytes_after_the_end_are_a_warning(tmp_path) -> None:
    path, whole = big_gz(tmp_path)
    path.write_bytes(whole + b"garbage")
    with pytest.warns(UserWarning, match="after the end"):
        volume = read_volume(path)
    assert np.array_equal(volume.array, voxels((40, 40, 40)).transpose(2, 1, 0))
    assert volume.sha256 == hash_source(path)
    plain = save(tmp_path / "scan.nii", voxels())
    plain.write_bytes(plain.read_bytes() + b"xx")
    with pytest.warns(UserWarning, match="after the last voxel"):
        read_volume(plain)


def test_gzip_of_several_members_is_read_whole(tmp_path) -> None:
    path, whole = big_gz(tmp_path)
    raw = gzip.decompress(whole)
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    assert np.array_equal(read_volume(path).array, voxels((40, 40, 40)).transpose(2, 1, 0))


def test_suffix_against_content_is_a_warning(tmp_path) -> None:
    path, whole = big_gz(tmp_path)
    (tmp_path / "zipped.nii").write_bytes(whole)
    (tmp_path / "plain.nii.gz").write_bytes(gzip.decompress(whole))
    for name in ("zipped.nii", "plain.nii.gz"):
        with pytest.warns(UserWarning, match="against its name"):
            assert read_volume(tmp_path / name).array.shape == (40, 40, 40)


def test_what_is_not_nifti(tmp_path) -> None:
    contents = {
        "empty.nii": b"",
        "empty.nii.gz": gzip.compress(b""),
        "text.nii": b"hello " * 200,
        "page.nii.gz": gzip.compress(b"<!DOCTYPE html><html>not found</html>" * 20),
        "short.nii": struct.pack("<i", 348) + b"\0" * 50,
    }
    words = {"empty.nii": "empty", "page.nii.gz": "web page", "short.nii": "within its header"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words.get(name, ""))
    refused(tmp_path / "absent.nii.gz", "no such file")
    refused(tmp_path, "no DICOM slices")
    pair = save(tmp_path / "pair.nii", voxels())
    pair.write_bytes(pair.read_bytes()[:344] + b"ni1\0" + pair.read_bytes()[348:])
    refused(pair, ".hdr/.img")


def test_a_claim_of_30000_cubed_voxels_takes_no_memory(tmp_path) -> None:
    path = save(tmp_path / "huge.nii.gz", voxels(), dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    refused(path, "30000 x 30000 x 30000", "limit")
    refused(save(tmp_path / "small.nii", voxels()), "limit", max_voxels=100)


def test_a_gzip_bomb_stops_at_what_the_header_promises(tmp_path) -> None:
    import tracemalloc

    path = save(tmp_path / "bomb.nii.gz", voxels())
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + b"\0" * 100_000_000, 1))
    tracemalloc.start()
    refused(path, "far more data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25_000_000


@pytest.mark.parametrize(
    "dim",
    [[0] * 8, [3, -5, 6, 7, 1, 1, 1, 1], [3, 5, 0, 7, 1, 1, 1, 1], [9, 5, 6, 7, 1, 1, 1, 1]],
)
def test_damaged_dimensions(tmp_path, dim) -> None:
    refused(save(tmp_path / "dim.nii", voxels(), dim=dim))


def test_4d_and_2d(tmp_path) -> None:
    assert read_volume(save(tmp_path / "x1.nii", voxels((5, 6, 7, 1)))).array.shape == (7, 6, 5)
    refused(save(tmp_path / "x2.nii.gz", voxels((5, 6, 7, 2))), "(5, 6, 7, 2)", "own file")
    refused(save(tmp_path / "flat.nii", voxels((5, 6))), "2-dimensional")
    assert read_volume(save(tmp_path / "one.nii", voxels((5, 6, 1)))).array.shape == (1, 6, 5)


def test_colour_and_complex_voxels(tmp_path) -> None:
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save(tmp_path / "rgb.nii", colour), "colour")
    refused(save(tmp_path / "complex.nii", voxels().astype(np.complex64)), "complex64")
    refused(save(tmp_path / "odd.nii", voxels(), datatype=1234), "unknown")


def test_broken_affines(tmp_path) -> None:
    rows = [*AFFINE[:3].ravel()]
    for name, srow in {
        "zero": [0.0] * 12,
        "nan": [float("nan"), *rows[1:]],
        "singular": [*rows[:8], *rows[:4]],
    }.items():
        refused(save(tmp_path / f"{name}.nii.gz", voxels(), srow=srow), "sform", "set_sform")
    refused(save(tmp_path / "unit.nii", voxels(), AFFINE * 1000), "xyzt_units")


def test_pixdim_counts_only_where_the_affine_comes_from_it(tmp_path) -> None:
    bad = [1.0, 0.0, float("nan"), 3.0, 1, 1, 1, 1]
    good = read_volume(save(tmp_path / "s.nii", voxels(), pixdim=bad))
    np.testing.assert_allclose(good.affine, AFFINE)
    refused(save(tmp_path / "q.nii", voxels(), pixdim=bad, sform_code=0, qform_code=1), "pixdim")


def test_units_other_than_mm(tmp_path) -> None:
    scaled = np.diag([0.001, 0.001, 0.001, 1]) @ AFFINE
    path = save(tmp_path / "metres.nii", voxels(), scaled, xyzt_units=1)
    np.testing.assert_allclose(read_volume(path).affine, AFFINE, rtol=1e-6)


def test_no_orientation_needs_an_explicit_choice(tmp_path) -> None:
    path = save(tmp_path / "lost.nii.gz", voxels(), sform_code=0, qform_code=0)
    refused(path, "orientation", "assume_orientation=RAI")
    volume = read_volume(path, assume_orientation="RAI")
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [1.5, 2, 3])


def test_nan_and_infinite_voxels(tmp_path) -> None:
    data = voxels(dtype=np.float32)
    data[1, 2, 3], data[0, 0, 0] = np.nan, np.inf
    path = save(tmp_path / "nan.nii.gz", data)
    refused(path, "2 of 210 voxels", "--nan air")
    with pytest.warns(UserWarning, match="2 NaN"):
        volume = read_volume(path, nan="air")
    assert volume.array[3, 2, 1] == -1000 and volume.array[0, 0, 0] == -1000
    assert volume.array[1, 1, 1] == data[1, 1, 1]
    refused(save(tmp_path / "all.nii", np.full((3, 3, 3), np.nan, np.float32)), nan="air")


def test_odd_names(tmp_path) -> None:
    names = ["mit leer zeichen.nii.gz", "\u5f71\u50cf.nii", "a" * 248 + ".nii.gz"]
    for name in names:
        assert read_volume(save(tmp_path / name, voxels())).array.shape == (7, 6, 5)
    assert {path.name for path in find_sources(tmp_path)} == set(names)
    refused(tmp_path / ("a" * 300 + ".nii"), "no such file")


def test_sound_files_read_without_a_warning(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume(save(tmp_path / "a.nii.gz", voxels()))
        read_volume(save(tmp_path / "b.nii", voxels(dtype=np.float32)))


def test_labels(tmp_path) -> None:
    ids = np.abs(voxels()) % 42
    assert read_labels(save(tmp_path / "a.nii.gz", ids)).array.dtype == np.uint8
    wide = read_labels(save(tmp_path / "b.nii.gz", (ids * 100).astype(np.float32)))
    assert wide.array.dtype == np.uint16
    assert np.array_equal(wide.array, (ids * 100).transpose(2, 1, 0))
    odd = {"frac": ids + 0.5, "neg": ids - 1, "nan": np.where(ids, ids, np.nan)}
    for name, data in odd.items():
        with pytest.raises(InputError, match=name):
            read_labels(save(tmp_path / f"{name}.nii", data.astype(np.float32)))


def test_real_ct(shared_data) -> None:
    path = shared_data / "ct" / "abdomen_ct.nii.gz"
    volume = read_volume(path)
    reference = nib.load(path)
    assert np.array_equal(volume.array, np.asarray(reference.dataobj).transpose(2, 1, 0))
    assert np.array_equal(volume.affine, reference.affine)
