"""The arguments and flags of `tinyv chat`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from tinyv_cli.options.declare import ASK
from tinyv_cli.options.shared import (
    AllowPrivate,
    AnswerArguments,
    Json,
    Offline,
    Quiet,
    Stop,
)

FirstPictureName = Annotated[
    str | None,
    typer.Argument(
        metavar="[PICTURE]", help="A picture; /image shows another", rich_help_panel=ASK
    ),
]


@dataclass(frozen=True, kw_only=True)
class ChatArguments(AnswerArguments):
    """The words and flags of `tinyv chat`."""

    picture: FirstPictureName = None
    stop: Stop = None
    allow_private: AllowPrivate = False
    offline: Offline = False
    json: Json = False
    quiet: Quiet = False
