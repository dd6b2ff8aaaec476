"""A browser, and the page in it."""

import re
import shutil

import pytest

FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="module")
def browser():
    """Needs Debian's chromium and the package playwright, as `.ci/run` installs them."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as library:
        words = ["--no-sandbox", *FAKE_CAMERA]
        browser = library.chromium.launch(executable_path=chromium, args=words)
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
