"""The browser of a person who looks at the Prefect UI: the installed Chromium, headless, in a window of one size.

As a program it prints which browser that is, or says what to install.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Route, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
HERE = "127.0.0.1"
PATIENCE_MS = 60_000
# The browser's own errands. Without them it talks to nobody but the pages do, and those see `Visit.outside`.
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HERE}",
)
# The page of a run draws its graph anew for every frame, and without a graphics card that is costly.
FIVE_FRAMES_A_SECOND = """
window.requestAnimationFrame = callback => window.setTimeout(() => callback(performance.now()), 200);
window.cancelAnimationFrame = id => window.clearTimeout(id);
"""


class Visit:
    """A browser window, and what its pages asked of other machines. They get nothing from there."""

    def __init__(self, context: BrowserContext) -> None:
        self.outside: list[str] = []
        self.page = context.new_page()
        context.route("**/*", self._keep_inside)

    def _keep_inside(self, route: Route) -> None:
        if urlsplit(route.request.url).hostname == HERE:
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


def chromium() -> str:
    """The browser that `CHROMIUM` names, or the first of Chromium and Chrome on the PATH.

    :raises FileNotFoundError: There is none.
    """
    named = os.environ.get("CHROMIUM", "")
    found = next(filter(None, map(shutil.which, [named] if named else NAMES)), None)
    if found is None:
        if named:
            raise FileNotFoundError(f"CHROMIUM={named} is no program; give the path of a Chromium or Chrome")
        raise FileNotFoundError(
            "no Chromium or Chrome on the PATH; install one (Debian: apt-get install chromium), or set CHROMIUM"
        )
    return found


@contextmanager
def browsing() -> Iterator[Visit]:
    """Open a window of 1280 by 900 pixels, light, in English and in UTC, where nothing moves."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(
            viewport={"width": 1280, "height": 900},
            device_scale_factor=2,  # for pictures that are sharp
            color_scheme="light",
            locale="en-US",
            reduced_motion="reduce",
            timezone_id="UTC",
        )
        context.add_init_script(FIVE_FRAMES_A_SECOND)
        # For hangs only.
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield Visit(context)
        browser.close()


if __name__ == "__main__":
    try:
        print(chromium())
    except FileNotFoundError as error:
        sys.exit(f"make: {error}")
