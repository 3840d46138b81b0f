"""The store: right values, no damaged or half-written entry, one result between processes."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from photon.errors import InputError
from photon.files import WriteError
from photon.volume import content_store, store
from photon.volume.geometry import Preparation, prepare_labels, prepare_volume
from photon.volume.reader import read_labels, read_volume
from photon.volume.store import VolumeStore, scaled

SMALL = Preparation(crop=(28, 28, 28), size=(28, 28, 56))


@pytest.fixture
def scan(tmp_path) -> Path:
    return write_scan(tmp_path / "data" / "scan.nii.gz")


def write_scan(path: Path, seed: int = 0, kind=np.int16) -> Path:
    path.parent.mkdir(exist_ok=True)
    data = np.random.default_rng(seed).integers(-1200, 1200, (30, 31, 32)).astype(kind)
    nib.Nifti1Image(data, np.diag([1.0, 1, 1, 1])).to_filename(path)
    return path


def write_labels(path: Path, shift: float = 0.0) -> Path:
    data = np.random.default_rng(1).integers(0, 5, (30, 31, 32)).astype(np.uint8)
    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 3] = shift
    nib.Nifti1Image(data, affine).to_filename(path)
    return path


def forget() -> None:
    """As a fresh process: nothing is verified yet."""
    content_store._verified.clear()


def test_load_gives_the_prepared_volume(tmp_path, scan) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    assert not vault.has(scan) and not vault.is_known(tmp_path / "absent.nii")
    key = vault.prepare(scan)
    assert vault.has(scan) and vault.is_known(scan) and vault.prepare(scan) == key
    expected = prepare_volume(read_volume(scan), SMALL)
    hu = vault.load_hu(scan)
    assert hu.dtype == np.int16 and np.array_equal(hu, expected.array) and not hu.flags.writeable
    loaded = vault.load(scan)
    assert loaded.dtype == np.float32 and loaded.flags.writeable
    np.testing.assert_allclose(loaded, (expected.array + 1000) / 2000, atol=1e-6)
    info = vault.info(scan)
    assert info["source"] == str(scan) and info["preparation"] == SMALL.to_dict()
    np.testing.assert_allclose(info["affine"], expected.affine)
    assert (tmp_path / "store" / SMALL.store_fingerprint()[:12] / f"{key}.json").is_file()


def test_minmax_and_flip_are_applied_on_loading_from_the_same_entry(tmp_path, scan) -> None:
    plain = VolumeStore(tmp_path / "store", SMALL)
    official = VolumeStore(tmp_path / "store", replace(SMALL, intensity="minmax", flip_x=True))
    assert official.prepare(scan) == plain.prepare(scan)
    hu = plain.load_hu(scan).astype(np.float64)
    expected = (hu - hu.min()) / (hu.max() - hu.min())
    np.testing.assert_allclose(official.load(scan), expected[:, :, ::-1], atol=1e-6)


def test_scaled_stays_within_zero_and_one_and_survives_a_constant_volume() -> None:
    hu = np.arange(-1000, 1001, dtype=np.int16).reshape(1, 1, -1)
    for high in range(-998, 1001, 7):
        out = scaled(hu, [(-1000, high)])
        assert out.min() == 0 and 1 - 1e-6 < out.max() <= 1
    assert not scaled(np.full((2, 3, 4), 7, np.int16), [(7, 7)]).any()


@pytest.mark.parametrize("flip_x", [False, True])
def test_windows_are_channels_of_the_same_entry(tmp_path, scan, flip_x) -> None:
    plain = VolumeStore(tmp_path / "store", SMALL)
    windows = [[-1000, 1000], [-160, 240], [100, 700]]
    several = VolumeStore(tmp_path / "store", replace(SMALL, windows=windows, flip_x=flip_x))
    assert several.prepare(scan) == plain.prepare(scan)
    hu = plain.load_hu(scan).astype(np.float64)
    loaded = several.load(scan)
    assert loaded.shape == (3, *SMALL.size) and loaded.dtype == np.float32
    for (low, high), channel in zip(windows, loaded, strict=True):
        expected = np.clip((hu - low) / (high - low), 0, 1)
        np.testing.assert_allclose(channel, expected[..., ::-1] if flip_x else expected, atol=1e-6)
    if not flip_x:
        assert np.array_equal(loaded[0], plain.load(scan))  # bit for bit


def test_key_follows_bytes_and_preparation_not_the_name(tmp_path, scan) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    key = vault.prepare(scan)
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(scan, copy)
    assert vault.prepare(copy) == key
    assert VolumeStore(tmp_path / "store", Preparation(size=(28, 28, 28))).prepare(scan) != key
    write_scan(copy, seed=5)
    assert vault.prepare(copy) != key  # the index notices the change
    assert not np.array_equal(vault.load_hu(copy), vault.load_hu(scan))


def test_hashes_each_file_once(tmp_path, scan, monkeypatch) -> None:
    calls = []
    original = content_store.hash_source
    monkeypatch.setattr(content_store, "hash_source", lambda p: calls.append(p) or original(p))
    for _ in range(3):
        VolumeStore(tmp_path / "store", SMALL).load(scan)
    assert len(calls) == 1


def test_a_read_only_store_serves_what_it_holds(tmp_path, scan, monkeypatch) -> None:
    root = tmp_path / "store"
    expected = VolumeStore(root, SMALL).load(scan)
    copy = tmp_path / "copy.nii.gz"
    shutil.copy(scan, copy)

    def read_only(path, value) -> None:
        raise WriteError(f"{path.parent}: cannot be written (Read-only file system).")

    monkeypatch.setattr(content_store, "write_json", read_only)
    hashed = []
    original = content_store.hash_source
    monkeypatch.setattr(content_store, "hash_source", lambda p: hashed.append(p) or original(p))
    vault = VolumeStore(root, SMALL)
    with pytest.warns(UserWarning, match="Read-only file system"):
        assert np.array_equal(vault.load(copy), expected)
    assert np.array_equal(vault.load(copy), expected) and len(hashed) == 1


@pytest.mark.parametrize("damage", ["truncated", "flipped", "sidecar", "wrong shape", "gone"])
def test_a_damaged_entry_is_made_again(tmp_path, scan, damage) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    key = vault.prepare(scan)
    good = vault.load(scan)
    path = vault.folder / f"{key}.npy"
    whole = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        whole[-100] ^= 1
        path.write_bytes(whole)
    elif damage == "sidecar":
        path.with_suffix(".json").write_text('{"shape":')
    elif damage == "wrong shape":
        np.save(path, np.zeros((3, 3, 3), np.int16))
    else:
        path.unlink()
    forget()
    with pytest.warns(UserWarning, match="damaged store entry"):
        assert np.array_equal(vault.load(scan), good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forget()
        assert np.array_equal(vault.load(scan), good)


def slow_then_prepare(root: Path, scan: Path, made) -> None:
    original = store.prepare_volume

    def slow(*arguments):
        with made.get_lock():
            made.value += 1
        time.sleep(0.5)
        return original(*arguments)

    store.prepare_volume = slow
    VolumeStore(root, SMALL).prepare(scan)


def run(*targets) -> list[int]:
    context = multiprocessing.get_context("fork")

    def child(target, arguments) -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        target(*arguments)

    processes = [context.Process(target=child, args=item) for item in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_writing_leaves_no_bad_entry(tmp_path, scan, step) -> None:
    root = tmp_path / "store"
    vault = VolumeStore(root, SMALL)
    vault.has(scan)  # the index is written, so that the kill hits the entry

    def target(root: Path, scan: Path) -> None:
        left = [step]
        original = os.replace

        def replace(*arguments) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments)

        os.replace = replace
        VolumeStore(root, SMALL).prepare(scan)

    assert run((target, (root, scan))) == [-signal.SIGKILL]
    assert not vault.has(scan)
    assert len(list(vault.folder.glob(".*.tmp"))) == 1
    expected = prepare_volume(read_volume(scan), SMALL).array
    assert np.array_equal(vault.load_hu(scan), expected)
    assert not list(vault.folder.glob(".*.tmp"))  # the leftover was cleared


def test_two_processes_prepare_one_scan_once(tmp_path, scan) -> None:
    made = multiprocessing.get_context("fork").Value("i", 0)
    root = tmp_path / "store"
    work = (slow_then_prepare, (root, scan, made))
    assert run(work, work, work) == [0, 0, 0]
    assert made.value == 1
    expected = prepare_volume(read_volume(scan), SMALL).array
    assert np.array_equal(VolumeStore(root, SMALL).load_hu(scan), expected)
    assert len(list((root / SMALL.store_fingerprint()[:12]).glob("*.npy"))) == 1


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, scan, monkeypatch) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    vault.has(scan)

    def full(stream, array) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(WriteError, match="No space left on device.*Free disk space"):
        vault.prepare(scan)
    assert not [p for p in vault.folder.iterdir() if p.name != "locks"]
    monkeypatch.undo()
    assert vault.load(scan).shape == SMALL.size


def test_a_bad_scan_leaves_nothing(tmp_path, scan) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    scan.write_bytes(scan.read_bytes()[:-100])
    with pytest.raises(InputError, match="scan.nii.gz"):
        vault.load(scan)
    with pytest.raises(InputError, match="no such file"):
        vault.load(tmp_path / "absent.nii.gz")
    assert not list(vault.folder.glob("*.*"))


def test_values_in_zero_to_one_are_refused(tmp_path) -> None:
    path = tmp_path / "unit.nii.gz"
    data = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    with pytest.raises(InputError, match="not HU"):
        VolumeStore(tmp_path / "store", SMALL).prepare(path)


def test_labels_share_the_grid_and_are_cached(tmp_path, scan) -> None:
    vault = VolumeStore(tmp_path / "store", SMALL)
    path = write_labels(tmp_path / "labels.nii.gz")
    assert not vault.is_known(scan, path)
    vault.prepare(scan, labels=path)
    assert vault.is_known(scan, path) and vault.has_labels(path, scan)
    expected = prepare_labels(read_labels(path), SMALL)
    labels = vault.load_labels(path, like=scan)
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected.array)
    np.testing.assert_allclose(expected.affine, vault.info(scan)["affine"])
    with pytest.raises(InputError, match="another voxel grid"):
        vault.load_labels(write_labels(tmp_path / "shifted.nii.gz", shift=3.0), like=scan)


def test_pickles_and_dicom_folders(tmp_path, shared_data) -> None:
    vault = pickle.loads(pickle.dumps(VolumeStore(tmp_path, Preparation.preset("tiny"))))
    vault.prepare(shared_data / "dicom")
    hu = vault.load_hu(shared_data / "dicom")
    assert hu.shape == (112, 112, 112) and 20 < np.median(hu[56, 50:60, 50:60]) < 120
    index = [json.loads(p.read_text()) for p in (tmp_path / "index").iterdir()]
    assert [entry["path"] for entry in index] == [str(shared_data / "dicom")]
