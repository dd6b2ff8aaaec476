"""The page in a browser: answers are shown, drawn, stopped, kept and saved."""

import json
from pathlib import Path

import pytest

from tests.light.serving.page.acting import SIZES, ask, show, slow, wait_for_answers
from tests.light.serving.served import EXAMPLES


def test_boxes_of_an_answer_are_drawn_named_and_lit(page):
    show(page)
    page.click("[data-task=grounding]")
    wait_for_answers(page, 1)
    labels = page.locator(".found span").all_inner_texts()
    assert labels == page.locator(".phrase").all_inner_texts()
    assert len(labels) == 2
    car = page.locator(".found").first.bounding_box()
    whole = page.locator("#picture").bounding_box()
    assert car["x"] > whole["x"]
    assert car["width"] < 0.7 * whole["width"]
    page.locator(".phrase").nth(1).click()
    assert page.locator(".found.on").all_inner_texts() == [labels[1]]
    page.locator(".phrase").nth(1).click()
    assert page.locator(".boxes.lit").count() == 0
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "picture.png"


def test_the_answers_are_saved_as_json(page):
    assert not page.locator("#download").is_visible()
    show(page)
    page.click("[data-task=grounding]")
    wait_for_answers(page, 1)
    page.click("[data-task=ask]")
    said = ask(page, "what is this?", 2)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "answers.json"
    saved = json.loads(Path(download.value.path()).read_text("utf-8"))
    first, second = saved["turns"]
    assert first["prompt"] == "[grounding] describe this image in detail"
    assert [each["label"] for each in first["phrases"]] == ["a red car", "a tree"]
    assert all(0 <= edge <= 1 for each in first["phrases"] for edge in each["boxes"][0])
    wanted = {"task": "ask", "question": "what is this?", "answer": said, "finish_reason": "stop"}
    assert wanted.items() <= second.items()
    assert second["model"] == "miniature"
    assert saved["pictures"][second["picture"]].startswith("data:image/png;base64,")
    assert len(saved["pictures"]) == 1
    page.keyboard.press("Control+k")
    assert not page.locator("#download").is_visible()


def test_text_is_put_in_as_text(page):
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script> <p><b>bold</b></p> {<1><2>"
    slow(page, [hostile[:20], hostile[20:]])
    ask(page, "<b>what?</b>")
    assert page.locator(".answers img, .answers script, .answers b").count() == 0
    assert page.locator(".question").inner_text() == "<b>what?</b>"
    assert "alert(2)" in page.locator(".answer p").inner_text()


def test_twenty_boxes_and_a_long_answer_stay_within_the_page(open_page):
    many = [
        f"<p>thing {i}</p> {{<{4 * i}><{4 * i}><{4 * i + 15}><{4 * i + 15}>}} and "
        for i in range(20)
    ]
    for width, height in SIZES:
        page = open_page(width, height)
        show(page)
        slow(page, [*many, "very " * 300, "long" * 100])
        ask(page, "everything")
        assert page.locator(".found").count() == 20
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_an_answer_is_stopped(page, way):
    held = []
    page.route("**/v1/chat/completions", lambda route: held.append(route))
    show(page, "cat")
    page.fill("#words", "what is this?")
    page.press("#words", "Enter")
    page.locator("#stop").wait_for()
    if way == "button":
        page.click("#stop")
    else:
        page.keyboard.press("Escape")
    page.locator("text=Stopped.").wait_for()
    assert page.locator("#send").is_visible()
    page.unroute("**/v1/chat/completions")
    page.locator("text=Ask again").first.click()
    assert wait_for_answers(page, 2) == "a cat"


def test_an_answer_is_copied_and_asked_again(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    show(page, "cat")
    ask(page, "what is this?")
    page.locator("text=Copy").click()
    page.locator("text=Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "a cat"
    page.locator("text=Ask again").click()
    assert wait_for_answers(page, 2) == "a cat"


def test_errors_can_be_read_and_the_next_question_is_answered(page):
    show(page, "cat")
    ask(page, "word " * 3000)
    assert "positions" in page.locator(".answer.bad").inner_text()
    assert page.locator(".answer[role=alert]").count() == 1
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no"})
    page.locator("text=cannot show this file").wait_for()
    assert ask(page, "what is this?", 2) == "a cat"


def test_the_place_in_the_queue_and_loading_are_told(page):
    show(page, "cat")
    seen = []
    page.expose_function("note", lambda text: seen.append(text))
    page.evaluate(
        """() => new MutationObserver(() => note(document.getElementById("status").textContent))
          .observe(document.getElementById("status"), { childList: true })"""
    )
    page.request.post(page.url + "api/generate", data='{"keep_alive": 0, "stream": false}')
    assert ask(page, "what is this?") == "a cat"
    page.wait_for_timeout(200)
    assert "Loading the model…" in seen
    assert page.locator("#status[role=status]").count() == 1


def test_questions_are_kept_in_the_browser_where_that_is_switched_on_and_forgotten(page):
    show(page, "cat")
    ask(page, "what is this?")
    page.reload()
    assert page.locator("#earlier li").count() == 0
    page.click("#settings")
    page.check("#keep")
    page.keyboard.press("Escape")
    show(page)
    page.click("[data-task=grounding]")
    wait_for_answers(page, 1)
    said = page.locator(".answer p").inner_text()
    page.reload()
    page.locator("#earlier button").click()
    page.locator(".answer p").wait_for()
    assert page.locator(".answer p").inner_text() == said
    assert page.locator(".found").count() == 2
    assert ask(page, "what is this?", 2)
    page.keyboard.press("Control+k")
    page.locator("#earlier li").nth(1).wait_for()
    page.click("#settings")
    page.click("#forget")
    page.locator("text=Forgotten").wait_for()
    page.reload()
    page.locator("#model option").wait_for(state="attached")
    assert page.locator("#earlier li").count() == 0


def test_another_picture_of_the_row_does_not_stop_an_answer(page):
    held = []
    page.set_input_files("#file", [str(EXAMPLES / f"{each}.png") for each in ("breakfast", "cat")])
    page.locator("#strip .thumb").nth(1).wait_for()
    page.route("**/v1/chat/completions", lambda route: held.append(route))
    page.fill("#words", "what is this?")
    page.press("#words", "Enter")
    page.locator("#stop").wait_for()
    page.get_by_role("button", name="Picture 1").click()
    page.locator("[aria-label='Picture 1'][aria-pressed=true]").wait_for()
    held[0].continue_()
    assert wait_for_answers(page, 1) == "a cat"
