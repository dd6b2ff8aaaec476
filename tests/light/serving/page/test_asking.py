"""The page in a browser: pictures, tasks and places are asked about, by pointer and by keys."""

import json
import re

import pytest

from tests.light.serving.page.acting import SIZES, ask, show, wait_for_answers
from tests.light.serving.served import EXAMPLES, PICTURES, serve


def test_a_picture_is_chosen_and_asked_about(page):
    show(page, "cat")
    assert ask(page, "what is this?") == "a cat"
    assert page.locator(".question").inner_text() == "what is this?"
    assert page.locator("#model option").all_inner_texts() == ["miniature"]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(page, way):
    page.evaluate(
        """([way, bytes]) => {
          const file = new File([new Uint8Array(bytes)], "cat.png", { type: "image/png" });
          const data = new DataTransfer();
          data.items.add(file);
          dispatchEvent(way === "drop"
            ? new DragEvent("drop", { dataTransfer: data, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, cancelable: true }));
        }""",
        [way, list(PICTURES["cat"])],
    )
    page.locator("#frame").wait_for()
    assert ask(page, "what is this?") == "a cat"


def test_a_picture_is_taken_by_the_camera(page):
    page.click("#camera")
    page.locator("#video").wait_for()
    page.wait_for_timeout(500)
    page.click("#shoot")
    page.locator("#frame").wait_for()
    assert page.evaluate("picture.naturalWidth") > 100
    assert not page.locator("#viewfinder").is_visible()


def test_the_six_tasks_are_asked_with_their_tags(page):
    asked = []
    page.on("request", lambda each: "chat" in each.url and asked.append(json.loads(each.post_data)))
    show(page)
    ask(page, "what is this?", 1)
    page.click("[data-task=caption]")
    wait_for_answers(page, 2)
    page.click("[data-task=grounding]")
    wait_for_answers(page, 3)
    page.click("[data-task=refer]")
    ask(page, "the red car", 4)
    page.click("[data-task=detection]")
    ask(page, "car", 5)
    page.click("[data-task=identify]")
    page.locator("#drawn").wait_for()
    ask(page, "", 6)
    sent = [each["messages"][0]["content"][1]["text"] for each in asked]
    assert sent[0] == "what is this?"
    assert sent[1:5] == [
        "[caption] please describe this image",
        "[grounding] describe this image in detail",
        "[refer] the red car",
        "[detection] car",
    ]
    assert re.fullmatch(r"\[identify\] what is this \{<30><30><70><70>\}", sent[5])


def test_a_box_that_is_drawn_is_what_is_asked_about(page):
    show(page)
    edges = page.locator("#picture").bounding_box()
    at = [(0.1, 0.5), (0.6, 0.85)]
    (x1, y1), (x2, y2) = (
        (edges["x"] + x * edges["width"], edges["y"] + y * edges["height"]) for x, y in at
    )
    page.mouse.move(x1, y1)
    page.mouse.down()
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up()
    assert page.locator("[data-task=identify]").get_attribute("aria-pressed") == "true"
    assert "car" in ask(page, "")


def test_several_pictures_stay_at_hand_and_a_phrase_goes_back_to_its_own(page):
    names = ("car-and-tree", "cat", "three-apples")
    page.set_input_files("#file", [str(EXAMPLES / f"{name}.png") for name in names])
    page.locator("#strip .thumb").nth(2).wait_for()
    pressed = page.locator("#strip [aria-pressed=true]")
    assert pressed.get_attribute("aria-label") == "Picture 3"
    assert "apples" in ask(page, "[caption] describe this image.")
    page.get_by_role("button", name="Picture 1").press("Enter")
    page.locator("[aria-label='Picture 1'][aria-pressed=true]").wait_for()
    page.click("[data-task=grounding]")
    wait_for_answers(page, 2)
    page.get_by_role("button", name="Picture 2").click()
    page.locator("[aria-label='Picture 2'][aria-pressed=true]").wait_for()
    assert page.locator(".found").count() == 0
    page.click("[data-task=ask]")
    assert ask(page, "what is this?", 3) == "a cat"
    page.locator(".phrase").first.click()
    page.locator(".found.on").wait_for()
    assert pressed.get_attribute("aria-label") == "Picture 1"
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    page.keyboard.press("Control+k")
    assert not page.locator("#strip").is_visible()


def test_examples_are_shown_with_something_to_ask(page):
    page.locator("#examples .thumb").nth(3).wait_for()
    assert page.locator("#examples img").nth(2).get_attribute("alt") == "car and tree"
    page.locator("#examples .thumb").nth(2).press("Enter")
    page.locator("#frame").wait_for()
    page.locator("[data-task=refer][aria-pressed=true]").wait_for()
    assert page.input_value("#words") == "the red car"
    page.press("#words", "Enter")
    wait_for_answers(page, 1)
    assert page.locator(".found").count() == 1


def test_everything_is_done_by_keyboard_alone(page):
    with page.expect_file_chooser() as chooser:
        for _ in range(10):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "choose":
                break
        page.keyboard.press("Enter")
    chooser.value.set_files(str(EXAMPLES / "car-and-tree.png"))
    page.locator("#frame").wait_for()
    page.keyboard.type("what is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("this?")
    assert page.input_value("#words") == "what is\nthis?"
    page.keyboard.press("Enter")
    wait_for_answers(page, 1)
    page.locator("#box").focus()
    page.keyboard.press("Enter")
    before = page.locator("#drawn").bounding_box()
    for key in ("ArrowLeft", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    after = page.locator("#drawn").bounding_box()
    assert after["x"] < before["x"]
    assert after["y"] > before["y"]
    assert after["width"] > before["width"]
    page.keyboard.press("Delete")
    assert not page.locator("#drawn").is_visible()
    assert page.evaluate("document.activeElement.id") == "words"
    page.keyboard.press("Control+k")
    assert page.locator(".turn").count() == 0
    assert page.evaluate("document.activeElement.id") == "words"


def test_a_key_is_asked_for_and_kept_for_this_tab(open_page, tmp_path):
    with serve(tmp_path, TINYV_API_KEY="sesame") as locked:
        page = open_page(url=locked.url)
        page.locator("#options[open]").wait_for()
        page.fill("#key", "sesame")
        page.keyboard.press("Enter")
        show(page, "cat")
        assert ask(page, "what is this?") == "a cat"
        page.reload()
        page.locator("#model option").wait_for(state="attached")
        assert not page.locator("#options[open]").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_nothing_is_wider_than_the_screen_nor_hard_to_perceive(open_page, width, height, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(width, height, color_scheme=scheme, bypass_csp=True)

    def check():
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = axe.run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []

    page.locator("#model option").wait_for(state="attached")
    page.locator("#examples .thumb").nth(3).wait_for()
    check()
    page.set_input_files("#file", [str(EXAMPLES / f"{each}.png") for each in ("cat", "breakfast")])
    page.locator("#strip .thumb").nth(1).wait_for()
    page.click("[data-task=grounding]")
    wait_for_answers(page, 1)
    check()
    ask(page, "word " * 3000, 2)
    check()
    page.click("#settings")
    check()
