"""A picture and what is typed become a conversation: in a terminal, or line by line in a script.

What is cheap to find wrong is checked first. Then gigabytes are opened, in a thread, while the
first question is typed.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from tinyv_cli.addresses import to_shown
from tinyv_cli.console import Console, is_terminal
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import UsageError
from tinyv_cli.options.chat import ChatArguments
from tinyv_cli.options.shared import to_answer_options, to_backend_options
from tinyv_cli.variants.miniature import make_doubt

if TYPE_CHECKING:
    import numpy as np

    from tinyv_cli.answers.reply import Answer
    from tinyv_cli.chat.conversation import Conversation, ShownPicture
    from tinyv_cli.chat.prefetch import Opened, SessionPrefetcher

_MEMORY_WAY_OUT = (
    "close other programs, hold a shorter conversation (`-c 512`), or use fewer bits "
    "(`tinyv quantize --bits 4`)"
)


def hold_conversation(arguments: ChatArguments) -> None:
    """Runs `tinyv chat`.

    Raises:
        UsageError: a template, device or number that does not exist.
        InputError: the picture or, in a script, a question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C twice where something is typed; in a script, once.
    """
    from tinyv_cli.backends.prefetch import PrefetchingEncoder
    from tinyv_cli.chat.conversation import Conversation, ShownPicture
    from tinyv_cli.chat.prefetch import SessionPrefetcher
    from tinyv_cli.pictures.drawn import is_drawing
    from tinyv_cli.pictures.image import to_pixels
    from tinyv_cli.pictures.opening import STDIN, Access, open_picture

    console = Console(quiet=arguments.quiet)
    options = to_answer_options(arguments, arguments.stop)
    found = find_variant(arguments.model, arguments.template)
    access = Access(arguments.allow_private, arguments.offline, note=console.write_note)

    def open_shown(name: str) -> ShownPicture:
        if name == STDIN:
            raise UsageError(
                "a picture cannot come from stdin, where the questions come from",
                "name the picture's file: `tinyv chat PICTURE`",
            )
        image = open_picture(name, access)
        pixels = to_pixels(image, found.image_px)
        if found.is_toy and not is_drawing(pixels):
            console.write_warning(make_doubt(to_shown(name)))
        return ShownPicture(name, image, pixels)

    picture = open_shown(arguments.picture) if arguments.picture else None
    engine = plan_engine(
        found,
        to_backend_options(arguments),
        Demand(may_offload=True, way_out=_MEMORY_WAY_OUT),
        console.write_note,
        console.progress,
    )

    @contextmanager
    def open_about(pixels: "np.ndarray | None") -> "Iterator[Opened]":
        prefetch = None if pixels is None else lambda encoder: PrefetchingEncoder(encoder, pixels)
        with engine.open(prefetch, caches_images=not arguments.no_cache) as opened:
            session = opened.start_session()
            if pixels is not None:
                session.show_pixels(pixels)
            yield session, opened

    with closing(SessionPrefetcher(open_about, stays_open=not engine.is_offloaded)) as ahead:
        conversation = Conversation(ahead, options)
        conversation.begin(picture)
        _hold(conversation, ahead, engine, open_shown, arguments, console)


def _hold(
    conversation: "Conversation",
    ahead: "SessionPrefetcher",
    engine: Engine,
    open_picture: "Callable[[str], ShownPicture]",
    arguments: ChatArguments,
    console: Console,
) -> None:
    """Holds a conversation with somebody who types, or line by line with a script.

    In a terminal, lines are edited where it can move a cursor. In a script a line is a question,
    and each answer a line or a document.
    """
    from tinyv_cli.answers.report import describe_boxes, make_document
    from tinyv_cli.chat.lines import answer_lines
    from tinyv_cli.chat.plain_terminal import is_plain, read_entry
    from tinyv_cli.chat.slash import run_command
    from tinyv_cli.chat.talk import Talk, hold_talk
    from tinyv_cli.drawing.on_terminal import find_screen

    def to_document(question: str, answer: "Answer") -> dict[str, Any]:
        _, opened = ahead.wait()
        shown = conversation.picture
        boxes = describe_boxes(answer.text, shown.image.size) if shown else []
        turn = {"turn": len(conversation.turns), "question": question}
        pixels = [shown.pixels] if shown else []
        return {**turn, **make_document(answer, opened.origin, pixels), "boxes": boxes}

    if arguments.json or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        stream = sys.stdin.buffer if sys.stdin is not None else None
        answer_lines(conversation, stream, console, to_document if arguments.json else None)
        return
    talk = Talk(
        conversation,
        console,
        open_picture,
        engine.variant.name,
        engine.template,
        engine.needed_bytes,
        engine.context_length,
        None if arguments.quiet else find_screen(),
    )
    talk.preview()
    shown = conversation.picture
    answers = f"{engine.variant.name} answers" + (f" about {shown.name}" if shown else "")
    way_on = "" if shown else "`/image PATH` shows a picture, "
    console.write_note(f"{answers}; {way_on}/help lists the commands")
    read = read_entry
    if not is_plain():
        from tinyv_cli.chat.terminal import make_reader

        read = make_reader()
    hold_talk(talk, read, run_command)
