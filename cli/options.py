"""The arguments and options that several commands take, each worded once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class PrecisionName(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    exact = "exact"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


File = Annotated[
    Path,
    typer.Argument(
        help="A workflow (YAML or JSON), the name of one of the package's, or a picture that latentgraph saved."
    ),
]
PrecisionOption = Annotated[
    PrecisionName | None,
    typer.Option(
        help="auto: fast. exact: float32 in a fixed order of operations. fp32, bf16, fp16: that format. Unless given: auto, or "
        "what a picture was made with."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A value for a parameter; may be repeated.")
]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", help="The folder for pictures.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
CacheDir = Annotated[Path | None, typer.Option(help="Where results are kept, instead of the user's cache folder.")]
Models = Annotated[
    Path | None,
    typer.Option(help="The folder with checkpoints/, vae/, loras/, ..., instead of the one in the user's data folder."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data", help="The server's folder for jobs, instead of the one in the user's data folder."),
]
