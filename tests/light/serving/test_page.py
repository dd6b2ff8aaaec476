"""The page in a browser: everything it must do, by pointer and by keyboard alone.

It needs Debian's chromium and the packages playwright and axe-playwright-python, as `.ci/run`
installs them.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.light.serving.served import EXAMPLES, PICTURES, serve

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
SIZES = [(360, 740), (1280, 800), (1900, 1000)]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        words = ["--no-sandbox", *FAKE_CAMERA]
        browser = library.chromium.launch(executable_path=CHROMIUM, args=words)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, served):
    """Opens the page, and checks at the end that it said nothing to the console."""
    said, contexts = [], []

    def make(width=1280, height=800, url=None, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda each: said.append(each.text))
        page.on("pageerror", lambda each: said.append(str(each)))
        outside = re.compile(r"^(?!(http://127\.0\.0\.1:|data:|blob:))")
        page.on("request", lambda each: outside.match(each.url) and said.append(each.url))
        page.goto(url or served.url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert [each for each in said if "401" not in each and "400" not in each] == []


@pytest.fixture
def page(open_page):
    return open_page()


def show(page, name="car-and-tree"):
    page.set_input_files("#file", str(EXAMPLES / f"{name}.png"))
    page.locator("#frame").wait_for()


def wait_for_answers(page, n):
    """Waits until n answers have ended; returns the text of the last."""
    page.locator(".answer:not(.going)").nth(n - 1).wait_for()
    return page.locator(".answer p").nth(n - 1).inner_text()


def ask(page, words, n=1):
    page.fill("#words", words)
    page.press("#words", "Enter")
    return wait_for_answers(page, n)


def slow(page, pieces):
    """Lets the server's answer be these pieces of text, and no more until it is stopped."""
    chunks = [{"choices": [{"delta": {"content": each}}]} for each in pieces]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body, content_type="text/event-stream"),
    )


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
