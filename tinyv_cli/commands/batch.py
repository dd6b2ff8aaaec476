"""Pictures and a prompt become a JSON line each, in a file that survives a kill.

The model is opened once, and not at all when every picture has its line.
"""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tinyv_cli.addresses import to_shown
from tinyv_cli.batch.finding import find_pictures, identify, names_pictures
from tinyv_cli.batch.output import Output, describe_done, open_output
from tinyv_cli.batch.sheet import check_sheet, write_sheet
from tinyv_cli.batch.sidecar import check_sidecars, restore_sidecars, write_sidecar
from tinyv_cli.commands.clustered import answer_on_cluster, check_cluster
from tinyv_cli.console import Console
from tinyv_cli.disk.paths import exists, is_file
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import PartlyFailedError, UsageError
from tinyv_cli.options.ask import check_asking, to_grammar
from tinyv_cli.options.batch import BatchArguments, to_settings
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.pictures.names import names_picture
from tinyv_cli.pictures.opening import read_stdin
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.request import describe_picture, to_text
from tinyv_cli.prompts.tasks import Question, read_corners

if TYPE_CHECKING:
    from tinyv_cli.session import AnswerOptions

STDIN = STDOUT = "-"

# Pictures between which the model is opened again where its two sides do not fit together.
_OFFLOADED_BLOCK = 32
# More would push each other out of the cache of image tokens before they are asked about again.
_MAX_CACHED = 400
_ANOTHER = "name another: `-o FILE.jsonl`"


@dataclass(frozen=True)
class Job:
    """What is left to do of a batch.

    Attributes:
        words: that open the pictures, by the names of their lines.
        question: what is asked about each.
        options: how answers are made.
        caches_images: whether image tokens may be taken from the cache and kept there.
    """

    words: Mapping[Path, str]
    question: Question
    options: "AnswerOptions"
    caches_images: bool


def answer_batch(arguments: BatchArguments) -> None:
    """Runs `tinyv batch`.

    Raises:
        UsageError: an option's value does not exist, or the output cannot be gone on with.
        InputError: there are no pictures, or the prompt cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it, or the output cannot be written.
        PartlyFailedError: at the end, when some pictures have no answer.
        KeyboardInterrupt: Ctrl-C; whole lines are kept.
    """
    console = Console(quiet=arguments.quiet)
    options = to_answer_options(arguments)  # raises before pictures are looked for
    check_cluster(arguments)
    paths, question = _read_words(arguments)
    check_question(question.at_longest())
    ask = _answer_here if arguments.cluster is None else answer_on_cluster
    try:
        answers = ask(arguments, paths, question, options, console)
    except KeyboardInterrupt:
        if arguments.output != STDOUT:
            console.write_note("what was answered is kept; the same command goes on from there")
        raise
    n_failed = sum(answer is None for answer in answers)
    if n_failed:
        hint = "their lines hold an `error`: `… | jq .error`"
        if is_file(arguments.output):
            show = f"jq -c 'select(.error)' {shlex.quote(arguments.output)}"
            hint = f"see why: `{show}`; when that is put right, `--retry` asks again"
        elif arguments.output != STDOUT:
            hint = "their rows hold an `error`; when that is put right, `--retry` asks again"
        raise PartlyFailedError(f"{n_failed} of {len(answers)} pictures have no answer", hint)


def _answer_here(
    arguments: BatchArguments,
    paths: Sequence[str],
    question: Question,
    options: "AnswerOptions",
    console: Console,
) -> list[str | None]:
    """Asks about pictures in this process; returns the answers, None where it failed."""
    pictures = find_pictures(paths, read_stdin, recurses=arguments.recursive)
    target = None if arguments.output == STDOUT else Path(arguments.output)
    if target is not None and identify(target) in map(identify, pictures):
        raise UsageError(f"the output {arguments.output} is one of the pictures", _ANOTHER)
    if arguments.sheet is not None:
        check_sheet(arguments.sheet, target)
    found = find_variant(arguments.model, arguments.template)
    options = replace(options, grammar=to_grammar(arguments, found.variant))
    whole = make_prompt(found.template, (), question.at_longest()).text
    n_positions = found.count_positions(whole, 1, arguments.max_tokens)
    demand = Demand(n_positions, may_offload=True, n_slots=arguments.parallel)
    wanted = to_backend_options(arguments)
    engine = plan_engine(found, wanted, demand, console.write_note, console.progress)
    are_absolute = all(each.is_absolute() for each in pictures)
    folder = "" if are_absolute else str(Path.cwd())
    settings = to_settings(arguments, question, engine, folder)
    kept: AbstractContextManager[Output | None] = nullcontext()
    if target is not None:
        kept = open_output(target, settings, fresh=arguments.fresh, retries=arguments.retry)
    with kept as output:
        answers = {} if output is None else dict(output.answers)
        if arguments.sidecar:
            check_sidecars(pictures, answers, replaces=arguments.fresh)
            restore_sidecars(pictures, answers)
        pending = {each: pictures[each] for each in pictures if identify(each) not in answers}
        if done := describe_done(len(pictures), len(pending), arguments.output):
            console.write_note(done)
        if pending:
            job = Job(pending, question, options, not arguments.no_cache)
            answers |= _answer(job, arguments.sidecar, engine, output, console)
        if arguments.sheet is not None and target is not None:
            write_sheet(arguments.sheet, target, settings, pictures, console.progress)
            console.write_note(f"{arguments.sheet} shows all of them")
    return [answers[identify(each)] for each in pictures]


def _read_words(arguments: BatchArguments) -> tuple[Sequence[str], Question]:
    """Separates what names pictures from the prompt, which comes last; on stdin, it is read.

    With a task or a box the prompt may be missing, and the last word name pictures too.

    Returns:
        The words for pictures, and the question with the prompt exactly as typed, from stdin
        without the newline that ends its last line.

    Raises:
        InputError: the prompt is not text.
        UsageError: pictures or prompt are missing, the prompt is a picture or folder, stdin is
            wanted twice, or flags do not go together.
    """
    check_asking(arguments)
    corners = None if arguments.at is None else read_corners(arguments.at)
    words = arguments.words or []
    if not words:
        raise UsageError(
            "the pictures and the prompt are missing",
            'name both: `tinyv batch FOLDER "what is it?" -o FILE.jsonl`',
        )
    [*paths, last] = words
    if arguments.task is not None or arguments.at is not None:
        # A `-` alone is the list of pictures; behind them, the prompt.
        if names_pictures(last) or not paths:
            return words, Question(None, arguments.task, corners)
    elif not paths:
        quoted = shlex.quote(to_shown(last))
        if last == STDIN or names_pictures(last):
            hint = f'ask something: `tinyv batch {quoted} "what is it?" -o FILE.jsonl`'
            raise UsageError("the prompt is missing, which comes last", hint)
        raise UsageError(
            f"the pictures are missing: {quoted} is no file or folder",
            f"name them before the prompt: `tinyv batch FOLDER {quoted} -o FILE.jsonl`",
        )
    elif exists(last) or names_picture(last):
        named = f"the file {last}" if exists(last) else describe_picture(last)
        raise UsageError(
            f"the prompt, which comes last, is {named}",
            'ask something behind it: `tinyv batch PATHS "what is it?" -o FILE.jsonl`; '
            "if it is meant as the prompt, pipe it, with `-` in its place",
        )
    if last == STDIN:
        if STDIN in paths:
            raise UsageError(
                "pictures and prompt cannot both come from stdin",
                'give the prompt itself: `tinyv batch - "what is it?" -o FILE.jsonl`',
            )
        last = to_text(read_stdin(), "the prompt on stdin")
    return paths, Question(last, arguments.task, corners)


def _answer(
    job: Job,
    has_sidecars: bool,
    engine: Engine,
    output: Output | None,
    console: Console,
) -> dict[Path, str | None]:
    """Asks about pictures, and writes each line as soon as it is there.

    Args:
        job: the pictures that have no line yet, and how they are asked about.
        has_sidecars: whether each answer also goes beside its picture.
        engine: that answers.
        output: takes the lines; None is stdout.
        console: takes notes, and the lines for stdout.

    Returns:
        The answers by `finding.identify` of each picture; None where it failed.
    """
    from tinyv_cli.batch.pipeline import answer_pictures
    from tinyv_cli.batch.tally import Tally

    n_pending = len(job.words)
    caches_images = job.caches_images and n_pending <= _MAX_CACHED
    answers: dict[Path, str | None] = {}
    size = _OFFLOADED_BLOCK if engine.is_offloaded else n_pending
    with console.progress("answering", n_pending) as bar:
        tally = Tally(bar)
        for begin in range(0, n_pending, size):
            block = dict(islice(job.words.items(), begin, begin + size))
            made = answer_pictures(
                engine, block, job.question, job.options, caches_images=caches_images
            )
            with closing(made):  # whatever ends the loop, so that no thread outlives it
                for line in made:
                    path, answer = Path(line["path"]), line.get("answer")
                    if output is None:
                        console.write_json(line)
                    else:
                        output.write(line)
                    answers[identify(path)] = answer
                    if has_sidecars and answer is not None:
                        write_sidecar(path, answer)
                    tally.count(line)
    tally.tell(console, job.options)
    return answers
