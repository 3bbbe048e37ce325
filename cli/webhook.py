"""The command `latentgraph webhook-secret`: what who receives a server's webhooks needs to know that the server made them."""

from __future__ import annotations

from typing import Annotated

import typer

from latentgraph.graph import LatentGraphError

from .exits import ending
from .options import DataDir


def webhook_secret(
    url: Annotated[str, typer.Argument(help="The address that is called; what follows a '?' in it does not matter.")],
    data: DataDir = None,
) -> None:
    """Print the secret that signs the calls of one webhook; each address has its own. It works beside a running server."""
    from latentgraph.server.webhooks.addresses import AddressRules
    from latentgraph.server.webhooks.signing import load_key, secret_of, secret_text

    from .folders import data_folder

    with ending():
        folder = data or data_folder()
        if not folder.is_dir():
            raise LatentGraphError(
                f"there is no data folder {folder}; start a server on it first, or name another with --data"
            )
        checked = AddressRules.allowing(["0.0.0.0/0", "::/0"]).check(url)
        typer.echo(secret_text(secret_of(load_key(folder), str(checked))))
