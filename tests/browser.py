"""Runs a page in headless Chromium, with a script that does what a user does."""

import http.server
import json
import queue
import shutil
import subprocess
import threading
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
_USER = """<script>
window.addEventListener("load", async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const until = async (ready) => { for (let i = 0; i < 600 && !ready(); i++) await pause(100); };
  const all = (selector) => [...document.querySelectorAll(selector)];
  const press = (element, key) =>
    element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
  const enter = (element, value) => {
    element.value = value;
    for (const kind of ["input", "change"]) element.dispatchEvent(new Event(kind));
  };
  // Everything that is downloaded, by name, in base64.
  const saved = {}, blobs = new Map(), downloads = [];
  URL.createObjectURL = (blob) => {
    const name = "#" + blobs.size;
    blobs.set(name, blob);
    return name;
  };
  HTMLAnchorElement.prototype.click = function () {
    const reader = new FileReader();
    downloads.push(new Promise((done) => {
      reader.onload = () => { saved[this.download] = reader.result.split(",")[1]; done(); };
    }));
    reader.readAsDataURL(blobs.get(this.getAttribute("href")));
  };
  const seen = {};
  try {
    @@DO@@
  } catch (error) {
    window.problems.push(String(error.stack));
  }
  await Promise.all(downloads);
  seen.saved = saved;
  seen.errors = window.problems;
  fetch("@@WHERE@@", {method: "POST", mode: "no-cors", body: JSON.stringify(seen)});
});
</script>"""


def use(page: str, script: str, folder: Path) -> dict[str, Any]:
    """What a user of the page sees.

    Args:
      page: HTML.
      script: body of an asynchronous function that writes what it sees to the object `seen`;
        `pause`, `until`, `all`, `press` and `enter` are at hand.
      folder: for the page and the browser's profile.

    Returns:
      `seen`, with "errors", and in "saved" the content of each file that was downloaded, by name
      and in base64.
    """
    # The page says itself when it is done, since a busy machine may draw at any time.
    answers: queue.Queue[bytes] = queue.Queue()

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answers.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        user = _USER.replace("@@DO@@", script)
        user = user.replace("@@WHERE@@", f"http://127.0.0.1:{server.server_port}")
        file = folder / "page.html"
        page = page.replace("<head>", "<head>" + _WATCH).replace("</body>", user + "</body>")
        file.write_text(page)
        browser = subprocess.Popen(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
             f"--user-data-dir={folder / 'profile'}", "--window-size=1250,1600",
             "--remote-debugging-port=0", file.as_uri()],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            seen: dict[str, Any] = json.loads(answers.get(timeout=180))
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    return seen
