"""Pictures and a prompt become a JSON line each, in a file that survives a kill.

The model is opened once, and not at all when every picture has its line.
"""

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tinyv_cli.batch.finding import find_pictures, identify
from tinyv_cli.batch.output import Output, open_output
from tinyv_cli.batch.settings import Settings
from tinyv_cli.batch.sidecar import check_sidecars, restore_sidecars, write_sidecar
from tinyv_cli.console import Console
from tinyv_cli.devices.names import to_kind
from tinyv_cli.disk.paths import exists
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import ExitCode, TinyvError, UsageError
from tinyv_cli.options.batch import BatchArguments
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.pictures.names import names_picture
from tinyv_cli.pictures.opening import read_stdin
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.request import describe_picture, to_text
from tinyv_cli.variants.miniature import make_doubts

if TYPE_CHECKING:
    from tinyv_cli.session import AnswerOptions

STDIN = STDOUT = "-"

# Pictures between which the model is opened again where its two sides do not fit together.
_OFFLOADED_BLOCK = 32
# More would push each other out of the cache of image tokens before they are asked about again.
_MAX_CACHED = 400
_ANOTHER = "name another: `-o FILE.jsonl`"


class PicturesFailedError(TinyvError):
    """A batch came to its end, but some of its pictures have no answer."""

    exit_code = ExitCode.BATCH


def answer_batch(arguments: BatchArguments) -> None:
    """Runs `tinyv batch`.

    Raises:
        UsageError: an option's value does not exist, or the output cannot be gone on with.
        InputError: there are no pictures, or the prompt cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it, or the output cannot be written.
        PicturesFailedError: at the end, when some pictures have no answer.
        KeyboardInterrupt: Ctrl-C; whole lines are kept.
    """
    console = Console(quiet=arguments.quiet)
    options = to_answer_options(arguments)  # raises before pictures are looked for
    arguments = replace(arguments, prompt=_read_prompt(arguments))
    pictures = find_pictures(arguments.paths, read_stdin, recurses=arguments.recursive)
    target = None if arguments.output == STDOUT else Path(arguments.output)
    if target is not None and identify(target) in map(identify, pictures):
        raise UsageError(f"the output {arguments.output} is one of the pictures", _ANOTHER)
    found = find_variant(arguments.model, arguments.template)
    whole = make_prompt(found.template, (), arguments.prompt).text
    n_positions = found.count_positions(whole, 1, arguments.max_tokens)
    demand = Demand(n_positions, may_offload=True, n_slots=arguments.parallel)
    wanted = to_backend_options(arguments)
    engine = plan_engine(found, wanted, demand, console.write_note, console.progress)
    settings = _make_settings(arguments, engine, pictures)
    kept: AbstractContextManager[Output | None] = nullcontext()
    if target is not None:
        kept = open_output(target, settings, fresh=arguments.fresh, retries=arguments.retry)
    try:
        with kept as output:
            answers = {} if output is None else dict(output.answers)
            if arguments.sidecar:
                check_sidecars(pictures, answers, replaces=arguments.fresh)
                restore_sidecars(pictures, answers)
            pending = {each: pictures[each] for each in pictures if identify(each) not in answers}
            n_done = len(pictures) - len(pending)
            if n_done:
                done = f"{n_done} of {len(pictures)} pictures have their line in {arguments.output}"
                console.write_note(f"{done}; `--fresh` starts again")
            if pending:
                answers |= _answer(arguments, options, pending, engine, output, console)
    except KeyboardInterrupt:
        if target is not None:
            console.write_note("what was answered is kept; the same command goes on from there")
        raise
    n_failed = sum(answers[identify(each)] is None for each in pictures)
    if n_failed:
        problem = f"{n_failed} of {len(pictures)} pictures have no answer"
        show = f"jq -c 'select(.error)' {shlex.quote(arguments.output)}"
        hint = f"see why: `{show}`; when that is put right, `--retry` asks again"
        if target is None:
            hint = "their lines hold an `error`: `… | jq .error`"
        raise PicturesFailedError(problem, hint)


def _read_prompt(arguments: BatchArguments) -> str:
    """Reads the prompt exactly as typed; from stdin, without the newline that ends its last line.

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
    elif exists(prompt) or names_picture(prompt):
        named = f"the file {prompt}" if exists(prompt) else describe_picture(prompt)
        raise UsageError(
            f"the prompt, which comes last, is {named}",
            'ask something behind it: `tinyv batch PATHS "what is it?" -o FILE.jsonl`; '
            "if it is meant as the prompt, pipe it, with `-` in its place",
        )
    check_question(prompt)
    return prompt


def _make_settings(arguments: BatchArguments, engine: Engine, pictures: Iterable[Path]) -> Settings:
    """Collects everything that decides what the answers are."""
    manifest = engine.variant.manifest.to_json()
    are_absolute = all(each.is_absolute() for each in pictures)
    return Settings(
        prompt=arguments.prompt,
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


def _answer(
    arguments: BatchArguments,
    options: "AnswerOptions",
    pending: Mapping[Path, str],
    engine: Engine,
    output: Output | None,
    console: Console,
) -> dict[Path, str | None]:
    """Asks about pictures one after the other, and writes each line as soon as it is there.

    Args:
        arguments: with the prompt that is asked about each.
        options: how answers are made.
        pending: the pictures that have no line yet, with the words that open them.
        engine: that answers.
        output: takes the lines; None is stdout.
        console: takes notes, and the lines for stdout.

    Returns:
        The answers by `finding.identify` of each picture; None where it failed.
    """
    from tinyv_cli.batch.pipeline import answer_pictures

    started = perf_counter()
    caches_images = not arguments.no_cache and len(pending) <= _MAX_CACHED
    answers: dict[Path, str | None] = {}
    n_cut = n_no_drawing = 0
    size = _OFFLOADED_BLOCK if engine.is_offloaded else len(pending)
    with console.progress("answering", len(pending)) as bar:
        for begin in range(0, len(pending), size):
            block = dict(islice(pending.items(), begin, begin + size))
            made = answer_pictures(
                engine, block, arguments.prompt, options, caches_images=caches_images
            )
            with closing(made):  # whatever ends the loop, so that no thread outlives it
                for line in made:
                    path, answer = Path(line["path"]), line.get("answer")
                    if output is None:
                        console.write_json(line)
                    else:
                        output.write(line)
                    answers[identify(path)] = answer
                    if arguments.sidecar and answer is not None:
                        write_sidecar(path, answer)
                    n_cut += line.get("finish_reason") == "length"
                    n_no_drawing += line.get("drawing") is False
                    bar.advance()
    if n_no_drawing:
        console.write_warning(make_doubts(n_no_drawing, len(pending)))
    elapsed_s = perf_counter() - started
    rate = len(pending) / elapsed_s
    console.write_note(f"{len(pending)} pictures in {elapsed_s:.1f} s, {rate:.2f} a second")
    if n_cut:
        n = arguments.max_tokens
        console.write_note(f"{n_cut} answers were cut after {n} tokens; `-n {2 * n}` allows more")
    return answers
