"""The server of `python -m photon view --model`: what it answers, and what it does not."""

import http.client
import json
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest

from photon.commands.cli import main
from photon.model.dialogue import Dialogue
from photon.view.desk import Desk
from photon.view.server import make_server
from photon.volume.store import VolumeStore
from photon.weights.checkpoints import load_export
from tests.view.conftest import ASKED


@pytest.fixture
def desk(evaluated):
    model = load_export(evaluated / "export")
    store = VolumeStore(evaluated.parent / "store", model.preparation)
    return Desk(model, store, str(evaluated.parent / "a.nii.gz"), max_new_tokens=5)


@pytest.fixture
def site(desk):
    """(host and port, path that begins with the token) of a running server."""
    server, address = make_server(desk)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    parts = urlsplit(address)
    yield parts.netloc, parts.path
    server.shutdown()
    server.server_close()


def call(site, name, body=None, method=None, whole=False):
    """(status, headers, body) of one request; `whole`: `name` is the whole path."""
    connection = http.client.HTTPConnection(site[0], timeout=60)
    path = name if whole else site[1] + name
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body))
    connection.request(method or ("GET" if body is None else "POST"), path, data)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def lines(body):
    return [json.loads(line) for line in body.splitlines()]


def test_an_answer_is_streamed_and_is_that_of_a_dialogue(site, desk):
    expected = Dialogue(desk.model, desk.dialogue.volumes, stop_repeats=True)
    for question in (ASKED, "How large is it?"):
        status, headers, body = call(site, "ask", {"question": question})
        turn = expected.ask(question, 5)
        *words, last = lines(body)
        assert status == 200 and headers["Content-Type"] == "application/x-ndjson"
        assert "".join(word["text"] for word in words).strip() == turn.answer
        told = last["turn"]
        assert (told["question"], told["answer"]) == (question, turn.answer)
        mask = np.unpackbits(np.frombuffer(bytes.fromhex(told["mask"]), np.uint8)).astype(bool)
        assert np.array_equal(mask, turn.generation.keep_masks[0].numpy())
        assert len(told["scores"]) == 2 * 32 and told["tokens"] == 32
    data = call(site, "data.js")[2].decode()
    assert len(json.loads(data.removeprefix("const PHOTON = ").strip(";\n"))["turns"]) == 2


def test_a_budget_selects_anew_from_what_was_read(site, desk, monkeypatch):
    """Neither the encoder nor the layers up to l run again."""
    (*_, own) = lines(call(site, "ask", {"question": ASKED})[2])
    monkeypatch.setattr(desk.model, "encode", None)
    monkeypatch.setattr(desk.model, "trunk", None)
    (shown,) = lines(call(site, "select", {"keep": 3})[2])
    (*_, told) = lines(call(site, "again", {"keep": 3})[2])
    assert shown["kept"] == told["turn"]["kept"] == 3 and shown["mask"] == told["turn"]["mask"]
    assert shown["scores"] == own["turn"]["scores"]
    fresh = Dialogue(desk.model, desk.dialogue.volumes, keep=3, stop_repeats=True)
    monkeypatch.undo()
    assert fresh.ask(ASKED, 5).answer == told["turn"]["answer"]
    (*_, back) = lines(call(site, "again", {"keep": None})[2])
    assert back["turn"]["mask"] == own["turn"]["mask"] and len(desk.dialogue.turns) == 1


def test_a_new_dialogue_has_no_history(site, desk):
    first = lines(call(site, "ask", {"question": ASKED})[2])[-1]
    call(site, "ask", {"question": "And now?"})
    assert call(site, "forget", {})[0] == 200 and not desk.dialogue.turns
    again = lines(call(site, "ask", {"question": ASKED})[2])[-1]
    assert again["turn"]["answer"] == first["turn"]["answer"]


@pytest.mark.parametrize(
    "name, body, told",
    [
        ("ask", {"question": "  "}, "the question is empty"),
        ("ask", {}, "the question is empty"),
        ("ask", {"question": "a", "keep": 0}, "keep=0: give a whole number from 1 to 32"),
        ("ask", {"question": "a", "keep": "9"}, "give a whole number"),
        ("again", {"keep": 3}, "ask one first"),
        ("select", {"keep": 3}, "ask one first"),
    ],
)
def test_bad_requests_are_told_why(site, name, body, told):
    status, _, text = call(site, name, body)
    assert status == 422 and told in text.decode()


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff", b"[" * 70000])
def test_what_is_no_request_is_refused(site, body):
    assert call(site, "ask", body)[0] == 400


def test_a_fault_of_the_model_is_told_and_the_next_question_works(site, desk, monkeypatch, capfd):
    with monkeypatch.context() as broken:
        broken.setattr(desk.model, "encode", lambda *a: 1 / 0)
        status, _, text = call(site, "ask", {"question": ASKED})
        assert status == 422 and "ZeroDivisionError" in text.decode()
    assert call(site, "ask", {"question": ASKED})[0] == 200
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_no_file_can_be_read_but_those_of_the_page(site, evaluated):
    host, base = site
    for name in ("", "index.html", "data.js", "scan.js", "view.css", "volumes/0.js"):
        status, headers, body = call(site, name)
        assert status == 200 and body and "default-src 'self'" in headers["Content-Security-Policy"]
    outside = evaluated / "run.json"
    tricks = ["../run.json", "..%2f..%2frun.json", "volumes/../../run.json", str(outside), "ask"]
    tricks += [f"/{outside}", "volumes/1.js", "index.html/", "%2e%2e/photon.json", "server.py"]
    for trick in tricks:
        assert call(site, trick)[0] == 404, trick


def test_without_the_token_there_is_nothing(site):
    token = site[1].strip("/")
    for path in (
        "/",
        "/index.html",
        "/data.js",
        f"/{token}",
        f"/{token[:-1]}/",
        f"/{token}x/data.js",
    ):
        assert call(site, path, whole=True)[0] == 404, path
    assert call(site, "/ask", {"question": ASKED}, whole=True)[0] == 404
    assert call(site, "", method="PUT")[0] == 501 and len(token) >= 32


def test_only_this_machine_is_listened_to(desk):
    server, address = make_server(desk)
    assert server.server_address[0] == "127.0.0.1" and address.startswith("http://127.0.0.1:")
    other, elsewhere = make_server(desk)
    assert urlsplit(address).path != urlsplit(elsewhere).path
    with pytest.raises(ValueError, match="--port .* cannot be listened on"):
        make_server(desk, other.server_address[1])
    server.server_close()
    other.server_close()


def test_an_image_is_sent_to_ask(evaluated, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["view", str(tmp_path / "a.png"), "--model", str(evaluated / "export")]) == 1
    assert "photon ask" in capsys.readouterr().err
