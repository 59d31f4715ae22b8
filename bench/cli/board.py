"""``bench board``: all results as pages to look at."""

from __future__ import annotations

import time
import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import Results, err, out
from bench.errors import BenchError


def board(
    to: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("site"),
    clips: Annotated[int, typer.Option(help="Clips of each row that get a page, where they are kept.", min=0)] = 1,
    patience: Annotated[
        float, typer.Option(help="Seconds a clip may take a row that is asked to purify what is shown.", min=0)
    ] = 2.0,
    results: Results = Path("results"),
    serve: Annotated[bool, typer.Option("--serve", help="Serve the folder on this machine until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(help="Of --serve.", min=0, max=65535)] = 8000,
    open_: Annotated[bool, typer.Option("--open", help="Open the front in the browser.")] = False,
) -> None:
    """Build a site of all results: a sortable front, a page for every row, and clips to watch.

    It is made of result files and kept clips alone, and needs no server: open index.html.
    """
    begun = time.monotonic()
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), console=err, transient=True) as progress:
        task = progress.add_task("Reading ...", total=1.0)
        from bench.board.site import build

        built = build(
            results,
            to,
            clips=clips,
            patience=patience,
            working_on=lambda what, share: progress.update(task, description=what, completed=share),
        )
    out.print(
        f"{built.front}: {built.entries} rows, {built.clips} clips; {built.files} files, {built.bytes / 1e6:.1f} MB in "
        f"{time.monotonic() - begun:.0f} s.",
        highlight=False,
    )
    if open_ and not serve:
        webbrowser.open(built.front.resolve().as_uri())
    if serve:
        _serve(to, port, open_)


def _serve(folder: Path, port: int, open_: bool) -> None:
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise BenchError(f"Cannot serve on port {port}: {error.strerror or error}; choose another --port.") from error
    address = f"http://127.0.0.1:{server.server_port}/"
    out.print(f"Serving on {address}; Ctrl-C ends it.", highlight=False)
    if open_:
        webbrowser.open(address)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            err.print("Stopped.")
