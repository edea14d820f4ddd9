"""Runs a page in headless Chromium, with a script that does what a user does."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

_WATCH = """<script>
window.problems = [];
window.addEventListener("error", (e) => window.problems.push(String(e.message)));
const said = console.error;
console.error = (...all) => { window.problems.push(all.join(" ")); said(...all); };
</script>"""
# A busy machine draws later than the browser's clock says.
_USER = """<script>
window.addEventListener("load", async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const until = async (ready) => { for (let i = 0; i < 200 && !ready(); i++) await pause(100); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const viewer = document.getElementById("viewer"), seen = {};
  const scene = () => viewer.querySelector("canvas") && viewer._fullLayout?.scene?._scene;
  const drawn = () => until(scene);
  @@DO@@
  seen.errors = window.problems;
  document.title = JSON.stringify(seen);
});
</script>"""


def use(page: str, script: str, folder: Path) -> dict[str, Any]:
    """What a user of the page sees.

    Args:
      page: HTML.
      script: body of an asynchronous function that writes what it sees to the object `seen`;
        `pause`, `until`, `all`, `viewer` and `drawn` are at hand.
      folder: for the page and the browser's profile.
    """
    page = page.replace("<head>", "<head>" + _WATCH)
    file = folder / "page.html"
    file.write_text(page.replace("</body>", _USER.replace("@@DO@@", script) + "</body>"))
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", f"--user-data-dir={folder / 'profile'}",
         "--window-size=1250,1600", "--virtual-time-budget=60000", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    seen: dict[str, Any] = json.loads(html.unescape(title[1]))
    return seen
