"""What somebody does on the page, in a browser."""

import json

from tests.light.serving.served import EXAMPLES

SIZES = [(360, 740), (1280, 800), (1900, 1000)]


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
