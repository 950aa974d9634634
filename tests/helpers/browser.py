"""An installed Chromium, driven by Playwright; whatever a page says or asks for is kept."""

import contextlib
import shutil
from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
]


def missing() -> str | None:
    """Why no page can be driven here, None where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not installed (pip install playwright)"
    if not _chromium():
        return f"no {', '.join(NAMES)} on PATH (on Debian: apt-get install chromium)"
    return None


def _chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextlib.contextmanager
def launched() -> Iterator:
    """The browser; None where there is none."""
    if missing():
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS)
        yield browser
        browser.close()


def watch(tab, said: list[str], quiet: tuple[str, ...] = ()) -> None:
    """Add to `said` what the page in a tab writes to its console (but for messages of the types in
    `quiet`), its errors, requests that fail, and whatever it asks for that is not its own.
    """

    def console(message):
        if message.type not in quiet:
            said.append(message.text)

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # left
            said.append(f"{request.failure}: {request.url}")

    def asked(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            said.append(f"asked for {request.url}")

    tab.on("console", console)
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("requestfailed", failed)
    tab.on("request", asked)
