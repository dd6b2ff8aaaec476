"""Pictures and a prompt become a JSON line each, in a file that survives a kill; computes nothing.

The model is opened once, and not at all when every picture has its line.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from tinyv_cli.batch.finding import find_pictures, identify
from tinyv_cli.batch.output import open_output
from tinyv_cli.batch.settings import Settings
from tinyv_cli.batch.sidecar import check_sidecars, restore_sidecars, write_sidecar
from tinyv_cli.console import Console
from tinyv_cli.devices.names import to_kind
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import ExitCode, TinyvError, UsageError
from tinyv_cli.options.batch import BatchArguments
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.pictures.opening import read_stdin
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.request import to_text

STDIN = STDOUT = "-"

# Pictures between which the model is opened again where its two sides do not fit together.
_OFFLOADED_BLOCK = 32
# More would push each other out of the cache of image tokens before they are asked about again.
_MAX_CACHED = 400


class PicturesFailedError(TinyvError):
    """A batch came to its end, but some of its pictures have no answer."""

    exit_code = ExitCode.BATCH


class Lines(Protocol):
    """Where lines go."""

    @property
    def answers(self) -> Mapping[Path, str | None]:
        """By `finding.identify` of each picture that has its line; None where it failed."""

    def write(self, line: dict[str, Any]) -> None:
        """Adds a picture's line."""


class StdoutLines:
    """Lines on stdout, of which nobody reads any again."""

    def __init__(self, console: Console) -> None:
        self.answers: dict[Path, str | None] = {}
        self._console = console

    def write(self, line: dict[str, Any]) -> None:
        """Writes a picture's line."""
        self._console.write_json(line)
        self.answers[identify(Path(line["path"]))] = line.get("answer")


def answer_batch(arguments: BatchArguments) -> None:
    """Does what `tinyv batch` says.

    Raises:
        UsageError: an option's value does not exist, or the output cannot be gone on with.
        InputError: there are no pictures, or the prompt cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it, or the output cannot be written.
        PicturesFailedError: at the end, when some pictures have no answer.
        KeyboardInterrupt: Ctrl-C; whole lines are kept.
    """
    console = Console(quiet=arguments.quiet)
    prompt = _read_prompt(arguments)
    pictures = find_pictures(arguments.paths, read_stdin, recurses=arguments.recursive)
    _check_output(arguments, pictures)
    engine = _plan(arguments, prompt, console)
    settings = _make_settings(arguments, prompt, engine, pictures)
    try:
        with _open_lines(arguments, settings, console) as lines:
            if arguments.sidecar:
                check_sidecars(pictures, lines.answers, replaces=arguments.fresh)
                restore_sidecars(pictures, lines.answers)
            pending = [each for each in pictures if identify(each) not in lines.answers]
            _tell_done(console, arguments, pictures, lines)
            if pending:
                _answer(arguments, prompt, pending, engine, lines, console)
    except KeyboardInterrupt:
        if arguments.output != STDOUT:
            console.write_note("what was answered is kept; the same command goes on from there")
        raise
    _check_answered(arguments, pictures, lines)


def _read_prompt(arguments: BatchArguments) -> str:
    """The prompt exactly as typed; from stdin, without the newline that ends its last line.

    Raises:
        InputError: it is blank or not text.
        UsageError: it is a picture or folder, so that none was given, or stdin is wanted twice.
    """
    prompt = arguments.prompt
    if prompt == STDIN:
        if STDIN in arguments.paths:
            raise UsageError(
                "pictures and prompt cannot both come from stdin",
                'give the prompt itself: `tinyv batch - "what is it?" -o FILE.jsonl`',
            )
        prompt = to_text(read_stdin(), "the prompt on stdin")
    else:
        with suppress(OSError, ValueError):  # a prompt is often too long for a file's name
            if Path(prompt).exists():
                raise UsageError(
                    f"the prompt, which comes last, is the file {prompt}",
                    'ask something behind it: `tinyv batch PATHS "what is it?" -o FILE.jsonl`',
                )
    check_question(prompt)
    return prompt


def _check_output(arguments: BatchArguments, pictures: Sequence[Path]) -> None:
    """Keeps a picture from being taken for the output.

    Raises:
        UsageError: the output is one of the pictures.
    """
    output = identify(Path(arguments.output))
    if arguments.output != STDOUT and any(identify(each) == output for each in pictures):
        raise UsageError(
            f"the output {arguments.output} is one of the pictures", "name another: `-o FILE.jsonl`"
        )


def _plan(arguments: BatchArguments, prompt: str, console: Console) -> Engine:
    """Plans for the prompt, which is every picture's; opens nothing."""
    found = find_variant(arguments.model, arguments.template)
    whole = make_prompt(found.template, (), prompt).text
    demand = Demand(found.count_positions(whole, 1, arguments.max_tokens), may_offload=True)
    wanted = to_backend_options(arguments)
    return plan_engine(found, wanted, demand, console.write_note, console.progress)


def _make_settings(
    arguments: BatchArguments, prompt: str, engine: Engine, pictures: Sequence[Path]
) -> Settings:
    """Collects all that decides over the answers."""
    manifest = engine.variant.manifest.to_json()
    are_absolute = all(each.is_absolute() for each in pictures)
    return Settings(
        prompt=prompt,
        model=engine.variant.name,
        variant=hashlib.sha256(manifest.encode()).hexdigest(),
        template=engine.template.name,
        max_tokens=arguments.max_tokens,
        temp=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        min_p=arguments.min_p,
        repeat_penalty=arguments.repeat_penalty,
        seed=arguments.seed,
        ctx_size=arguments.context_length,
        device=to_kind(engine.options.device),
        folder="" if are_absolute else str(Path.cwd()),
    )


def _open_lines(
    arguments: BatchArguments, settings: Settings, console: Console
) -> AbstractContextManager[Lines]:
    """Where lines go: a file that is begun or gone on with, or stdout."""
    if arguments.output == STDOUT:
        return nullcontext(StdoutLines(console))
    return open_output(
        Path(arguments.output), settings, fresh=arguments.fresh, retries=arguments.retry
    )


def _tell_done(
    console: Console, arguments: BatchArguments, pictures: Sequence[Path], lines: Lines
) -> None:
    """Says how much an earlier run has done."""
    n_done = sum(identify(each) in lines.answers for each in pictures)
    if n_done:
        console.write_note(
            f"{n_done} of {len(pictures)} pictures have their line in {arguments.output}; "
            "`--fresh` starts again"
        )


def _answer(
    arguments: BatchArguments,
    prompt: str,
    pending: Sequence[Path],
    engine: Engine,
    lines: Lines,
    console: Console,
) -> None:
    """Asks about pictures one after the other, and writes each line as soon as it is there."""
    from tinyv_cli.batch.pipeline import answer_pictures

    started = perf_counter()
    options = to_answer_options(arguments)
    caches_images = not arguments.no_cache and len(pending) <= _MAX_CACHED
    n_cut = 0
    size = _OFFLOADED_BLOCK if engine.is_offloaded else len(pending)
    with console.progress("answering", len(pending)) as bar:
        for begin in range(0, len(pending), size):
            block = pending[begin : begin + size]
            made = answer_pictures(engine, block, prompt, options, caches_images=caches_images)
            with closing(made):  # whatever ends the loop, so that no thread outlives it
                for line in made:
                    lines.write(line)
                    if arguments.sidecar and "answer" in line:
                        write_sidecar(Path(line["path"]), line["answer"])
                    n_cut += line.get("finish_reason") == "length"
                    bar.advance()
    elapsed_s = perf_counter() - started
    rate = len(pending) / elapsed_s
    console.write_note(f"{len(pending)} pictures in {elapsed_s:.1f} s, {rate:.2f} a second")
    if n_cut:
        n = arguments.max_tokens
        console.write_note(f"{n_cut} answers were cut after {n} tokens; `-n {2 * n}` allows more")


def _check_answered(arguments: BatchArguments, pictures: Sequence[Path], lines: Lines) -> None:
    """Tells of pictures without an answer, of this run or an earlier one.

    Raises:
        PicturesFailedError: there are some.
    """
    n_failed = sum(lines.answers[identify(each)] is None for each in pictures)
    if not n_failed:
        return
    problem = f"{n_failed} of {len(pictures)} pictures have no answer"
    if arguments.output == STDOUT:
        raise PicturesFailedError(problem, "their lines hold an `error`: `… | jq .error`")
    show = f"jq -c 'select(.error)' {shlex.quote(arguments.output)}"
    raise PicturesFailedError(
        problem, f"see why: `{show}`; when that is put right, `--retry` asks again"
    )
