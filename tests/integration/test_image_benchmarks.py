"""SLAKE, MedFrameQA, NExT-QA and M3D from their published layout to a table, in miniature."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photon.benchmarks.m3d import M3D
from photon.benchmarks.using import prepare_benchmark
from photon.phantoms.phantom import make_phantom
from photon.volume.preparation import Preparation
from photon.volume.store import VolumeStore
from tests.benchmarks import published
from tests.integration.test_benchmark_paths import QUICK
from tests.integration.test_commands import Commands, lines

# The stock patches on images of at most 4 tokens; a slice, not a slab, is a frame.
STOCK = (
    *(word for word in QUICK if word != "model=tiny"),
    "model=tiny_stock",
    "model.slab=1",
    "model.preparation.images={max_pixels:3136,frame_pixels:3136,frames:4}",
)


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    root = folder / "data"
    for split, name in (("train", "train"), ("test", "test")):
        rows = [
            published.slake_row(number, img_name=f"xmlab{number % 2}/{split}.jpg")
            for number in range(4)
        ]
        rows.append(published.slake_row(9, img_name=f"xmlab9/{split}.jpg"))
        published.write_json(root / "SLAKE" / f"{name}.json", rows)
        for number in range(2):
            picture(root / "SLAKE" / "imgs" / f"xmlab{number}" / f"{split}.jpg", number)
        broken = root / "SLAKE" / "imgs" / "xmlab9" / f"{split}.jpg"
        broken.parent.mkdir(exist_ok=True)
        broken.write_bytes(b"404 not found")
    published.medframes(root, {i: f"v{i // 2}" for i in range(8)})
    published.nextqa(root, {"train": ["11", "12"], "test": ["13"]})
    for video in ("11", "12", "13"):
        for number in range(5):
            picture(root / "VidOR" / "1201" / video / f"{number:03d}.jpg", number)
    return folder


@pytest.fixture(scope="module")
def call(folder):
    return Commands(folder)


@pytest.mark.parametrize(
    ("words", "questions"),
    [
        (["slake"], 4),
        (["medframeqa"], 2),
        (["nextqa", "dataset.reader.videos=frames"], 2),
    ],
    ids=["image", "several images", "video"],
)
def test_from_published_files_to_a_table(folder, call, words, questions) -> None:
    name, *settings = words
    done = call(
        "train.py", "experiment=phase2", f"dataset={name}", f"name={name}", *settings, *STOCK
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "outputs" / name
    predictions = lines(run / "predictions.jsonl")
    assert len(predictions) == questions
    assert all(row["visual_tokens"] > 0 for row in predictions)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["overall"]["n"] == questions and "constant" in metrics["controls"]
    assert (run / "table.md").is_file() and (run / "benchmark.md").is_file()
    if name == "nextqa":
        ask = ("-m", "photon", "ask", "data/VidOR/1201/13", "What does he do?", "--store", "store")
        asked = call(*ask, "--model", f"outputs/{name}/export", "--max-new-tokens", "2")
        assert asked.returncode == 0 and "of 4 visual tokens" in asked.stdout, asked.stderr
        assert "picture" not in asked.stdout
    if name == "slake":  # one image in three is broken: counted, named and left out
        said = " ".join((done.stdout + done.stderr).split())
        assert "1 bad" in said and "xmlab9/train.jpg: is not an image that can be read" in said


def test_volumes_images_and_videos_in_one_data_set(folder, call) -> None:
    """Also in one batch, one question, and with perturbed volumes."""
    scan = folder / "data" / "scan.nii.gz"
    phantom = make_phantom(1)
    published.save_scan(scan, phantom.array.transpose(2, 1, 0), phantom.affine)
    sources = [
        {"videos": ["scan.nii.gz"]},
        {"images": ["SLAKE/imgs/xmlab0/train.jpg"]},
        {"images": ["SLAKE/imgs/xmlab1/train.jpg"], "videos": ["VidOR/1201/11", "scan.nii.gz"]},
        {"videos": [[f"VidOR/1201/12/{number:03d}.jpg" for number in range(3)]]},
    ]
    rows = [{"query": "Is it large?", "response": "no", "patient": str(i), **source}
            for i, source in enumerate(sources)]  # fmt: skip
    for split, told in (("train", rows), ("test", rows[::-1])):
        text = "".join(json.dumps(row) + "\n" for row in told)
        (folder / "data" / f"{split}.jsonl").write_text(text)
    words = [word for word in STOCK if "reader" not in word and "volumes_per_batch" not in word]
    files = ("dataset.train=data/train.jsonl", "dataset.test=data/test.jsonl")
    done = call(
        "train.py", "experiment=phase2", "dataset=records", *files, "name=mixed", *words,
        "dataset.volumes_per_batch=4", "task.finetune.robust.probability=0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    predictions = lines(folder / "outputs" / "mixed" / "predictions.jsonl")
    volume, image, video = 28 * 2 * 2, 2, 2 * 2
    tokens = {row["patient"]: row["visual_tokens"] for row in predictions}
    assert tokens == {"0": volume, "1": image, "2": image + video + volume, "3": video}


def test_check_names_the_broken_image(folder, call) -> None:
    words = ("--dataset", "slake", "--root", "data", "--split", "test", "--workers", "1")
    done = call("-m", "photon", "check", *words, "--report", "report.json")
    report = json.loads((folder / "report.json").read_text())
    assert done.returncode == 1 and report["error_counts"] == {"count": 1, "image": 1}
    assert report["volumes"] == 3 and "xmlab9/test.jpg" in report["errors"][-1]["where"]


def test_a_model_that_sees_volumes_only_says_so_before_any_work(folder, call) -> None:
    refused = call("train.py", "experiment=phase2", "dataset=slake", "name=refused", *QUICK)
    assert refused.returncode == 1 and refused.stderr.count("\n") <= 2
    assert "record 'test/0': SLAKE/imgs/xmlab0/test.jpg is a 2D image" in refused.stderr
    assert "model=photon_max" in refused.stderr and "preparing" not in refused.stderr


def test_arrays_of_m3d_fill_the_models_input(tmp_path) -> None:
    """Values in 0..1 come back as they are, resized from corner to corner; no HU is expected."""
    values = np.linspace(0, 1, 56).astype(np.float32)
    array = np.broadcast_to(values, (1, 28, 56, 56))
    path = tmp_path / "M3D" / "ct" / "1" / "Axial.npy"
    path.parent.mkdir(parents=True)
    np.save(path, array)
    header = ["Image Path", "Question Type", "Question", "Choice A", "Choice B", "Choice C"]
    header += ["Choice D", "Answer", "Answer Choice"]
    row = ["ct/1/Axial.npy", "3", "Which organ?", "liver", "lung", "heart", "none", "liver", "A"]
    published.write_csv(tmp_path / "M3D-VQA" / "M3D_VQA_test.csv", header, [row])
    reader, preparation = M3D(str(tmp_path)), Preparation(size=(28, 56, 56))
    assert prepare_benchmark(reader, tmp_path / "store", preparation, workers=1).prepared == 1
    prepared = VolumeStore(tmp_path / "store", preparation).load(path)
    assert np.abs(prepared - values).max() < 1e-3
    smaller = VolumeStore(tmp_path / "store", Preparation(size=(14, 28, 28)))
    smaller.declare(path, reader.header("M3D/ct/1/Axial.npy"))
    assert np.abs(smaller.load(path)[:, :, 1:-1] - values.reshape(28, 2).mean(1)[1:-1]).max() < 2e-3
    np.save(path, np.zeros((4, 4)))
    outcome = prepare_benchmark(reader, tmp_path / "store", preparation, workers=1)
    assert "not a volume of three axes" in outcome.bad[0][1]
