"""evalkit app: a local page for photographs."""

import os
import signal
import socket
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli.console import note, show
from evalkit.cli.options import ConfFolder, Overrides, expanded, size_in_data
from evalkit.errors import UserError, first_line

LOCAL = "127.0.0.1"


def serve(
    overrides: Overrides = None,
    images: Annotated[
        Path | None, typer.Option(callback=expanded, help="A folder of photographs to choose from; default a few embedded digits.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 for any free port.")] = 8421,
    host: Annotated[str, typer.Option(help="The address to listen on; any but a loopback address admits other machines.")] = LOCAL,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    conf: ConfFolder = None,
) -> None:
    """Explain a network's decisions on a local page: any photograph, class, layer and method, with a slider for the threshold.

    evalkit app model=resnet50 --images photos
    """
    from evalkit.config.compose import compose_jobs

    if images is not None and not images.is_dir():
        raise UserError(f"--images {images} is not a folder")
    overrides = [*(overrides or []), *([] if images is None else ["data=image_folder", f"data.root={images}"])]
    config = compose_jobs(overrides, conf=conf, size=size_in_data)[0].config  # so that errors are reported before torch is imported
    config.model.only_layer("evalkit app, whose page has a choice of layers,")
    with _listening(host, port) as listener:
        import uvicorn

        from evalkit.photos.app.explainer import Explainer, Network
        from evalkit.photos.app.offer import open_album, open_offer
        from evalkit.photos.app.server import application

        offer = open_offer(overrides, conf)
        explainer = Explainer(offer, open_album(offer.config))
        explainer.session(Network(model=offer.config.model.name))  # so that errors are reported here, not on the page
        server = uvicorn.Server(uvicorn.Config(application(explainer, {host, socket.gethostname()}), log_config=None, access_log=False))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)  # the server itself does so only once it runs
        _announce(host, listener.getsockname()[1], browser=browser)
        server.run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises UserError where that is not possible."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as reason:
        # Python's own message repeats the address.
        why = os.strerror(reason.errno) if reason.errno and reason.errno > 0 else first_line(reason)
        raise UserError(f"cannot listen on {host}, port {port} ({why}): choose another --port, or --port 0") from reason


def _announce(host: str, port: int, *, browser: bool) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not _is_local(host):
        warning = f"anyone who can reach {host} can use this page with its photographs, networks and processor"
        note(warning, "[yellow]warning:[/yellow] ")
    show(f"{address} (Ctrl-C ends)")
    if browser:
        webbrowser.open(address)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
