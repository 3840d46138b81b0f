"""Reading DICOM series: order, geometry and rescale are exact; gaps and mixtures are refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from photon.errors import InputError
from photon.volume.reader import find_sources, hash_source, read_volume

# slices, rows, columns
IMAGE = np.random.default_rng(0).integers(0, 2000, (6, 4, 5)).astype(np.uint16)


def write_slice(path: Path, pixels: np.ndarray, position, direction=(1, 0, 0, 0, 1, 0), **fields):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "SeriesInstanceUID": "1.2.3",
        "SeriesDescription": "Thorax",
        "ImagePositionPatient": [float(v) for v in position],
        "ImageOrientationPatient": [float(v) for v in direction],
        "PixelSpacing": [0.5, 0.8],
        "SliceThickness": 3.0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "PhotometricInterpretation": "MONOCHROME2",
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleSlope": 2.0,
        "RescaleIntercept": -1024.0,
        **fields,
    }
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)


def series(folder: Path, step=(0, 0, 2.5), skip=(), direction=(1, 0, 0, 0, 1, 0), **fields) -> Path:
    """Six slices whose file names are in reverse order of their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in set(range(6)) - set(skip):
        position = np.array([-10.0, -20, 30]) + k * np.array(step)
        write_slice(folder / f"slice{9 - k}.dcm", IMAGE[k], position, direction, **fields)
    return folder


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_volume(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_order_rescale_and_affine(tmp_path) -> None:
    volume = read_volume(series(tmp_path / "ct"))
    assert np.array_equal(volume.array, IMAGE * 2.0 - 1024)
    # DICOM LPS to RAS; columns are 0.8 mm apart, rows 0.5 mm.
    expected = [[-0.8, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(volume.affine, expected)
    assert volume.sha256 == hash_source(tmp_path / "ct")


def test_oblique_series_points_along_its_normal(tmp_path) -> None:
    tilt = np.deg2rad(20)
    down = (0, np.cos(tilt), np.sin(tilt))
    normal = np.cross((1, 0, 0), down)
    volume = read_volume(series(tmp_path / "ct", step=-normal * 2, direction=(1, 0, 0, *down)))
    # Slices run against the normal, so the volume starts at the last one.
    assert np.array_equal(volume.array, IMAGE[::-1] * 2.0 - 1024)
    last = np.array([-10.0, -20, 30]) - 5 * normal * 2
    np.testing.assert_allclose(volume.affine[:3, 3], last * [-1, -1, 1])
    np.testing.assert_allclose(volume.affine[:3, 2], normal * 2 * [-1, -1, 1], atol=1e-12)


def test_gantry_tilt_becomes_a_sheared_affine(tmp_path) -> None:
    volume = read_volume(series(tmp_path / "ct", step=(0, 0.6, 2.5)))
    np.testing.assert_allclose(volume.affine[:3, 2], [0, -0.6, 2.5], atol=1e-12)


def test_content_hash_ignores_names(tmp_path) -> None:
    first, second = series(tmp_path / "a"), tmp_path / "b"
    second.mkdir()
    for number, path in enumerate(sorted(first.iterdir())):
        (second / f"IM{number}").write_bytes(path.read_bytes())  # no suffix: found by the preamble
    assert hash_source(first) == hash_source(second)
    assert read_volume(second).sha256 == hash_source(first)
    assert find_sources(tmp_path) == [first, second]


def test_missing_slice_uneven_spacing_and_doubles(tmp_path) -> None:
    refused(series(tmp_path / "gap", skip=[2]), "slice is missing", "slice8.dcm", "slice6.dcm")
    write_slice(series(tmp_path / "odd", skip=[5]) / "x.dcm", IMAGE[5], (-10, -20, 43.2))
    refused(tmp_path / "odd", "uneven", "x.dcm")
    write_slice(series(tmp_path / "two") / "x.dcm", IMAGE[5], (-10, -20, 40))
    refused(tmp_path / "two", "same place", "x.dcm")
    write_slice(series(tmp_path / "shift", skip=[3]) / "x.dcm", IMAGE[3], (-4, -20, 37.5))
    refused(tmp_path / "shift", "straight line")


def test_two_series_in_one_folder_are_listed(tmp_path) -> None:
    series(tmp_path / "ct")
    for k in range(2):
        write_slice(
            tmp_path / "ct" / f"scout{k}.dcm",
            IMAGE[k],
            (0, 0, k),
            (0, 1, 0, 0, 0, -1),
            SeriesInstanceUID="9.9",
            SeriesDescription="Topogram",
        )
    refused(tmp_path / "ct", "2 series", "6 slices", "'Topogram'", "folder of its own")


def test_other_defects_name_the_file(tmp_path) -> None:
    cases = {
        "multi": ({"NumberOfFrames": 3}, "multi-frame"),
        "colour": ({"PhotometricInterpretation": "RGB"}, "grey-scale"),
        "nowhere": ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        "raw": ({"RescaleIntercept": None}, "RescaleIntercept"),
    }
    for name, (fields, word) in cases.items():
        values = {"position": (-10, -20, 30), **fields}
        position = values.pop("ImagePositionPatient", values.pop("position"))
        folder = tmp_path / name
        folder.mkdir()
        write_slice(folder / "x.dcm", IMAGE[0], (0, 0, 0), **values)
        if position is None:
            data = pydicom.dcmread(folder / "x.dcm")
            del data.ImagePositionPatient
            data.save_as(folder / "x.dcm")
        refused(folder, word, "x.dcm")


def test_damaged_slice_and_non_images(tmp_path) -> None:
    folder = series(tmp_path / "ct")
    damaged = folder / "slice7.dcm"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-10])
    refused(folder, "slice7.dcm", "damaged")
    damaged.write_bytes(b"not dicom at all" * 20)
    refused(folder, "slice7.dcm")
    damaged.write_bytes(whole)
    (folder / "readme.txt").write_text("not a slice")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert read_volume(folder).array.shape == (6, 4, 5)


def test_a_slice_or_a_parent_folder_is_refused_with_the_way_out(tmp_path) -> None:
    folder = series(tmp_path / "patient" / "ct")
    refused(folder / "slice5.dcm", "one DICOM slice", "folder")
    refused(tmp_path / "patient", "holds no DICOM slices", str(folder))


def test_one_slice_takes_its_thickness(tmp_path) -> None:
    volume = read_volume(series(tmp_path / "ct", skip=range(1, 6)))
    assert volume.array.shape == (1, 4, 5)
    np.testing.assert_allclose(volume.affine[:3, 2], [0, 0, 3])


def test_too_many_voxels(tmp_path) -> None:
    series(tmp_path / "ct")
    with pytest.raises(InputError, match="limit"):
        read_volume(tmp_path / "ct", max_voxels=100)


def test_real_jpeg2000_series_against_simpleitk(shared_data) -> None:
    sitk = pytest.importorskip("SimpleITK")
    reader = sitk.ImageSeriesReader()
    files = sorted((shared_data / "dicom").glob("*.dcm"))
    files.sort(key=lambda p: float(pydicom.dcmread(p, stop_before_pixels=True).SliceLocation))
    reader.SetFileNames([str(p) for p in files])
    image = reader.Execute()
    volume = read_volume(shared_data / "dicom")
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    for index in [(0, 0, 0), (511, 3, 19), (100, 500, 7)]:
        point = np.array(image.TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], point, atol=1e-3)
