"""The flags of `tinyv serve`."""

from dataclasses import dataclass
from typing import Annotated

from tinyv_cli.options.declare import option, real, split_lines, whole
from tinyv_cli.options.shared import EngineArguments, Parallel, Quiet

Host = Annotated[
    str, option("--host", metavar="ADDRESS", help="Address of this computer to answer on")
]

Port = Annotated[
    int, option("--port", metavar="NUMBER", help="Port to answer on", reads=whole("--port", 0))
]

Queue = Annotated[
    int,
    option("--queue", metavar="COUNT", help="Questions that may wait", reads=whole("--queue", 1)),
]

KeepAlive = Annotated[
    str,
    option(
        "--keep-alive",
        metavar="TIME",
        help="How long an unused model stays: 5m, 0 not at all, -1 for ever",
    ),
]

ApiKeyFile = Annotated[
    str | None,
    option("--api-key-file", metavar="FILE", help="A key a line; or the variable TINYV_API_KEY"),
]

NoAuth = Annotated[bool, option("--no-auth", help="Answer other computers without a key")]

AllowHost = Annotated[
    list[str] | None,
    option(
        "--allow-host",
        metavar="NAME",
        help="Another name of this server; may stand again",
        splits=split_lines,
    ),
]

AllowOrigin = Annotated[
    list[str] | None,
    option(
        "--allow-origin",
        metavar="URL",
        help="A page elsewhere that may ask; may stand again",
        splits=split_lines,
    ),
]

FetchImages = Annotated[bool, option("--fetch-images", help="Fetch pictures from public addresses")]

MaxImages = Annotated[
    int | None,
    option(
        "--max-images",
        metavar="COUNT",
        help="Of more pictures in a question, so many evenly spread",
        reads=whole("--max-images", 1),
    ),
]

Grace = Annotated[
    float,
    option(
        "--grace",
        metavar="SECONDS",
        help="Time for answers that are under way at the end",
        reads=real("--grace", 0),
    ),
]


@dataclass(frozen=True, kw_only=True)
class ServeArguments(EngineArguments):
    """The flags of `tinyv serve`."""

    host: Host = "127.0.0.1"
    port: Port = 11435  # Ollama has 11434
    parallel: Parallel = 1  # the only number with which the same question has the same answer
    queue: Queue = 16
    keep_alive: KeepAlive = "5m"
    api_key_file: ApiKeyFile = None
    no_auth: NoAuth = False
    allow_host: AllowHost = None
    allow_origin: AllowOrigin = None
    fetch_images: FetchImages = False
    max_images: MaxImages = None
    grace: Grace = 10.0
    quiet: Quiet = False
