"""Pictures and a question become answers on stdout, or JSON documents; computes nothing.

What is cheap to find wrong is looked at first: words, pictures, variant. Then gigabytes are opened.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyv_cli.answers.report import Origin, describe_boxes, make_document, make_stats
from tinyv_cli.commands.opening import (
    FirstPicture,
    check_variant,
    count_positions,
    make_answer_options,
    open_session,
    resolve_device,
    resolve_template,
    tell_variant,
)
from tinyv_cli.console import Console
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.options.ask import AskArguments
from tinyv_cli.prompts.prompt import Template, check_question, make_prompt
from tinyv_cli.prompts.tasks import check_task, make_question, read_corners, to_box
from tinyv_cli.variants.home import resolve_variant
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import plan_memory

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from tinyv_cli.answers.reply import Answer, Reply
    from tinyv_cli.backends.backend import Backend, BackendOptions
    from tinyv_cli.drawing.on_terminal import Screen
    from tinyv_cli.prompts.request import AskRequest
    from tinyv_cli.session import AnswerOptions, Grammar, Session
    from tinyv_cli.variants.memory import MemoryPlan


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


@dataclass(frozen=True)
class _Room:
    """Everything that answers are made and written with."""

    console: Console
    arguments: AskArguments
    variant: Variant
    template: Template
    options: "AnswerOptions"
    screen: "Screen | None"


def answer_question(arguments: AskArguments) -> None:
    """Does what `tinyv ask` says.

    Raises:
        UsageError: words, a template, device or number that make no sense.
        InputError: a picture or the question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C, after what was said until then has been written.
    """
    console = Console(quiet=arguments.quiet)
    request = _read_words(arguments)
    options = make_answer_options(arguments, arguments.stop)
    variant = resolve_variant(arguments.model)
    template = resolve_template(variant, arguments.template)
    asked = _open_pictures(request, arguments, variant)
    screen = _check_drawing(request, arguments)
    tell_variant(variant, arguments.model, console)
    options = replace(options, grammar=_make_grammar(arguments, variant))
    device, memory = _plan(asked, arguments, variant, template, console)
    room = _Room(console, arguments, variant, template, options, screen)
    if arguments.show_prompt or arguments.verbose:
        n_images = len(asked) if arguments.together else 1
        console.write_report(make_prompt(template, (), asked[0].question, n_images).text)
    shown = FirstPicture(asked[0].pixels, not arguments.no_cache, memory.is_frugal)
    with open_session(variant, template, device, console, shown) as (session, backend):
        if arguments.together:
            session.show_pixels(*(each.pixels for each in asked))
            asked = asked[:1]
        for place, each in enumerate(asked):
            if place:
                session.show_pixels(each.pixels)
            answer = _answer(room, session, backend, each, several=len(asked) > 1)
            _tell_end(room, answer, backend, memory.needed_bytes)
            _draw(room, each, answer)


def _read_words(arguments: AskArguments) -> "AskRequest":
    """Pictures and question, both still words; what no model is needed for is checked.

    Raises:
        UsageError: they do not go together.
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
    """What `--choices` or `--schema` allow; None where both are missing.

    Raises:
        UsageError: both are given, or the choices make no sense.
        InputError: the schema cannot be used.
    """
    if arguments.choices is None and arguments.schema is None:
        return None
    from tinyv_cli.answers import constrained
    from tinyv_cli.answers.tokenizer import Tokenizer

    if arguments.choices is not None and arguments.schema is not None:
        raise UsageError("--choices and --schema exclude each other", "leave one of the two out")
    if arguments.stop:
        raise UsageError(
            "--stop could cut what --choices or --schema promise", "leave out `--stop`"
        )
    tokenizer = Tokenizer(variant.path("tokenizer"))
    if arguments.choices is not None:
        choices = constrained.split_choices(arguments.choices)
        return constrained.make_choice_grammar(tokenizer, choices)
    schema = constrained.read_schema(arguments.schema or "")
    return constrained.make_schema_grammar(tokenizer, schema)


def _open_pictures(request: "AskRequest", arguments: AskArguments, variant: Variant) -> list[Asked]:
    """Reads the pictures, and asks about each.

    Raises:
        UsageError: `--at` lies outside the picture.
        InputError: a picture cannot be read, or stands where the question belongs.
    """
    from tinyv_cli.pictures.image import to_pixels
    from tinyv_cli.pictures.opening import Access, check_words, open_picture

    corners = None if arguments.at is None else read_corners(arguments.at)
    access = Access(arguments.allow_private, arguments.offline)
    check_words(request.pictures, access)
    _check_order(request)
    asked = []
    for name in request.pictures:
        picture = open_picture(name, access)
        place = None if corners is None else to_box(corners, *picture.size)
        question = make_question(request.question, arguments.task, place)
        pixels = to_pixels(picture, variant.manifest.spec.vision.image_px)
        asked.append(Asked(name, picture, question, pixels))
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
    asked: Sequence[Asked],
    arguments: AskArguments,
    variant: Variant,
    template: Template,
    console: Console,
) -> "tuple[BackendOptions, MemoryPlan]":
    """Chooses the device, checks the variant's files, and looks whether memory suffices."""
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.backends.image_cache import has_tokens

    def encodes(device: str) -> bool:
        return arguments.no_cache or not all(has_tokens(variant, a.pixels, device) for a in asked)

    wanted = BackendOptions(
        arguments.device, arguments.threads, arguments.ctx_size, arguments.memory_budget
    )
    takes_turns = len(asked) == 1
    device, memory = resolve_device(
        variant, wanted, console, encodes=lambda: encodes("cuda"), takes_turns=takes_turns
    )
    check_variant(variant, console)
    n_images = len(asked) if arguments.together else 1
    prompts = [make_prompt(template, (), each.question, n_images).text for each in asked]
    memory = memory or plan_memory(
        variant,
        count_positions(variant, max(prompts, key=len), arguments, arguments.ctx_size, n_images),
        arguments.memory_budget,
        encodes=encodes(device.device),
        takes_turns=takes_turns,
    )
    return device, memory


def _answer(
    room: _Room, session: "Session", backend: "Backend", asked: Asked, *, several: bool
) -> "Answer":
    """Asks, and writes the answer; with several pictures each line names its own."""
    reply = session.ask(asked.question, room.options)
    if room.arguments.json:
        extra = {"picture": asked.name} if several else {}
        _write_document(room, reply, backend, asked, extra)
    else:
        before = f"{asked.name}: " if several else ""
        if room.options.grammar is not None:
            before += reply.finish().text  # only what the grammar allows is written, or nothing
        _write_text(room.console, before, reply)
    return reply.answer


def _write_text(console: Console, before: str, reply: "Reply") -> None:
    """Streams what is left of the answer; whatever ends it, its line is ended too."""
    try:
        console.write_piece(before)
        for piece in reply:
            console.write_piece(piece)
    except BaseException:
        console.end_broken_answer()
        raise
    console.end_answer()


def _write_document(
    room: _Room, reply: "Reply", backend: "Backend", asked: Asked, extra: dict[str, Any]
) -> None:
    """Writes one document; an answer that Ctrl-C cut short is written as far as it went."""
    try:
        reply.finish()
    finally:
        reply.close()
        if not isinstance(sys.exception(), Exception):
            document = make_document(reply.answer, _to_origin(room, backend))
            document["boxes"] = describe_boxes(reply.answer.text, asked.picture.size)
            room.console.write_json(extra | document)


def _to_origin(room: _Room, backend: "Backend") -> Origin:
    return Origin(room.variant.name, room.template.name, backend.device, backend.load_s)


def _tell_end(room: _Room, answer: "Answer", backend: "Backend", needed_bytes: int) -> None:
    """Says on stderr that an answer was cut, and how long it took if that was asked for."""
    if answer.finish_reason == "length":
        n = answer.usage.completion_tokens
        way_out = "the context is full, see `-c`"
        if n == room.arguments.max_tokens or room.options.grammar:
            way_out = f"`-n {2 * room.arguments.max_tokens}` allows more"
        verb = "brought to an end" if room.options.grammar else "cut"
        room.console.write_note(f"the answer was {verb} after {n} tokens; {way_out}")
    if room.arguments.stats or room.arguments.verbose:
        room.console.write_report(make_stats(answer, _to_origin(room, backend), needed_bytes))


def _draw(room: _Room, asked: Asked, answer: "Answer") -> None:
    """Draws the answer's boxes into a file and onto the terminal, where that was asked for."""
    target, screen = room.arguments.draw, room.screen
    if target is None and screen is None:
        return
    from tinyv_cli.drawing.on_picture import draw_boxes, find_unwritable, write_drawing
    from tinyv_cli.drawing.on_terminal import show_picture
    from tinyv_cli.prompts.boxes import read_boxes

    boxes = read_boxes(answer.text)
    if not boxes:
        room.console.write_note("the answer holds no box; the picture is drawn as it is")
    unwritable = find_unwritable(boxes)
    if unwritable:
        room.console.write_note(f"no font here has all characters of {', '.join(unwritable)}")
    drawing = draw_boxes(asked.picture, boxes)
    if target is not None:
        write_drawing(target, drawing, Path(asked.name))
    if screen is not None:
        show_picture(drawing, screen)
