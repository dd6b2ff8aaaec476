"""A picture and what is typed become a conversation: in a terminal, or line by line in a script.

What is cheap to find wrong is looked at first. Then gigabytes are opened, in a thread, while the
first question is typed.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyv_cli.commands.opening import (
    FirstPicture,
    check_variant,
    make_answer_options,
    open_session,
    resolve_device,
    resolve_template,
)
from tinyv_cli.console import Console
from tinyv_cli.errors import DeviceError, UsageError
from tinyv_cli.options.chat import ChatArguments
from tinyv_cli.prompts.prompt import Template
from tinyv_cli.variants.home import resolve_variant
from tinyv_cli.variants.manifest import Variant
from tinyv_cli.variants.memory import MemoryPlan, plan_memory
from tinyv_cli.variants.miniature import note_miniature

if TYPE_CHECKING:
    import numpy as np

    from tinyv_cli.answers.reply import Answer
    from tinyv_cli.backends.backend import BackendOptions
    from tinyv_cli.chat.conversation import Conversation, ShownPicture
    from tinyv_cli.chat.session_ahead import Opened, SessionAhead
    from tinyv_cli.pictures.opening import Access


def hold_conversation(arguments: ChatArguments) -> None:
    """Does what `tinyv chat` says.

    Raises:
        UsageError: a template, device or number that does not exist.
        InputError: the picture or, in a script, a question cannot be used.
        WeightsError: there is no variant, or it is damaged.
        DeviceError: the device cannot run it.
        KeyboardInterrupt: Ctrl-C twice where something is typed; in a script, once.
    """
    from tinyv_cli.chat.conversation import Conversation
    from tinyv_cli.chat.session_ahead import SessionAhead
    from tinyv_cli.pictures.opening import Access

    console = Console(quiet=arguments.quiet)
    options = make_answer_options(arguments, arguments.stop)
    variant = resolve_variant(arguments.model)
    template = resolve_template(variant, arguments.template)
    access = Access(arguments.allow_private, arguments.offline)
    picture = _open_picture(variant, access, arguments.picture) if arguments.picture else None
    note_miniature(variant, console.write_note)
    place, memory = _plan(variant, arguments, console)
    check_variant(variant, console)
    rooms = _Rooms(variant, template, place, console, memory, access, not arguments.no_cache)
    ahead = SessionAhead(rooms.open_about, stays_open=not memory.is_offloaded)
    with closing(ahead):
        conversation = Conversation(ahead, options)
        conversation.begin(picture)
        if _is_terminal() and not arguments.json:
            _hold_in_terminal(conversation, rooms)
        else:
            _hold_in_lines(conversation, rooms, ahead, arguments)


@dataclass(frozen=True)
class _Rooms:
    """What every session of a conversation is opened with."""

    variant: Variant
    template: Template
    place: "BackendOptions"
    console: Console
    memory: MemoryPlan
    access: "Access"
    keeps_images: bool

    def open_about(self, pixels: "np.ndarray | None") -> "AbstractContextManager[Opened]":
        """Opens a session about a picture, or about none."""
        first = pixels if pixels is None else self._make_first(pixels)
        return open_session(self.variant, self.template, self.place, self.console, first)

    def _make_first(self, pixels: "np.ndarray") -> FirstPicture:
        return FirstPicture(pixels, self.keeps_images, self.memory.is_offloaded)


def _plan(
    variant: Variant, arguments: ChatArguments, console: Console
) -> "tuple[BackendOptions, MemoryPlan]":
    """Chooses the device, and plans for a conversation that fills the context.

    Raises:
        DeviceError: the memory does not suffice for it.
    """
    from tinyv_cli.backends.backend import BackendOptions

    budget_bytes = arguments.memory_budget
    wanted = BackendOptions(arguments.device, arguments.threads, arguments.ctx_size, budget_bytes)
    place, memory = resolve_device(variant, wanted, console, may_offload=True)
    if memory is not None:
        return place, memory
    try:
        n_positions = _count_positions(variant, arguments.ctx_size)
        return place, plan_memory(variant, n_positions, budget_bytes, encodes=True)
    except DeviceError as error:
        hint = "close other programs, hold a shorter conversation (`-c 512`), or use fewer bits "
        raise DeviceError(error.problem, f"{hint}(`tinyv quantize --bits 4`)") from error


def _count_positions(variant: Variant, ctx_size: int | None) -> int:
    """Positions that the context has room for."""
    longest = variant.manifest.spec.language.context_length
    return min(ctx_size or longest, longest)


def _open_picture(variant: Variant, access: "Access", name: str) -> "ShownPicture":
    """Reads a picture as the variant sees it.

    Raises:
        UsageError: it is to come from stdin, where questions come from.
        InputError: it cannot be read.
    """
    from tinyv_cli.chat.conversation import ShownPicture
    from tinyv_cli.pictures.image import to_pixels
    from tinyv_cli.pictures.opening import STDIN, open_picture

    if name == STDIN:
        raise UsageError(
            "a picture cannot come from stdin, where the questions come from",
            "name the picture's file: `tinyv chat PICTURE`",
        )
    image = open_picture(name, access)
    return ShownPicture(name, image, to_pixels(image, variant.manifest.spec.vision.image_px))


def _is_terminal() -> bool:
    """Whether somebody types and reads."""
    return all(each is not None and each.isatty() for each in (sys.stdin, sys.stdout))


def _hold_in_terminal(conversation: "Conversation", rooms: _Rooms) -> None:
    from tinyv_cli.chat.slash import run_command
    from tinyv_cli.chat.talk import Talk, hold

    talk = Talk(
        conversation,
        rooms.console,
        lambda name: _open_picture(rooms.variant, rooms.access, name),
        rooms.variant.name,
        rooms.template,
        rooms.memory.needed_bytes,
        _count_positions(rooms.variant, rooms.place.context_length),
    )
    shown = conversation.picture
    answers = f"{rooms.variant.name} answers" + (f" about {shown.name}" if shown else "")
    way_on = "" if shown else "`/image PATH` shows a picture, "
    rooms.console.write_note(f"{answers}; {way_on}/help lists the commands")
    hold(talk, _make_reader(), run_command)


def _make_reader() -> "Callable[[], str]":
    """Makes what waits for an entry, with a line editor where the terminal can move a cursor."""
    from tinyv_cli.chat.plain_terminal import is_plain, read_entry

    if is_plain():
        return read_entry
    from tinyv_cli.chat.terminal import make_reader

    return make_reader()


def _hold_in_lines(
    conversation: "Conversation", rooms: _Rooms, ahead: "SessionAhead", arguments: ChatArguments
) -> None:
    from tinyv_cli.chat.lines import answer_lines

    stream = sys.stdin.buffer if sys.stdin is not None else None
    to_document = _make_to_document(conversation, rooms, ahead) if arguments.json else None
    answer_lines(conversation, stream, rooms.console, to_document)


def _make_to_document(
    conversation: "Conversation", rooms: _Rooms, ahead: "SessionAhead"
) -> "Callable[[str, Answer], dict[str, Any]]":
    """Makes what writes a turn: the document of `tinyv ask --json`, and which turn it is."""
    from tinyv_cli.answers.report import Origin, describe_boxes, make_document

    def to_document(question: str, answer: "Answer") -> dict[str, Any]:
        _, backend = ahead.wait()
        origin = Origin(rooms.variant.name, rooms.template.name, backend.device, backend.load_s)
        document = make_document(answer, origin)
        shown = conversation.picture
        boxes = describe_boxes(answer.text, shown.image.size) if shown else []
        turn = {"turn": len(conversation.turns), "question": question}
        return {**turn, **document, "boxes": boxes}

    return to_document
