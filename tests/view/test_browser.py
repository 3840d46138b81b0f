"""The pages in a real browser, without a GPU: what is drawn where, keys, questions, errors."""

import io
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from photon.model.dialogue import Dialogue
from photon.view.desk import Desk
from photon.view.server import make_server
from photon.volume.store import VolumeStore
from photon.weights.checkpoints import load_export
from tests.view.conftest import ASKED

SIZES = {"wide": (1280, 720), "narrow": (800, 600)}


@pytest.fixture
def visit(browser):
    """visit(address, size, **context) -> a page whose scan is drawn; errors of scripts fail."""
    opened, faults = [], []

    def open_page(address, size="narrow", drawn=True, **context):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **context)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: faults.append(r.url) if "://" in r.url[8:] else None)
        # One slice is enough, and quick where no GPU draws.
        page.add_init_script("window.addEventListener('load', () => scan && scan.setView('axial'))")
        page.goto(address)
        if drawn:
            settle(page)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not faults


def settle(page):
    page.wait_for_function("() => scan && scan.base && scan.ready.then(() => true)", polling=100)
    page.evaluate("() => scan.task")


def picture(page):
    """float [H, W, 3] in [0, 1] of what the canvas shows, from a screenshot."""
    page.evaluate("() => { scan.nv.opts.crosshairWidth = 0; scan.nv.drawScene(); }")
    shot = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    return np.asarray(shot, np.float64)[:-3] / 255  # without the panel's lower rim


def box(mask, share=0.0):
    """(top, bottom, left, right) of the rows and columns with more than a share of true pixels."""
    rows, columns = (np.flatnonzero(mask.mean(axis) > share) for axis in (1, 0))
    return np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1], float)


def shares(inner, outer):
    """Where a box lies in another, each number in [0, 1]."""
    height, width = outer[1] - outer[0], outer[3] - outer[2]
    at = [outer[0], outer[0], outer[2], outer[2]]
    return (inner - at) / [height, height, width, width]


def test_kept_tokens_and_the_organ_are_drawn_where_they_are(visit, page):
    """Head half, front, patient's left: the upper right quarter of a quarter, as it is read."""
    shown = visit(page.as_uri())
    shown.evaluate("() => page.open(page.cases[0])")
    settle(shown)
    seen = picture(shown)
    brightness, colour = seen.max(2), seen.max(2) - seen.min(2)
    body = box(brightness > 0.3, 0.25)  # letters lie beside it
    kept = shares(box(colour > 0.15), body)
    assert np.allclose(kept, [0, 0.25, 0.75, 1], atol=0.02)
    teal = (seen[..., 1] - seen[..., 0] > 0.25) & (seen[..., 2] > 0.3)
    assert np.allclose(shares(box(teal), body), [4 / 112, 24 / 112, 88 / 112, 108 / 112], atol=0.02)
    shown.keyboard.press("m")
    shown.keyboard.press("o")
    shown.keyboard.press("o")
    settle(shown)
    grey = picture(shown)
    assert (grey.max(2) - grey.min(2)).max() < 0.12  # only letters have a tint
    before = np.median(grey[grey > 0.3])
    shown.keyboard.press("w")  # lung: the body is brighter there
    assert np.median(picture(shown)[grey > 0.3]) > before + 0.1


def test_dropped_tokens_are_darkened_and_all_that_was_kept_is_tinted(visit, page):
    shown = visit(page.as_uri())
    shown.evaluate("() => { scan.organ = false; page.open(page.cases[1]); }")
    settle(shown)
    shown.click("#overlays button[data-value=dropped]")
    settle(shown)
    dark = picture(shown).max(2)
    shown.click("#overlays button[data-value=none]")
    settle(shown)
    plain = picture(shown).max(2)
    body = plain > 0.3
    kept = shares(box(body & (dark > plain - 0.05), 0.05), box(body, 0.25))
    assert np.allclose(kept, [0, 0.25, 0.75, 1], atol=0.02)


@pytest.mark.parametrize("size", SIZES)
def test_the_list_filters_and_keys_walk_through_it(visit, page, size):
    shown = visit(page.as_uri(), size)
    assert shown.inner_text("#count").startswith("43 of 43 cases, 86.0 % right")
    shown.select_option("#verdict", "wrong")
    assert shown.inner_text("#count").startswith("6 of 43 cases, 0.0 % right")
    shown.select_option("#subtask", "existence")
    assert shown.inner_text("#count").startswith("4 of 43")
    shown.click("#clear")
    shown.fill("#kept-low", "5")
    assert shown.inner_text("#count").startswith("3 of 43")
    shown.click("#clear")
    shown.fill("#search", "large dense")
    assert shown.locator(".case").count() == 1 and shown.locator("b >> text=large").count() == 0
    shown.click(".case")
    assert shown.inner_text("#case-pane h1") == "How <b>large</b> & dense?"
    shown.click("#clear")
    shown.keyboard.press("Escape")
    for key in ("ArrowDown", "j", "k", "ArrowDown", "ArrowDown"):
        shown.keyboard.press(key)
    assert shown.evaluate("() => page.current.id") == "q3" and shown.url.endswith("#q3")
    shown.keyboard.press("3")
    settle(shown)
    assert "random keep" in shown.inner_text(".condition[aria-pressed=true]")
    shown.keyboard.press("?")
    assert shown.locator("#help").is_visible()
    fits = (
        "e.getBoundingClientRect().right <= innerWidth && document.body.scrollWidth <= innerWidth"
    )
    for part in ("#list-pane", "#scan-pane", "#case-pane"):
        assert shown.locator(part).evaluate(f"e => {fits}"), part


def test_a_link_opens_its_case_and_the_theme_follows_the_system(visit, page):
    dark = visit(f"{page.as_uri()}#q5", color_scheme="dark")
    assert dark.evaluate("() => page.current.id") == "q5"
    ink = "() => getComputedStyle(document.body).backgroundColor"
    back = dark.evaluate(ink)
    dark.keyboard.press("t")
    assert back == "rgb(16, 18, 24)" and dark.evaluate(ink) == "rgb(244, 245, 248)"


def test_a_missing_volume_is_said(visit, page, tmp_path):
    shutil.copytree(page.parent, tmp_path / "view")
    (tmp_path / "view" / "volumes" / "0.js").unlink()
    shown = visit((tmp_path / "view" / "index.html").as_uri(), drawn=False)
    shown.wait_for_selector("#problem:not([hidden])")
    assert "volumes/0.js could not be read" in shown.inner_text("#problem")
    shown.keyboard.press("ArrowDown")  # the other scan is there
    settle(shown)
    shown.wait_for_selector("#problem", state="hidden")


def test_a_question_is_answered_and_a_budget_selects_anew(visit, evaluated):
    model = load_export(evaluated / "export")
    store = VolumeStore(evaluated.parent / "store", model.preparation)
    scan = str(evaluated.parent / "a.nii.gz")
    desk = Desk(model, store, scan, max_new_tokens=5, notes=("A <note>.",))
    server, address = make_server(desk)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    expected = Dialogue(model, desk.dialogue.volumes, stop_repeats=True)
    shown = visit(address)
    assert shown.inner_text("#notes") == "A <note>."
    for number, question in enumerate((ASKED, "How large is it?"), start=1):
        shown.fill("#question", question)
        shown.keyboard.press("Enter")
        wait_for_turns(shown, number)
        turn = expected.ask(question, 5)
        told = shown.locator(".turn").last
        assert told.locator(".a").inner_text() == (turn.answer or "(no answer)")
        count = turn.generation.kept_tokens[0]
        assert f"kept {count} of 32 tokens" in told.inner_text()
    shown.locator("#budget-slider").evaluate("e => { e.value = 4; e.oninput(); e.onchange(); }")
    shown.wait_for_function("() => !page.busy && page.turns.at(-1).kept === 4", polling=100)
    assert shown.inner_text("#budget-text") == "4 of 32 tokens (13 %)"
    settle(shown)
    seen = picture(shown)
    assert (seen.max(2) - seen.min(2)).max() > 0.15
    shown.reload()
    wait_for_turns(shown, 2)
    server.shutdown()
    server.server_close()
    shown.fill("#question", "Anyone?")
    shown.click("#send")
    shown.wait_for_selector("#problem:not([hidden])")
    assert "does not answer" in shown.inner_text("#problem")
    assert shown.input_value("#question") == "Anyone?"


def wait_for_turns(page, number):
    page.wait_for_function(f"() => !page.busy && page.turns.length === {number}", polling=100)
