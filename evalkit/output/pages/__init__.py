"""Self-contained HTML pages: one file that contains its style, script and data, and loads nothing else."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_pages = Environment(
    loader=PackageLoader("evalkit.output.pages", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def data_uri(content: bytes, kind: str) -> str:
    """Return a file of a media type, such as image/png, as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def page(name: str, data: Mapping[str, Any], *, connect: str = "'none'", before: Sequence[str] = (), **context: Any) -> str:
    """Return `<name>.html`, which extends base.html, with style.css and `<name>.js`; the script reads `data` from #data as JSON.

    `before` are the names of further scripts, which stand before it in the same element.

    The page's security policy allows no other script and no other file, so text in the page cannot run or load anything.
    `connect` is the connect-src of the policy: the addresses that the script may request.
    """
    script = "\n".join((resources.files(__name__) / f"{one}.js").read_text(encoding="utf-8") for one in (*before, name))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    style = (resources.files(__name__) / "style.css").read_text(encoding="utf-8")
    return _pages.get_template(f"{name}.html").render(data=data, policy=policy, style=style, script=script, **context)
