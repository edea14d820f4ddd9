"""Links of pages to source files, `../crystal_diffusion_jax/...`, lead to GitHub on the site."""

import posixpath
import re
from typing import Any

_LINK = re.compile(r"\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Rewrites relative links that leave the folder of the pages."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def rewritten(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        if target.startswith("docs/"):
            return match[0]
        return f"]({config.repo_url.rstrip('/')}/blob/main/{target}{match[2] or ''})"

    return _LINK.sub(rewritten, markdown)
