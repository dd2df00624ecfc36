"""evalkit app: a local page for photographs."""

import os
import signal
import socket
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape

from evalkit.cli.options import ConfFolder, Overrides
from evalkit.errors import UserError, first_line

LOCAL = "127.0.0.1"


def serve(
    overrides: Overrides = None,
    images: Annotated[Optional[Path], typer.Option(help="A folder of photographs to offer; default a few embedded digits.")] = None,  # noqa: UP045
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8421,
    host: Annotated[str, typer.Option(help="The address to listen on; any but this machine's own lets others in.")] = LOCAL,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    conf: ConfFolder = None,
) -> None:
    """Ask a network why on a local page: any photograph, class, layer and method, with a slider for the threshold.

    evalkit app model=resnet50 --images photos
    """
    from evalkit.config.compose import compose_jobs

    if images is not None and not images.is_dir():
        raise UserError(f"--images {images} is no folder")
    given = [*(overrides or []), *([] if images is None else ["data=image_folder", f"data.root={images}"])]
    compose_jobs(given, conf=conf)  # before torch is imported, so that a mistake is told at once
    with _listening(host, port) as listener:
        import uvicorn

        from evalkit.photos.app.explainer import Explainer, Network
        from evalkit.photos.app.offer import open_album, open_offer
        from evalkit.photos.app.server import application

        offer = open_offer(given, conf)
        explainer = Explainer(offer, open_album(offer.config))
        explainer.session(Network(model=offer.config.model.name))  # a mistake is told here, not on the page
        server = uvicorn.Server(uvicorn.Config(application(explainer, {host, socket.gethostname()}), log_config=None, access_log=False))
        for leaving in (signal.SIGINT, signal.SIGTERM):
            signal.signal(leaving, server.handle_exit)  # from now on, and not only once it runs
        _announce(host, listener.getsockname()[1], browser=browser)
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Raises UserError where nobody can listen there."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as reason:
        why = os.strerror(reason.errno) if reason.errno and reason.errno > 0 else first_line(reason)  # Python's own names the address twice
        raise UserError(f"cannot listen on {host}, port {port} ({why}): choose another --port, or --port 0") from reason


def _announce(host: str, port: int, *, browser: bool) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not _is_local(host):
        said = f"everybody who reaches {host} can use this page: its photographs, networks and processor"
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[yellow]warning:[/yellow] {escape(said)}")
    Console(highlight=False, soft_wrap=True).print(f"{escape(address)} (Ctrl-C ends)")
    if browser:
        webbrowser.open(address)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
