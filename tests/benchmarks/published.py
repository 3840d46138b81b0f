"""Benchmarks in miniature: invented rows under the published columns, in the published layout."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from photon.benchmarks.rad3d import FOLDERS
from photon.benchmarks.scans import FINDINGS

RAD3D = "Task,Subtask,VolumeName,Question,Answer,QuestionType,AnswerChoice".split(",")
RAD3D += [f"Choice {letter}" for letter in "ABCD"]
CHANGES = (
    "Refractory Lesion (Persistent or recurrent, now present)",
    "Resolved Lesion (Previously present or recurrent, now absent)",
    "New Lesion (Absent previously, now present)",
    "No Abnormality (Always absent)",
)
DASHES = ["-"] * 5


def write_csv(path: Path, header: list[str], rows: list[list]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def yes_no(number: int, name: str, finding: str, answer: str) -> list[str]:
    question = f"Does the CT scan demonstrate {finding.lower()}?"
    letter = "A" if answer == "Yes" else "B"
    return ["4", str(number), name, question, answer, "Close", letter, "Yes", "No", "-", "-"]


def rad3d_rows(folder: str, number: int, subtask: str, name: str) -> list[list[str]]:
    """Two rows of a subtask about one scan."""
    task, rows = folder[4], []
    for i in range(2):
        if task == "4":
            rows.append(yes_no(number, name, subtask, ("Yes", "No")[i]))
        elif task in "56":
            past = "Earlier scans: [1, 0]. (Note: 0 indicates absence.) " if task == "6" else ""
            question = f"{past}How do you classify the nodule, case {i}?"
            rows.append([task, str(number), name, question, CHANGES[3 * i], "Close", "AD"[i]])
            rows[-1] += CHANGES
        else:
            question = f"What is seen in place {i} of {subtask}, and how large is it?"
            rows.append([task, str(number), name, question, "30x13 mm", "Open", *DASHES])
    return rows


def rad3d(root: Path, patients: dict[str, list[int]]) -> Path:
    """All 92 files; scans SPLIT_N_a_1 of the patients in turn."""
    for split, numbers in patients.items():
        for folder, (_, subtasks) in FOLDERS.items():
            names = subtasks[split] if isinstance(subtasks, dict) else subtasks
            for number, subtask in enumerate(names, start=1):
                name = f"{split}_{numbers[number % len(numbers)]}_a_1.nii.gz"
                path = root / "3D-RAD" / "3DRAD" / split / folder / f"{subtask}.csv"
                write_csv(path, RAD3D, rad3d_rows(folder, number, subtask, name))
    return root


def ct_rate(root: Path, patients: dict[str, list[int]]) -> Path:
    """Reports, labels and metadata of scans SPLIT_N_a_1; "test" is CT-RATE's "valid"."""
    dataset = root / "CT-RATE" / "dataset"
    for split, numbers in patients.items():
        short, long = ("train", "train") if split == "train" else ("valid", "validation")
        names = [f"{short}_{number}_a_1.nii.gz" for number in numbers]
        header = ["VolumeName", "ClinicalInformation_EN", "Findings_EN", "Impressions_EN"]
        reports = [[n, "", f"The liver of {n} is large.", "Not given."] for n in names]
        write_csv(dataset / "radiology_text_reports" / f"{long}_reports.csv", header, reports)
        labels = [[n, *(str((i + j) % 2) for j in range(18))] for i, n in enumerate(names)]
        path = dataset / "multi_abnormality_labels" / f"{short}_predicted_labels.csv"
        write_csv(path, ["VolumeName", *FINDINGS], labels)
        header = ["VolumeName", "XYSpacing", "RescaleIntercept", "RescaleSlope", "ZSpacing"]
        rows = [[n, "[0.75, 0.75]", ("-1024", "-8192")[i % 2], "1", "1.5"]
                for i, n in enumerate(names)]  # fmt: skip
        write_csv(dataset / "metadata" / f"{long}_metadata.csv", header, rows)
    return root


def ct_rate_scan(root: Path, name: str, folder: str = "valid_fixed") -> Path:
    """Where CT-RATE keeps valid_1_a_1.nii.gz."""
    patient, visit = "_".join(name.split("_")[:2]), "_".join(name.split("_")[:3])
    return root / "CT-RATE" / "dataset" / folder / patient / visit / name


def abdomenatlas(root: Path, cases: dict[str, list[int]]) -> Path:
    """Reports and id files of BDMAP_0000000N."""
    folder = root / "AbdomenAtlas"
    header = "BDMAP ID,spacing,shape,sex,age,liver volume (cm^3),radiologist note".split(",")
    header += "structured report,narrative report".split(",")
    header += "fusion structured report,fusion narrative report".split(",")
    rows = []
    for split, numbers in cases.items():
        ids = [f"BDMAP_{number:08d}" for number in numbers]
        write_csv(folder / "TrainTestIDS" / f"IID_{split}.csv", ["BDMAP_ID"], [[i] for i in ids])
        write_csv(folder / "TrainTestIDS" / f"OOD_{split}.csv", ["BDMAP_ID"], [[i] for i in ids])
        rows += [[i, "[1 1 1]", "(9, 9, 9)", "F", "61", "1500.5", "", "Liver:\nnormal", "The liver"
                  " is normal.", "", ""] for i in ids]  # fmt: skip
    write_csv(folder / "AbdomenAtlas3.0MiniWithMeta.csv", header, rows)
    return root


def deeptumor_row(number: int, case: str, **changes) -> dict:
    """A row of v1."""
    row = {
        "question_id": number,
        "image_id": case,
        "spacing": "[0.82 0.82 2.5 ]",
        "shape": "(512, 512, 339)",
        "sex": "F",
        "age": 61,
        "question": "Which kidney is larger?",
        "answer": "left kidney",
        "multiple_choice_question": "Which kidney is larger? A: left kidney B: the same "
        "C: right kidney",
        "correct_option": "A",
        "organ": "kidney",
        "lesion": "",
        "question_type": "Visual reasoning",
        "question_subtype": "kidney_volume_comparison",
    }
    return {**row, **changes}


def deeptumor_number(number: int, case: str) -> dict:
    return deeptumor_row(
        number,
        case,
        question="What is the volume of the liver?",
        answer="1500.5 cm^3",
        multiple_choice_question="What is the volume of the liver? A: 10 B: 1500.5 C: 3000 D: 9",
        correct_option="B",
        organ="liver",
        question_type="Measurement",
        question_subtype="organ_volume_measurement",
    )


def deeptumor(root: Path, cases: dict[str, list[int]]) -> Path:
    """v1: train.csv and validation.jsonl."""
    rows = {
        split: [
            make(10 * number + k, f"BDMAP_{number:08d}")
            for number in numbers
            for k, make in enumerate((deeptumor_row, deeptumor_number))
        ]
        for split, numbers in cases.items()
    }
    folder = root / "DeepTumorVQA"
    header = list(rows["train"][0])
    write_csv(folder / "train.csv", header, [[row[k] for k in header] for row in rows["train"]])
    lines = "".join(json.dumps(row) + "\n" for row in rows["test"])
    (folder / "validation.jsonl").write_text(lines)
    return root


def medframe_row(number: int, video: str, count: int = 6, **changes) -> dict:
    row = {
        "question_id": f"q{number}",
        "system": "thorax",
        "organ": "lung",
        "keyword": "nodule",
        "modality": "CT" if number % 2 else "MRI",
        "video_id": video,
        "question": "Which finding do the frames show?",
        "options": [f"finding {i}" for i in range(count)],
        "correct_answer": "ABCDEFGH"[count - 1],
        "reasoning_chain": "",
        "image_url": [f"https://host/{video}/{i}.jpg" for i in range(3)],
    }
    return {**row, **changes}


def medframes(root: Path, videos: dict[int, str]) -> Path:
    """Parquet rows with their three frames inside, as PNG bytes."""
    import io

    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    rows = []
    for number, video in videos.items():
        row = medframe_row(number, video, count=4)
        row["image_url"] = [f"https://host/{video}/{number}_{k}.jpg" for k in range(3)]
        for k in range(5):  # columns of the questions with most frames
            stream = io.BytesIO()
            grey = np.full((60, 80), 10 * number + k, np.uint8)
            Image.fromarray(grey).save(stream, "png")
            row[f"image_{k + 1}"] = {"bytes": stream.getvalue()} if k < 3 else None
        rows.append(row)
    path = root / "MedFrameQA" / "data" / "test-0.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return root


def nextqa(root: Path, videos: dict[str, list[str]]) -> Path:
    """Two questions about each video; its VidOR folder is 1201."""
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4".split(",")
    options = ["run", "sit", "eat", "sing", "sleep"]
    for split, names in videos.items():
        rows = [[name, "30", "64", "48", "what does the man do", str(qid), str(qid), kind, *options]
                for name in names for qid, kind in enumerate(("CW", "TN"))]  # fmt: skip
        write_csv(root / "NExT-QA" / f"{split}.csv", header, rows)
    mapped = {name: f"1201/{name}" for names in videos.values() for name in names}
    write_json(root / "NExT-QA" / "map_vid_vidorID.json", mapped)
    return root


def slake_row(qid: int, **changes) -> dict:
    row = {
        "img_id": 1,
        "img_name": "xmlab1/source.jpg",
        "question": "What is shown?",
        "answer": "Liver",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "MRI",
        "answer_type": "OPEN",
        "base_type": "vqa",
        "triple": ["vhead", "_", "_"],
        "qid": qid,
        "content_type": "Organ",
    }
    return {**row, **changes}


def save_scan(path: Path, array: np.ndarray, affine: np.ndarray | None) -> Path:
    """int16 NIfTI, array (i, j, k); without an affine its header is blank."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(np.int16), np.eye(4) if affine is None else affine)
    if affine is None:
        image.header.set_sform(None, code=0)
        image.header.set_qform(None, code=0)
    image.to_filename(path)
    return path
