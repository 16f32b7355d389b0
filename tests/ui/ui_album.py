"""Pictures of the UI for README and docs: small, of one look, and never of a page that is still loading."""

from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, expect

MAX_BYTES = 150_000
COLOURS = 128
MARGIN = 12
# The UI draws these while it waits for its server.
LOADING = "[data-slot=skeleton], .animate-pulse, .animate-spin, [aria-busy=true]"


class Album:
    """Where pictures are kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, name: str, page: Page, *parts: Locator) -> None:
        """Keep a picture of the rectangle that these parts of the page fill, with a margin around them."""
        expect(page.locator(LOADING)).to_have_count(0)
        expect(page.get_by_role("alert")).to_have_count(0)
        # Palettes make these a quarter of their size.
        taken = Image.open(BytesIO(page.screenshot(clip=_around(parts), animations="disabled")))
        picture = taken.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        file = self.directory / f"{name}.png"
        picture.save(file, optimize=True)
        assert file.stat().st_size <= MAX_BYTES, f"{file.name} has {file.stat().st_size} bytes, not {MAX_BYTES} at most"


def colours(part: Locator) -> int:
    """How many different colours a part of the page has: one, where nothing is drawn yet."""
    drawn = Image.open(BytesIO(part.screenshot(scale="css"))).convert("RGB")
    return len(drawn.getcolors(drawn.width * drawn.height) or ())


def _around(parts: tuple[Locator, ...]) -> FloatRect:
    boxes = []
    for part in parts:
        expect(part).to_be_visible()
        box = part.bounding_box()
        assert box is not None
        boxes.append(box)
    left = max(0, min(box["x"] for box in boxes) - MARGIN)
    top = max(0, min(box["y"] for box in boxes) - MARGIN)
    right = max(box["x"] + box["width"] for box in boxes) + MARGIN
    bottom = max(box["y"] + box["height"] for box in boxes) + MARGIN
    return FloatRect(x=left, y=top, width=right - left, height=bottom - top)
