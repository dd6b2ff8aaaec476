"""A batch on a cluster: the rows of a source become lines, from workers on one machine or many."""

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyv_cli.batch.output import describe_done, to_file
from tinyv_cli.console import Console, to_size
from tinyv_cli.errors import DeviceError, UsageError
from tinyv_cli.options.ask import to_grammar
from tinyv_cli.options.batch import BatchArguments, to_settings
from tinyv_cli.options.shared import to_backend_options
from tinyv_cli.pictures.opening import read_stdin
from tinyv_cli.prompts.tasks import Question

if TYPE_CHECKING:
    from tinyv_cli.batch.cluster.captioner import CaptionOptions
    from tinyv_cli.batch.cluster.run import Cluster
    from tinyv_cli.batch.cluster.sources import Source
    from tinyv_cli.batch.settings import Settings
    from tinyv_cli.session import AnswerOptions

_EXTRA = ("ray", "pyarrow", "fsspec", "pandas")


def check_cluster(arguments: BatchArguments) -> None:
    """Checks that flags go together, and that Ray is installed where it is wanted.

    Raises:
        UsageError: it is not so.
    """
    if arguments.cluster is None:
        for flag in ("workers", "variant_from", "column", "id"):
            if getattr(arguments, flag) is not None:
                shown = f"--{flag.replace('_', '-')}"
                raise UsageError(f"{shown} goes with --cluster", "add it: `--cluster local`")
        return
    for flag, is_given in (("--sidecar", arguments.sidecar), ("--sheet", arguments.sheet)):
        if is_given:
            raise UsageError(f"{flag} and --cluster exclude each other", f"leave {flag} out")
    try:
        import tinyv_cli.batch.cluster.run  # noqa: F401 - whether it can be
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise UsageError(
            f"{error.name}, which `--cluster` needs, is not installed",
            "install it: `pip install 'tinyv[ray]'`",
        ) from error


def answer_on_cluster(
    arguments: BatchArguments,
    words: Sequence[str],
    question: Question,
    options: "AnswerOptions",
    console: Console,
) -> list[str | None]:
    """Asks about rows on a cluster; returns their answers, None where it failed.

    Args:
        arguments: as typed; `check_cluster` let them through.
        words: that name the rows.
        question: asked about each.
        options: how answers are made, without a grammar.
        console: takes notes, and the lines for stdout.

    Raises:
        TinyvError: as `answer_batch`.
    """
    from tinyv_cli.batch.cluster.parts import open_lines
    from tinyv_cli.batch.cluster.run import Cluster
    from tinyv_cli.batch.cluster.sources import Columns, find_rows

    columns = Columns(arguments.column, arguments.id)
    source = find_rows(words, read_stdin, columns, recurses=arguments.recursive)
    to_key = to_file if source.are_files else Path
    is_relative = source.are_files and not all(Path(each).is_absolute() for each in source.words)
    folder = str(Path.cwd()) if is_relative else ""
    (model, worker, settings), resources = _plan(arguments, question, options, folder, console)
    cluster = Cluster(arguments.cluster or "", arguments.workers or 1, resources)
    target, flags = arguments.output, {"fresh": arguments.fresh, "retries": arguments.retry}
    with nullcontext() if target == "-" else open_lines(target, settings, to_key, **flags) as kept:
        answers = {} if kept is None else kept.answers
        by_key = {to_key(name): name for name in source.names}

        def take(line: dict[str, Any]) -> bool:
            key = to_key(line["path"])
            if key in answers:  # a worker that died had answered it already
                return False
            if kept is None:
                console.write_json(line)
            else:
                kept.write(line)
            answers[key] = line.get("answer")
            return True

        pending = [name for key, name in by_key.items() if key not in answers]
        if done := describe_done(len(by_key), len(pending), target):
            console.write_note(done)
        while pending:
            n_before = len(answers)
            _run(cluster, source, pending, (model, question, worker), take, console)
            if len(answers) == n_before:
                raise DeviceError(
                    f"{len(pending)} rows came back without a line", "run the same command again"
                )
            pending = [name for key, name in by_key.items() if key not in answers]
        return [answers[key] for key in by_key]


def _plan(
    arguments: BatchArguments,
    question: Question,
    options: "AnswerOptions",
    folder: str,
    console: Console,
) -> "tuple[tuple[str, CaptionOptions, Settings], dict[str, float]]":
    """Plans a worker: its variant, its options, the settings that are kept, and what it takes.

    Raises:
        TinyvError: the variant cannot be had, or this machine has no room for the workers.
    """
    from tinyv_cli.batch.cluster.captioner import CaptionOptions, plan_captioner, to_resources
    from tinyv_cli.batch.cluster.run import LOCAL
    from tinyv_cli.batch.cluster.weights_copy import copy_variant

    backend = to_backend_options(arguments)
    worker = CaptionOptions(
        answer=options,
        choices=arguments.choices,
        schema=arguments.schema,
        template=arguments.template,
        backend=replace(backend, threads=backend.threads or 1),
        parallel=arguments.parallel,
        variant_from=arguments.variant_from,
        folder=folder,
    )
    model = arguments.model
    if arguments.variant_from is not None:
        model = copy_variant(arguments.variant_from, model).name
    engine = plan_captioner(model, question, worker, console.write_note)
    to_grammar(arguments, engine.variant)  # refuses before anything is started
    settings = to_settings(arguments, question, engine, folder)
    needed, n = engine.needed_bytes, arguments.workers or 1
    if arguments.cluster == LOCAL and engine.memory and n * needed > engine.memory.limit_bytes:
        limit = engine.memory.limit_bytes
        raise DeviceError(
            f"{n} workers need {to_size(n * needed, 2)}, {to_size(limit, 2)} are free",
            f"take fewer: `--workers {limit // needed}`",
        )
    # By the name on the driver: "the newest" may be another one elsewhere.
    model = engine.variant.name if model is None else model
    worker = replace(worker, variant_hash=settings.variant, schema=settings.schema)
    return (model, worker, settings), to_resources(engine)


def _run(
    cluster: "Cluster",
    source: "Source",
    pending: Sequence[str],
    captioner: tuple[Any, ...],
    take: Callable[[dict[str, Any]], bool],
    console: Console,
) -> None:
    """Runs the workers over rows, counts and keeps their lines."""
    from tinyv_cli.batch.cluster.run import answer_rows, describe_stall
    from tinyv_cli.batch.cluster.watchdog import watch_for_stalls
    from tinyv_cli.batch.tally import Tally

    with console.progress("answering", len(pending)) as bar:
        tally = Tally(bar)
        with (
            watch_for_stalls(lambda: describe_stall(cluster), console.write_note) as see,
            closing(answer_rows(cluster, source, pending, captioner)) as lines,
        ):
            for line in lines:
                see()
                if take(line):
                    tally.count(line)
    tally.tell(console, captioner[2].answer)
