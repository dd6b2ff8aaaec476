"""The arguments and flags of `tinyv pull`, `tinyv push` and `tinyv rm`."""

from dataclasses import dataclass
from typing import Annotated

import typer

from tinyv_cli.options.declare import TASK, option, whole
from tinyv_cli.options.guidance.completion import list_models
from tinyv_cli.options.shared import DryRun, Force, Offline, Quiet

VariantOrigin = Annotated[
    str | None,
    typer.Argument(
        metavar="[VARIANT]",
        help="A finished variant: hub repository, URL or folder; else the public weights",
    ),
]

Ready = Annotated[
    str | None,
    option("--ready", metavar="NAME", help="A variant that is ready to answer, as 4bit"),
]

SourceStage = Annotated[
    int,
    option("--stage", metavar="NUMBER", help="Training stage, 1 to 4", reads=whole("--stage", 1)),
]

PullTarget = Annotated[
    str | None,
    option("--to", metavar="FOLDER", help="Folder of sources; of a variant, its name or folder"),
]

PullFrom = Annotated[
    str | None,
    option(
        "--from",
        metavar="PLACE",
        help="Take the files from this folder, URL or `hub`, nowhere else",
    ),
]

Verify = Annotated[bool, option("--verify", help="Hash what is there, fetch nothing")]

PushedName = Annotated[
    str, typer.Argument(metavar="NAME", help="A variant, as `tinyv list` has it, or its folder")
]

PushTarget = Annotated[
    str, typer.Argument(metavar="FOLDER", help="Where it goes, and is fetched from")
]

VariantNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME]...", help="Variants, as `tinyv list` has them", autocompletion=list_models
    ),
]

RemoveSources = Annotated[bool, option("--sources", help="The folder of public weights too")]

Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask first", rich_help_panel=TASK)]


@dataclass(frozen=True)
class PullArguments:
    """The words and flags of `tinyv pull`."""

    variant: VariantOrigin = None
    ready: Ready = None
    stage: SourceStage = 4
    to: PullTarget = None
    from_: PullFrom = None
    offline: Offline = False
    dry_run: DryRun = False
    verify: Verify = False
    force: Force = False
    quiet: Quiet = False


@dataclass(frozen=True)
class PushArguments:
    """The words and flags of `tinyv push`."""

    name: PushedName
    target: PushTarget
    force: Force = False
    quiet: Quiet = False


@dataclass(frozen=True)
class RemoveArguments:
    """The words and flags of `tinyv rm`."""

    names: VariantNames = None
    sources: RemoveSources = False
    yes: Yes = False
    quiet: Quiet = False
