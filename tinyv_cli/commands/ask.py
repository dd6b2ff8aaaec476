"""Pictures and a question become answers on stdout, or JSON documents; computes nothing.

What is cheap to find wrong is checked first: words, flags, schema and target; then the pictures.
Only then are gigabytes opened.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyv_cli.answers.report import describe_boxes, make_document, make_stats
from tinyv_cli.console import Console
from tinyv_cli.engine import Demand, Engine, FoundVariant, OpenEngine, find_variant, plan_engine
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.options.ask import AskArguments
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.tasks import Corners, check_task, make_question, read_corners, to_box
from tinyv_cli.variants.manifest import Variant

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from tinyv_cli.answers.reply import Answer, Reply
    from tinyv_cli.drawing.on_terminal import Screen
    from tinyv_cli.prompts.request import AskRequest
    from tinyv_cli.session import AnswerOptions, Grammar


@dataclass(frozen=True)
class Asked:
    """One picture and what is asked about it.

    Attributes:
        name: as the user typed it.
        picture: upright, mode RGB.
        question: with its task's tag and box.
        pixels: (1, 3, S, S) float32.
    """

    name: str
    picture: "Image"
    question: str
    pixels: "np.ndarray"


def answer_question(arguments: AskArguments) -> None:
    """Does what `tinyv ask` says.

    Raises:
        UsageError: words, a template, device or number that make no sense.
        InputError: a picture or the question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C, after what was said until then has been written.
    """
    from tinyv_cli.backends.prefetch import PrefetchingEncoder

    console = Console(quiet=arguments.quiet)
    request = _read_request(arguments)
    options = to_answer_options(arguments, arguments.stop)
    corners = None if arguments.at is None else read_corners(arguments.at)
    screen = _check_drawing(request, arguments)
    found = find_variant(arguments.model, arguments.template)
    options = replace(options, grammar=_make_grammar(arguments, found.variant))
    asked = _open_pictures(request, corners, arguments, found.image_px)
    engine = _plan(asked, arguments, found, console)
    if arguments.show_prompt or arguments.verbose:
        n_images = len(asked) if arguments.together else 1
        prompt = make_prompt(engine.template, (), asked[0].question, n_images)
        console.write_report(prompt.text)
    first = asked[0].pixels
    with engine.open(
        lambda encoder: PrefetchingEncoder(encoder, first), caches_images=not arguments.no_cache
    ) as opened:
        session = opened.start_session()
        several = len(asked) > 1 and not arguments.together
        shown = [[each] for each in asked] if several else [asked]
        for each, *others in shown:
            session.show_pixels(each.pixels, *(other.pixels for other in others))
            reply = session.ask(each.question, options)
            if arguments.json:
                document = {"picture": each.name} if several else {}
                _write_document(console, reply, opened, each, document)
            else:
                before = f"{each.name}: " if several else ""
                _write_text(console, reply, before, is_whole=options.grammar is not None)
            _report_end(console, reply.answer, opened, arguments, options)
            _draw(console, each, reply.answer, arguments.draw, screen)


def _read_request(arguments: AskArguments) -> "AskRequest":
    """Tells pictures and question apart, both still words, and checks how flags go together.

    Raises:
        UsageError: they do not.
        InputError: the question is blank or cannot be read.
    """
    from tinyv_cli.prompts.request import Words, read_request

    if arguments.system is not None:
        raise UsageError(
            "TinyGPT-V has no system prompt: it was trained on questions alone",
            "say it in the question, or in a text before it with `--stdin`",
        )
    if arguments.task is not None:
        check_task(arguments.task)
    if arguments.choices is not None and arguments.schema is not None:
        raise UsageError("--choices and --schema exclude each other", "leave one of the two out")
    if arguments.stop and (arguments.choices is not None or arguments.schema is not None):
        raise UsageError(
            "--stop could cut what --choices or --schema promise", "leave out `--stop`"
        )
    words = Words(
        arguments.words or (),
        arguments.images or (),
        arguments.prompt,
        arguments.prompt_file,
        arguments.task is not None or arguments.at is not None,
        arguments.stdin,
    )
    request = read_request(words)
    if request.question is not None:
        check_question(request.question)
    if len(request.pictures) > 1 and (arguments.draw or arguments.at):
        flag = "--draw" if arguments.draw else "--at"
        raise UsageError(f"{flag} goes with one picture", "ask about each by itself")
    return request


def _make_grammar(arguments: AskArguments, variant: Variant) -> "Grammar | None":
    """Makes what `--choices` or `--schema` allow; None where both are missing.

    Raises:
        UsageError: the choices make no sense.
        InputError: the schema cannot be used.
    """
    if arguments.choices is None and arguments.schema is None:
        return None
    from tinyv_cli.answers import constrained
    from tinyv_cli.answers.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(variant)
    if arguments.choices is not None:
        choices = constrained.split_choices(arguments.choices)
        return constrained.make_choice_grammar(tokenizer, choices)
    schema = constrained.read_schema(arguments.schema or "")
    return constrained.make_schema_grammar(tokenizer, schema)


def _open_pictures(
    request: "AskRequest", corners: Corners | None, arguments: AskArguments, image_px: int
) -> list[Asked]:
    """Reads the pictures, and makes the question about each.

    Raises:
        UsageError: `--at` lies outside the picture.
        InputError: a picture cannot be read, or stands where the question belongs.
    """
    from tinyv_cli.pictures.image import to_pixels
    from tinyv_cli.pictures.opening import Access, check_words, open_picture

    access = Access(arguments.allow_private, arguments.offline)
    check_words(request.pictures, access)
    _check_order(request)
    asked = []
    for name in request.pictures:
        picture = open_picture(name, access)
        place = None if corners is None else to_box(corners, *picture.size)
        question = make_question(request.question, arguments.task, place)
        asked.append(Asked(name, picture, question, to_pixels(picture, image_px)))
    return asked


def _check_order(request: "AskRequest") -> None:
    """Tells picture and question that were exchanged, or a question without quotes.

    Raises:
        InputError: a word is no picture, and it is clear what was meant.
    """
    names, question = request.pictures, request.question
    missing = [place for place, name in enumerate(names) if not _may_be_picture(name)]
    if not missing or question is None:
        return
    name = names[missing[0]]
    if len(names) == 1 and _may_be_picture(question):
        swapped = shlex.join(["tinyv", "ask", question, name])
        raise InputError(f"there is no file {name}", f"the picture comes first: `{swapped}`")
    if missing == list(range(missing[0], len(names))) and missing[0] > 0:
        whole = " ".join([*names[missing[0] :], question])
        quoted = shlex.join(["tinyv", "ask", *names[: missing[0]], whole])
        raise InputError(f"there is no file {name}", f"put the question in quotes: `{quoted}`")


def _may_be_picture(word: str) -> bool:
    """Whether a word names a file that is there, or something else than a file."""
    with suppress(OSError, ValueError):  # a question is often too long for a file's name
        names = (word, re.split("[#@]", word)[0])  # a page or a moment of that file
        return word == "-" or "://" in word or any(Path(name).exists() for name in names)
    return False


def _check_drawing(request: "AskRequest", arguments: AskArguments) -> "Screen | None":
    """Refuses what could not be drawn or shown in the end; returns where to show."""
    if arguments.draw is not None:
        from tinyv_cli.drawing.on_picture import check_drawing_path

        check_drawing_path(arguments.draw, Path(request.pictures[0]))
    if not arguments.show:
        return None
    from tinyv_cli.drawing.on_terminal import resolve_screen

    return resolve_screen()


def _plan(
    asked: Sequence[Asked], arguments: AskArguments, found: FoundVariant, console: Console
) -> Engine:
    """Plans for the longest of the prompts; pictures whose tokens are kept need no vision side."""
    from tinyv_cli.backends.image_cache import has_tokens

    n_images = len(asked) if arguments.together else 1
    prompts = [make_prompt(found.template, (), each.question, n_images).text for each in asked]
    demand = Demand(
        found.count_positions(max(prompts, key=len), n_images, arguments.max_tokens),
        encodes=lambda device: (
            arguments.no_cache
            or not all(has_tokens(found.variant, each.pixels, device) for each in asked)
        ),
        may_offload=len(asked) == 1,
    )
    wanted = to_backend_options(arguments)
    return plan_engine(found, wanted, demand, console.write_note, console.progress)


def _write_text(console: Console, reply: "Reply", before: str, *, is_whole: bool) -> None:
    """Streams an answer; whatever ends it, its line is ended too.

    Args:
        console: takes it.
        reply: that is being made.
        before: what stands before it in its line.
        is_whole: writes it when it is finished, so that only what a grammar allows is ever seen.
    """
    if is_whole:
        before += reply.finish().text
    try:
        console.write_piece(before)
        for piece in reply:
            console.write_piece(piece)
    except BaseException:
        console.end_broken_answer()
        raise
    console.end_answer()


def _write_document(
    console: Console, reply: "Reply", opened: OpenEngine, asked: Asked, document: dict[str, Any]
) -> None:
    """Writes one document; an answer that Ctrl-C cut short is written as far as it went."""
    try:
        reply.finish()
    finally:
        reply.close()
        if not isinstance(sys.exception(), Exception):
            document |= make_document(reply.answer, opened.origin)
            document["boxes"] = describe_boxes(reply.answer.text, asked.picture.size)
            console.write_json(document)


def _report_end(
    console: Console,
    answer: "Answer",
    opened: OpenEngine,
    arguments: AskArguments,
    options: "AnswerOptions",
) -> None:
    """Says on stderr that an answer was cut, and how long it took if that was asked for."""
    if answer.finish_reason == "length":
        n = answer.usage.completion_tokens
        way_out = "the context is full, see `-c`"
        if n == arguments.max_tokens or options.grammar:
            way_out = f"`-n {2 * arguments.max_tokens}` allows more"
        verb = "brought to an end" if options.grammar else "cut"
        console.write_note(f"the answer was {verb} after {n} tokens; {way_out}")
    if arguments.stats or arguments.verbose:
        console.write_report(make_stats(answer, opened.origin, opened.engine.needed_bytes))


def _draw(
    console: Console,
    asked: Asked,
    answer: "Answer",
    target: Path | None,
    screen: "Screen | None",
) -> None:
    """Draws the answer's boxes into a file and onto the terminal, where that was asked for."""
    if target is None and screen is None:
        return
    from tinyv_cli.drawing.on_picture import draw_boxes, find_unwritable, write_drawing
    from tinyv_cli.drawing.on_terminal import show_picture
    from tinyv_cli.prompts.boxes import read_boxes

    boxes = read_boxes(answer.text)
    if not boxes:
        console.write_note("the answer holds no box; the picture is drawn as it is")
    unwritable = find_unwritable(boxes)
    if unwritable:
        console.write_note(f"no font here has all characters of {', '.join(unwritable)}")
    drawing = draw_boxes(asked.picture, boxes)
    if target is not None:
        write_drawing(target, drawing, Path(asked.name))
    if screen is not None:
        show_picture(drawing, screen)
