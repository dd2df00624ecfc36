"""Self-contained HTML: one file with its style, script and data inside, that asks nobody for anything."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_pages = Environment(
    loader=PackageLoader("evalkit.output.pages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def data_uri(content: bytes, kind: str) -> str:
    """A file of a media type, such as image/png, as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(name: str, data: Mapping[str, Any], *, connect: str = "'none'", **context: Any) -> str:
    """`<name>.html`, which extends base.html, with style.css and `<name>.js`; the script finds `data` as JSON in #data.

    The browser is told to run no other script, and to load nothing: whatever text stands in the page, it stays text.
    `connect` is what the script may talk to.
    """
    script = (resources.files(__name__) / f"{name}.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    style = (resources.files(__name__) / "style.css").read_text(encoding="utf-8")
    return _pages.get_template(f"{name}.html").render(data=data, policy=policy, style=style, script=script, **context)
