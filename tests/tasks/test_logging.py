"""metrics.csv survives new columns and resumes; W&B is offline without a key."""

import csv
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tasks.entry import finish_loggers
from tasks.logging import CsvLog, wandb_log


def rows(folder: Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_columns_may_appear_late_and_steps_merge(tmp_path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"loss": 1.0}, 0)
    log.save()
    log.log_metrics({"loss": 0.5}, 1)
    log.log_metrics({"lr": 1e-4}, 1)
    log.finalize("success")
    assert rows(tmp_path) == [
        {"step": "0", "loss": "1.0", "lr": ""},
        {"step": "1", "loss": "0.5", "lr": "0.0001"},
    ]


def test_a_resume_keeps_what_came_before_and_drops_what_came_after(tmp_path) -> None:
    log = CsvLog(tmp_path)
    for step in range(6):
        log.log_metrics({"loss": float(step)}, step)
    log.save()
    again = CsvLog(tmp_path)
    again.log_metrics({"loss": 40.0, "new": 1.0}, 4)
    again.save()
    found = [(r["step"], r["loss"], r["new"]) for r in rows(tmp_path)]
    assert found == [
        *[(str(s), f"{s}.0", "") for s in range(4)],
        ("4", "40.0", "1.0"),
    ]


def test_nothing_logged_deletes_nothing(tmp_path) -> None:
    log = CsvLog(tmp_path)
    log.log_metrics({"loss": 1.0}, 0)
    log.save()
    CsvLog(tmp_path).finalize("success")
    assert len(rows(tmp_path)) == 1


def test_wandb_is_offline_without_a_key_and_keeps_its_id(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    first, second = (wandb_log(tmp_path / "run") for _ in range(2))
    other = wandb_log(tmp_path / "other")
    assert first._offline and first.version == second.version != other.version
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("tasks.logging.unreachable", lambda: None)
    assert not wandb_log(tmp_path / "run")._offline


class Stranger(BaseHTTPRequestHandler):
    """A server that knows no key."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": {"viewer": null}}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("port", "says"), [(9, "cannot be reached"), (0, "does not know the key")])
def test_wandb_that_does_not_answer_is_said_once_and_the_run_goes_on(
    tmp_path, monkeypatch, port, says
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    server = HTTPServer(("127.0.0.1", 0), Stranger)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{port or server.server_port}"
    monkeypatch.setenv("WANDB_BASE_URL", address)
    with pytest.warns(UserWarning, match=says) as told:
        assert wandb_log(tmp_path / "run")._offline
    assert len(told) == 1 and address in str(told[0].message)
    server.shutdown()


def test_two_runs_of_one_process_do_not_flow_together(tmp_path, monkeypatch) -> None:
    """A sweep's points log in one process: each finishes its own offline W&B run."""
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for point in ("a", "b"):
        log = wandb_log(tmp_path / point)
        log.log_metrics({"loss": 1.0}, 0)
        finish_loggers()
    for point in ("a", "b"):
        assert len(list((tmp_path / point / "wandb").glob("offline-run-*"))) == 1
