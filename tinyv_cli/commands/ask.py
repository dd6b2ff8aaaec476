"""Pictures and a question become answers on stdout, as text or JSON documents.

What is cheap to find wrong is checked first: words, flags, schema and drawing target; then the
pictures. Only then are gigabytes opened.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinyv_cli.addresses import is_address, is_malformed, to_shown
from tinyv_cli.answers.report import describe_boxes, describe_toy, make_document, make_stats
from tinyv_cli.console import Console, is_terminal
from tinyv_cli.disk.paths import exists
from tinyv_cli.engine import Demand, Notify, OpenEngine, find_variant, plan_engine
from tinyv_cli.errors import InputError, UsageError
from tinyv_cli.options.ask import AskArguments, check_asking, to_grammar
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.pictures.names import drop_page
from tinyv_cli.prompts.box_words import tell_pieces
from tinyv_cli.prompts.boxes import read_boxes
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.tasks import Corners, Question, read_corners
from tinyv_cli.variants.miniature import make_doubt

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from tinyv_cli.answers.reply import Answer, Reply
    from tinyv_cli.drawing.on_terminal import Screen
    from tinyv_cli.prompts.request import AskRequest


@dataclass(frozen=True)
class Asked:
    """One picture and what is asked about it.

    Attributes:
        word: that names it, as typed.
        picture: upright, mode RGB.
        question: with its task's tag and box.
        pixels: (1, 3, S, S) float32.
    """

    word: str
    picture: "Image"
    question: str
    pixels: "np.ndarray"

    @property
    def name(self) -> str:
        """The word as it may be shown: without secrets, if it is a URL."""
        return to_shown(self.word) if is_address(self.word) else self.word


def answer_question(arguments: AskArguments) -> None:
    """Runs `tinyv ask`.

    Raises:
        UsageError: words, a template, device or number that make no sense.
        InputError: a picture or the question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C, after what was said until then has been written.
    """
    from tinyv_cli.backends.image_cache import has_tokens
    from tinyv_cli.backends.prefetch import PrefetchingEncoder

    console = Console(quiet=arguments.quiet)
    options = to_answer_options(arguments, arguments.stop)
    request = _read_request(arguments)
    corners = None if arguments.at is None else read_corners(arguments.at)
    screen = None
    if arguments.show:
        from tinyv_cli.drawing.on_terminal import resolve_screen

        screen = resolve_screen()
    found = find_variant(arguments.model, arguments.template)
    options = replace(options, grammar=to_grammar(arguments, found.variant))
    asked = _open_pictures(request, corners, arguments, found.image_px, console.write_note)
    n_images = len(asked) if arguments.together else 1
    prompts = [make_prompt(found.template, (), each.question, n_images).text for each in asked]
    demand = Demand(
        found.count_positions(max(prompts, key=len), n_images, arguments.max_tokens),
        encodes=lambda device: (
            arguments.no_cache
            or not all(has_tokens(found.variant, each.pixels, device) for each in asked)
        ),
        may_offload=len(asked) == 1,
        held_bytes=sum(4 * each.picture.width * each.picture.height for each in asked),
    )
    wanted = to_backend_options(arguments)
    engine = plan_engine(found, wanted, demand, console.write_note, console.progress)
    if arguments.show_prompt or arguments.verbose:
        console.write_report(prompts[0], is_asked=True)
    first = asked[0].pixels
    with engine.open(
        lambda encoder: PrefetchingEncoder(encoder, first), caches_images=not arguments.no_cache
    ) as opened:
        session = opened.start_session()
        several = len(asked) > 1 and not arguments.together
        for each, *others in [[each] for each in asked] if several else [asked]:
            session.show_pixels(each.pixels, *(other.pixels for other in others))
            reply = session.ask(each.question, options)
            shown = [each, *others]
            _write_answer(console, reply, shown, opened, arguments, names_picture=several)
            if arguments.draw is not None or screen is not None:
                _draw(console, each, reply.answer, arguments, screen)


def _read_request(arguments: AskArguments) -> "AskRequest":
    """Separates pictures from the question, both still words, and checks how flags go together.

    Raises:
        UsageError: they do not, or the drawing could not be written.
        InputError: the question is blank or cannot be read.
    """
    from tinyv_cli.prompts.request import Words, read_request

    if arguments.system is not None:
        raise UsageError(
            "TinyGPT-V has no system prompt: it was trained on questions alone",
            "say it in the question, or in a text before it with `--stdin`",
        )
    check_asking(arguments)
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
    if arguments.draw is not None:
        from tinyv_cli.drawing.on_picture import check_drawing_path

        source = _resolve_source(request.pictures[0])
        check_drawing_path(arguments.draw, source, replaces=arguments.force)
    return request


def _resolve_source(word: str) -> Path | int:
    """Returns the file that a picture comes from: its path, or the number of the open stdin."""
    return 0 if word == "-" else Path(word if exists(word) else drop_page(word))


def _open_pictures(
    request: "AskRequest",
    corners: Corners | None,
    arguments: AskArguments,
    image_px: int,
    note: Notify,
) -> list[Asked]:
    """Reads the pictures, and makes the question about each.

    Raises:
        UsageError: `--at` lies outside the picture.
        InputError: a picture cannot be read; where picture and question were exchanged, or the
            question has no quotes, the hint is the command that was meant.
    """
    from tinyv_cli.pictures.image import to_pixels
    from tinyv_cli.pictures.opening import Access, check_words, open_picture

    access = Access(arguments.allow_private, arguments.offline, note=note)
    names, question = request.pictures, request.question
    asking = Question(question, arguments.task, corners)
    check_words(names, access)
    missing = [place for place, name in enumerate(names) if not _may_be_picture(name)]
    if missing and question is not None:
        shown = [to_shown(name) for name in names]
        first, problem = missing[0], f"there is no file {shown[missing[0]]}"
        if len(names) == 1 and _may_be_picture(question):
            swapped = shlex.join(["tinyv", "ask", to_shown(question), shown[0]])
            raise InputError(problem, f"the picture comes first: `{swapped}`")
        if missing == list(range(first, len(names))) and first > 0:
            whole = " ".join([*shown[first:], question])
            quoted = shlex.join(["tinyv", "ask", *shown[:first], whole])
            raise InputError(problem, f"put the question in quotes: `{quoted}`")
    asked = []
    for name in names:
        picture = open_picture(name, access)
        about = asking.about(*picture.size)
        asked.append(Asked(name, picture, about, to_pixels(picture, image_px)))
    return asked


def _may_be_picture(word: str) -> bool:
    """Returns whether a word names a file that exists, or something other than a file."""
    file = re.split("[#@]", word)[0]  # without the page or the moment in it
    return word == "-" or is_address(word) or is_malformed(word) or exists(word) or exists(file)


def _write_answer(
    console: Console,
    reply: "Reply",
    shown: Sequence[Asked],
    opened: OpenEngine,
    arguments: AskArguments,
    *,
    names_picture: bool,
) -> None:
    """Writes an answer while it is made, or as a document; then that it was cut, and its times.

    What a toy makes up about is warned of before.

    Ctrl-C leaves what was said until then: a line that is ended, or a document. What a grammar
    allows is written when it is whole, so that nothing else is ever seen.
    """
    asked, origin = shown[0], opened.origin
    is_bound = arguments.choices is not None or arguments.schema is not None
    for each in shown if origin.is_toy else ():
        if not describe_toy(True, [each.pixels])["drawing"]:
            console.write_warning(make_doubt(each.name))
    if arguments.json:
        try:
            reply.finish()
        finally:
            reply.close()
            if not isinstance(sys.exception(), Exception):
                document = {"picture": asked.name} if names_picture else {}
                document |= make_document(reply.answer, origin, [each.pixels for each in shown])
                boxes = describe_boxes(reply.answer.text, asked.picture.size)
                console.write_json({**document, "boxes": boxes})
    else:
        before = f"{asked.name}: " if names_picture else ""
        before += reply.finish().text if is_bound else ""
        # A person reads where boxes are, a program their numbers.
        tells = is_terminal(sys.stdout) and not is_bound
        try:
            console.write_piece(before)
            for piece in tell_pieces(reply) if tells else reply:
                console.write_piece(piece)
        except BaseException:
            console.end_broken_answer()
            raise
        console.end_answer()
        n_boxes = len(read_boxes(reply.answer.text))
        if tells and n_boxes and arguments.draw is None and not arguments.show:
            console.write_note(f"`--draw FILE.png` draws {'it' if n_boxes == 1 else 'them'}")
    answer = reply.answer
    if answer.finish_reason == "length":
        n = answer.usage.completion_tokens
        way_out = "the context is full, see `-c`"
        if n == arguments.max_tokens or is_bound:
            way_out = f"`-n {2 * arguments.max_tokens}` allows more"
        verb = "brought to an end" if is_bound else "cut"
        console.write_note(f"the answer was {verb} after {n} tokens; {way_out}")
    if arguments.stats or arguments.verbose:
        stats = make_stats(answer, origin, opened.engine.needed_bytes)
        console.write_report(stats, is_asked=True)


def _draw(
    console: Console,
    asked: Asked,
    answer: "Answer",
    arguments: AskArguments,
    screen: "Screen | None",
) -> None:
    """Draws the answer's boxes into a file, onto the terminal, or both."""
    from tinyv_cli.drawing.on_picture import draw_boxes, find_unwritable, write_drawing
    from tinyv_cli.drawing.on_terminal import show_picture

    boxes = read_boxes(answer.text)
    if not boxes:
        console.write_note("the answer holds no box; the picture is drawn as it is")
    unwritable = find_unwritable(boxes)
    if unwritable:
        console.write_note(f"no font here has all characters of {', '.join(unwritable)}")
    drawing = draw_boxes(asked.picture, boxes)
    if arguments.draw is not None:
        source = _resolve_source(asked.word)
        write_drawing(arguments.draw, drawing, source, replaces=arguments.force)
    if screen is not None:
        show_picture(drawing, screen)
