"""Images and video frames from files to pixels: against the stock processor, and damaged files."""

import json

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    smart_resize as stock_resize,
)

from photon.batch.builder import BatchBuilder
from photon.commands.cli import main
from photon.errors import InputError
from photon.volume.images.preparation import ImagePreparation, resized, smart_resize
from photon.volume.images.reading import read_image
from photon.volume.images.store import ImageStore
from photon.volume.images.video import read_video, sample_indices
from photon.volume.sources import kind_of, locate
from tests.helpers import prompt

SMALL = ImagePreparation(min_pixels=28 * 28, max_pixels=84 * 84, frame_pixels=56 * 56, frames=6)


def picture(height=40, width=60, seed=0) -> np.ndarray:
    """Smooth colours with some noise, so that every resampling method differs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (3 + c)) * np.cos(y / (5 - c)) for c in range(3)], -1)
    return (127 + 100 * waves + rng.integers(-20, 20, waves.shape)).clip(0, 255).astype(np.uint8)


def test_sizes_equal_the_stock_formula() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        height, width = rng.integers(1, 4000, 2).tolist()
        limits = (int(rng.integers(1, 20)) * 784, int(rng.integers(20, 2000)) * 784)
        factor = int(rng.choice([28, 32]))
        if max(height, width) > 200 * min(height, width):
            with pytest.raises(InputError, match="200 times"):
                smart_resize(height, width, factor, *limits)
            continue
        expected = stock_resize(height, width, factor, *limits)
        assert smart_resize(height, width, factor, *limits) == expected


@pytest.mark.parametrize("shape", [(40, 60), (200, 130), (57, 56)])
def test_patches_equal_the_stock_image_processor(tmp_path, shape) -> None:
    """From a file to patch rows: the image is one frame that fills the temporal patch."""
    Image.fromarray(picture(*shape)).save(tmp_path / "a.png")
    frames = ImageStore(tmp_path / "store", SMALL).load(tmp_path / "a.png")
    assert frames.is_image
    builder = BatchBuilder((2, 14, 14), 3, 2, 1, visual_id=3, image_id=2)
    batch = builder([[frames]], [[prompt(torch.Generator())]])
    stock = Qwen2VLImageProcessorPil(
        min_pixels=SMALL.min_pixels, max_pixels=SMALL.max_pixels, do_normalize=False
    )(Image.open(tmp_path / "a.png"), return_tensors="pt")
    assert stock["image_grid_thw"].tolist() == [list(builder.grid(frames))]
    np.testing.assert_allclose(batch.patches, stock["pixel_values"], atol=1e-6)


def test_patches_of_a_video_pair_its_frames(tmp_path) -> None:
    """Five frames are three patches deep; the last pairs the last frame with itself."""
    pixels = np.stack([picture(56, 84, seed=i) for i in range(5)])
    np.save(tmp_path / "clip.npy", pixels)
    settings = ImagePreparation(min_pixels=784)
    frames = ImageStore(tmp_path / "store", settings).load(tmp_path / "clip.npy")
    builder = BatchBuilder((2, 14, 14), 3, 2, 1, visual_id=3, image_id=2)
    batch = builder([[frames]], [[prompt(torch.Generator())]])
    stock = Qwen2VLImageProcessorPil(min_pixels=784, do_normalize=False)
    rows = [stock(Image.fromarray(p), return_tensors="pt")["pixel_values"] for p in pixels]
    rows = [row.reshape(-1, 3, 2, 14, 14) for row in rows]  # both halves hold the frame
    pairs = [(0, 1), (2, 3), (4, 4)]
    expected = [torch.stack([rows[a][:, :, 0], rows[b][:, :, 1]], 2).flatten(1) for a, b in pairs]
    assert batch.grids == [((3, 4, 6),)] and batch.visual_lengths == [3 * 2 * 3]
    np.testing.assert_allclose(batch.patches, torch.cat(expected), atol=1e-6)
    assert set(batch.prefix_ids[batch.visual].tolist()) == {3}


def test_modes_orientation_and_depth(tmp_path) -> None:
    rgb = picture(20, 30)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 270 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png"), np.rot90(rgb, -1))
    deep = np.linspace(0, 4095, 600).reshape(20, 30).astype(np.uint16)  # 12 of 16 bits
    Image.fromarray(deep).save(tmp_path / "deep.png")
    grey = read_image(tmp_path / "deep.png")
    assert (grey.min(), grey.max()) == (0, 255) and np.array_equal(grey[..., 0], grey[..., 2])
    assert np.abs(grey[..., 0] - deep * (255 / 4095)).max() <= 0.5
    alpha = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 51, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    assert np.unique(read_image(tmp_path / "alpha.png")).tolist() == [204]  # a fifth of black
    few = Image.fromarray(rgb // 128 * 255)
    few.quantize(8).save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(few))
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.jpg", quality=100)
    assert read_image(tmp_path / "grey.jpg").shape == (20, 30, 3)


def dicom(path, pixels, **attributes):
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = pixels.astype(np.uint16).tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def test_a_single_dicom_image_goes_by_its_window(tmp_path) -> None:
    pixels = np.arange(2000).reshape(40, 50)
    dicom(tmp_path / "plain", pixels)
    assert kind_of(tmp_path / "plain") == "image"
    assert np.abs(read_image(tmp_path / "plain")[..., 1] - pixels * (255 / 1999)).max() <= 0.5
    window = {"WindowCenter": [600.5, 1], "WindowWidth": [401, 2], "RescaleIntercept": -500}
    dicom(tmp_path / "window", pixels, RescaleSlope=1, **window)
    shown = ((pixels - 500 - 400) / 400).clip(0, 1) * 255  # from 600 - 200 to 600 + 200
    assert np.abs(read_image(tmp_path / "window")[..., 0] - shown).max() <= 0.5
    dicom(tmp_path / "negative", pixels, PhotometricInterpretation="MONOCHROME1")
    assert read_image(tmp_path / "negative")[0, 0, 0] == 255
    dicom(tmp_path / "frames", pixels, NumberOfFrames=2)
    with pytest.raises(InputError, match="2 frames"):
        read_image(tmp_path / "frames")


def test_damaged_images_are_one_error_each(tmp_path) -> None:
    Image.fromarray(picture(200, 200)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("404 not found")
    (tmp_path / "empty.png").write_bytes(b"")
    pages = [Image.fromarray(picture(seed=i)) for i in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for name, says in (
        ("cut.png", "is not an image that can be read"),
        ("text.jpg", "is not an image that can be read"),
        ("empty.png", "is not an image that can be read"),
        ("absent.png", "no such file"),
        ("pages.tif", "holds 2 pages"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)


def test_kinds_are_told_by_the_files(tmp_path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((1, 4, 5, 6), np.float32))
    np.savez(tmp_path / "clip.npz", np.zeros((4, 5, 6, 3), np.uint8))
    for name in ("frames", "series", "empty"):
        (tmp_path / name).mkdir()
    Image.fromarray(picture()).save(tmp_path / "frames" / "1.jpg")
    dicom(tmp_path / "series" / "1.dcm", np.zeros((4, 4)))
    kinds = {"a b.PNG": "image", "x.mp4": "video", "x.gif": "video", "case.nii.gz": "volume"}
    kinds |= {"volume.npy": "volume", "clip.npz": "video", "frames": "video", "series": "volume"}
    kinds |= {"empty": "volume", "absent": "volume", "series/1.dcm": "image"}
    assert {name: kind_of(tmp_path / name) for name in kinds} == kinds
    assert kind_of(locate(tmp_path, ("1.png", "2.png"))) == "video"


def clips(folder) -> dict[str, object]:
    """One clip of 9 frames in every form that needs no decoder."""
    frames = [picture(56, 56, seed=i) for i in range(9)]
    (folder / "frames").mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "frames" / f"{i:03d}.png")
    np.save(folder / "clip.npy", np.stack(frames))
    np.savez(folder / "clip.npz", np.stack(frames).astype(np.float32) / 255)
    listed = tuple(str(folder / "frames" / f"{i:03d}.png") for i in range(9))
    return {"folder": folder / "frames", "npy": folder / "clip.npy", "npz": folder / "clip.npz",
            "list": listed}  # fmt: skip


def test_a_clip_is_the_same_in_every_form(tmp_path) -> None:
    forms = clips(tmp_path)
    settings = ImagePreparation(fps=2.0, frames=4)
    expected = [picture(56, 56, seed=i) for i in (0, 2, 4, 6)]
    for name, source in forms.items():
        frames, seconds = read_video(source, settings)
        assert np.array_equal(frames, expected), name
        assert seconds == 9 / 2 / 4, name  # 9 frames half a second apart, 4 of them
    store = ImageStore(tmp_path / "store", SMALL)
    prepared = store.load(forms["folder"])
    assert tuple(prepared.pixels.shape) == (6, 56, 56, 3) and prepared.seconds == 0.75
    assert store.prepare(forms["folder"]) == store.prepare(forms["list"])  # the same content


def test_a_gif_has_its_own_time(tmp_path) -> None:
    frames = [Image.fromarray(np.full((30, 40, 3), 20 * i, np.uint8)) for i in range(10)]
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=500, loop=0
    )
    read, seconds = read_video(tmp_path / "a.gif", ImagePreparation(fps=1.0))
    assert [frame[0, 0, 0] // 20 for frame in read] == [0, 2, 4, 6, 8] and seconds == 1.0


def test_an_encoded_video(tmp_path) -> None:
    av = pytest.importorskip("av", reason="PyAV is optional")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            grey = np.full((48, 64, 3), 6 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    frames, seconds = read_video(tmp_path / "a.mp4", ImagePreparation(fps=2.0))
    assert seconds == 0.5 and len(frames) == 8
    assert np.abs([frame.mean() / 6 - 5 * i for i, frame in enumerate(frames)]).max() < 1
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut.mp4: is not a video that can be read"):
        read_video(tmp_path / "cut.mp4", ImagePreparation())


def test_without_a_decoder_the_way_out_is_said(tmp_path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    try:
        import av  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"a.mp4: reading .mp4 .*pip install av"):
            read_video(tmp_path / "a.mp4", ImagePreparation())
    else:
        with pytest.raises(InputError, match="a.mp4: is not a video"):
            read_video(tmp_path / "a.mp4", ImagePreparation())


def test_bad_clips(tmp_path) -> None:
    sizes = [picture(20, 20), picture(20, 30)]
    for i, pixels in enumerate(sizes):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    np.save(tmp_path / "counts.npy", np.full((2, 4, 4, 3), 300))
    for source, says in (
        ((str(tmp_path / "0.png"), str(tmp_path / "1.png")), "frames of different sizes"),
        ((str(tmp_path / "0.png"), str(tmp_path / "2.png")), "2.png: no such file"),
        (tmp_path / "counts.npy", "frames of int64"),
        (tmp_path / "absent.gif", "no such file"),
    ):
        with pytest.raises(InputError, match=says):
            read_video(source, ImagePreparation())


def test_prepare_and_check_from_the_command_line(tmp_path, capsys) -> None:
    """A broken image among others, and a frame that is missing, are named; the rest is done."""
    root = tmp_path / "data"
    clips(root)
    Image.fromarray(picture()).save(root / "a.png")
    (root / "broken.png").write_bytes((root / "a.png").read_bytes()[:200])
    sources = ["a.png", "broken.png", "frames", "clip.npy", ["frames/000.png", "frames/9.png"]]
    rows = [{"query": "What?", "response": "no", "images": [source]} for source in sources]
    (root / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["prepare", str(root / "q.jsonl"), "--store", str(tmp_path / "store")]
    command += ["--images.frames", "3", "--workers", "1"]
    command += ["--images.max_pixels", "3136", "--images.frame_pixels", "3136"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "3 prepared, 0 already there, 2 bad" in captured.out
    assert "broken.png: is not an image" in captured.err and "9.png: no such file" in captured.err
    settings = ImagePreparation(frames=3, max_pixels=3136, frame_pixels=3136)
    store = ImageStore(tmp_path / "store", settings)
    assert store.has(root / "a.png") and len(store.load(root / "frames").pixels) == 3
    assert main([*command, "--strict"]) == 1
    assert "0 prepared, 3 already there, 2 bad" in capsys.readouterr().out
    assert main(["check", str(root / "q.jsonl"), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "5 volumes: 2 errors" in said.out and "frames/9.png: no such file" in said.err
    assert main([*command[:-2], "--images.frame_pixels", "100"]) == 1
    assert "preparation.images.frame_pixels: 100 is less than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("frames", "fps", "expected"),
    [(10, 2.0, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (1, 30.0, [0]), (300, 30.0, 16), (60, 30.0, 4)],
)
def test_sampling_is_even(frames, fps, expected) -> None:
    indices = sample_indices(frames, fps, ImagePreparation())
    if isinstance(expected, list):
        assert indices == expected
    else:
        assert len(indices) == expected and set(np.diff(indices)) <= {
            frames // expected, frames // expected + 1}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"fps": 0}, "images.fps"), ({"frames": 1.5}, "images.frames"),
        ({"max_pixels": 100}, "less than min_pixels"), ({"colour": 1}, "unknown key 'colour'"),
    ],
)  # fmt: skip
def test_illegal_settings(values, says) -> None:
    with pytest.raises(InputError, match=says):
        ImagePreparation.from_dict(values)


def test_resizing_keeps_what_fits() -> None:
    pixels = picture(56, 84)
    assert np.array_equal(resized(pixels, ImagePreparation(), 10**6), pixels)
