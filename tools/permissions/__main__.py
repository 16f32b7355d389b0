"""`make permissions`: write docs/permissions.md anew."""

from tools.permissions.page import PAGE, render

PAGE.write_text(render())
