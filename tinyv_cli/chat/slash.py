"""A line such as `/image cat.png` becomes what it asks for; asks the model nothing by itself."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from tinyv_cli.addresses import is_address, is_data_url, is_incomplete
from tinyv_cli.chat import settings
from tinyv_cli.chat.dropped import read_file_url
from tinyv_cli.chat.other_programs import edit_text, read_clipboard
from tinyv_cli.chat.saved import (
    FORMAT_VERSION,
    SavedChat,
    SavedPicture,
    read_chat,
    resolve_chat,
)
from tinyv_cli.chat.talk import Talk
from tinyv_cli.console import to_size
from tinyv_cli.disk.paths import exists, expand
from tinyv_cli.drawing.on_terminal import show_picture
from tinyv_cli.errors import InputError, TinyvError, UsageError
from tinyv_cli.pictures.image import hash_pixels
from tinyv_cli.prompts.box_words import tell_boxes
from tinyv_cli.prompts.boxes import read_boxes
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.variants.memory import read_peak_rss_bytes

Takes: TypeAlias = Literal["nothing", "path", "chat", "setting", "topic", "export", "question"]
Run: TypeAlias = Callable[[Talk, str], None]

TOPICS = ("prompt", "settings", "memory")
EXPORTS: dict[str, Callable[[SavedChat], str]] = {
    "md": SavedChat.to_markdown,
    "json": SavedChat.to_json,
}


@dataclass(frozen=True)
class Command:
    """One thing that can be typed after a slash.

    Attributes:
        usage: how it is typed.
        help: what it does.
        run: does it with the words behind the command.
        takes: what these words are, for whoever completes them.
    """

    usage: str
    help: str
    run: Run
    takes: Takes


COMMANDS: dict[str, Command] = {}
# As other programs of this kind call them.
_ALIASES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye"}


def _command(usage: str, help_: str, takes: Takes = "nothing") -> Callable[[Run], Run]:
    """Makes a function a command, in the order in which `/help` lists them."""

    def add(run: Run) -> Run:
        COMMANDS[usage.split()[0]] = Command(usage, help_, run, takes)
        return run

    return add


def run_command(talk: Talk, line: str) -> None:
    """Runs one command.

    Args:
        talk: what it is about.
        line: from its slash on.

    Raises:
        TinyvError: there is no such command, or it cannot be done.
        EOFError: it is the one that leaves.
    """
    name, _, words = line.partition(" ")
    words = words.strip()
    name = _ALIASES.get(name, name)
    command = COMMANDS.get(name)
    if command is None:
        if close := get_close_matches(name, COMMANDS, n=1):
            hint = f"did you mean `{close[0]}`?"
        else:
            hint = "`/help` lists them; with a space before it, it is a question"
        raise UsageError(f"there is no command '{name}'", hint)
    if command.takes == "nothing" and words:
        raise UsageError(f"{name} takes nothing, not '{words}'", f"type `{name}` alone")
    command.run(talk, words)


def to_path(words: str) -> Path:
    """Returns the file that is meant, named as it is or quoted as by a shell or a dragged file."""
    literal = expand(words)
    with suppress(ValueError):
        parts = shlex.split(words)
        if not exists(literal) and len(parts) == 1:
            return expand(parts[0])
    return literal


@_command("/image PATH", "Show a picture; a new conversation begins", "path")
def _show_picture(talk: Talk, words: str) -> None:
    name = _need(words, "/image PATH")
    name = read_file_url(name)
    talk.show_pictures(name if is_address(name) else str(to_path(name)))


@_command("/paste", "Show the picture that was copied")
def _paste(talk: Talk, words: str) -> None:
    copied = read_clipboard()
    called = "the picture from the clipboard" if is_data_url(copied[0]) else None
    talk.show_pictures(*copied, called=called)


@_command("/edit [TEXT]", "Write a question in $EDITOR, starting from the last", "question")
def _edit(talk: Talk, words: str) -> None:
    turns = talk.conversation.turns
    question = edit_text(words or (turns[-1].question if turns else ""))
    if not question:
        talk.console.write_note("nothing is asked")
        return
    talk.show("\n".join(f"> {line}" for line in question.splitlines()))
    talk.stream(partial(talk.conversation.ask, question))


@_command("/clear", "Forget what was said")
def _clear(talk: Talk, words: str) -> None:
    talk.conversation.clear()
    shown = talk.conversation.picture
    stays = f"; {shown.name} is still shown" if shown else ""
    talk.console.write_note(f"what was said is forgotten{stays}")


@_command("/undo", "Take the last question and its answer back")
def _undo(talk: Talk, words: str) -> None:
    question = " ".join(talk.conversation.undo().question.split())
    talk.console.write_note(f"taken back: {question}")


@_command("/retry", "Ask the last question again")
def _retry(talk: Talk, words: str) -> None:
    options = talk.conversation.options.sampling
    if talk.conversation.turns and (options.temperature == 0 or options.seed is not None):
        way_out = "`/set temp 0.7`" if options.temperature == 0 else "`/set seed off`"
        talk.console.write_note(f"the answer will be the same; {way_out} makes others")
    talk.stream(talk.conversation.retry)


@_command("/set temp 0.5 …", f"Change {', '.join(settings.NAMES)}", "setting")
def _set(talk: Talk, words: str) -> None:
    conversation = talk.conversation
    conversation.options = settings.change_settings(conversation.options, words)
    talk.show(settings.format_settings(settings.list_settings(conversation.options)))


@_command("/show [prompt|settings|memory]", "Show them", "topic")
def _show(talk: Talk, words: str) -> None:
    if words and words not in TOPICS:
        raise UsageError(f"there is no '{words}' to show", f"show one of {', '.join(TOPICS)}")
    conversation = talk.conversation
    answer, shown, turns = conversation.answer, conversation.picture, conversation.turns
    peak_bytes = read_peak_rss_bytes()
    memory = [f"estimated       {to_size(talk.needed_bytes)}"]
    if peak_bytes is not None:
        memory.append(f"taken at most   {to_size(peak_bytes)}")
    if answer is not None:
        prompt = answer.prompt
        n_used = answer.usage.prompt_tokens + answer.usage.completion_tokens
        memory.append(f"context used    {n_used} of {talk.context_length} positions")
    elif turns:  # said elsewhere: the prompt as it would be sent
        prompt = make_prompt(talk.template, turns[:-1], turns[-1].question, bool(shown)).text
    else:
        prompt = "nothing was said yet"
    about: dict[str, object] = {
        "model": talk.model,
        "template": talk.template.name,
        "picture": shown.name if shown else "none",
        **settings.list_settings(conversation.options),
    }
    texts = {
        "prompt": prompt,
        "settings": settings.format_settings(about),
        "memory": "\n".join(memory),
    }
    chosen = [words] if words else TOPICS
    talk.show("\n\n".join(f"{topic}:\n{texts[topic]}" for topic in chosen))


@_command("/save [NAME|FILE]", "Keep the conversation", "chat")
def _save(talk: Talk, words: str) -> None:
    name = _need(words or talk.saved_as or "", "/save NAME")
    path = resolve_chat(name)
    talk.outputs.write(path, _to_saved(talk).to_json().encode())
    talk.saved_as = name
    talk.console.write_note(f"saved as {path}; `/load {name}` takes it up again")


@_command("/load NAME|FILE", "Take a conversation up again", "chat")
def _load(talk: Talk, words: str) -> None:
    name = _need(words, "/load NAME")
    path = resolve_chat(name)
    saved = read_chat(path)
    conversation, console = talk.conversation, talk.console
    options = settings.restore_settings(conversation.options, saved.settings)
    picture = None
    if saved.picture is not None:
        picture, pixels = conversation.picture, saved.picture.pixels
        if picture is None or hash_pixels(picture.pixels) != pixels:
            if is_incomplete(saved.picture.name):
                raise InputError(
                    f"{saved.picture.name} was saved without what is secret or long in it",
                    f"show the picture first: `/image URL`, then `/load {name}`",
                )
            picture = talk.open_picture(saved.picture.name)
            # Another model may see the same file with other pixels.
            if saved.model == talk.model and hash_pixels(picture.pixels) != pixels:
                console.write_note(f"{picture.name} is not the picture it was then")
    conversation.begin(picture, saved.turns)
    conversation.options = options
    talk.outputs.adopt(path)
    talk.saved_as = name
    if saved.model != talk.model:
        console.write_note(f"{saved.model} answered then, {talk.model} answers now")
    n = len(saved.turns)
    turns = "question and its answer" if n == 1 else f"{n} questions and their answers"
    console.write_note(f"{turns} from {path}")
    if saved.turns:
        talk.show(f"> {saved.turns[-1].question}\n{tell_boxes(saved.turns[-1].answer)}")


@_command("/export md|json FILE", "Write the conversation to a file", "export")
def _export(talk: Talk, words: str) -> None:
    kind, _, name = _need(words, "/export md|json FILE").partition(" ")
    if kind not in EXPORTS:
        close = get_close_matches(kind, EXPORTS, n=1)
        hint = f"did you mean `/export {close[0]} FILE`?" if close else "type `/export md FILE`"
        raise UsageError(f"there is no export as '{kind}'", hint)
    path = expand(_need(name.strip(), f"/export {kind} FILE"))
    talk.outputs.write(path, EXPORTS[kind](_to_saved(talk)).encode())
    talk.console.write_note(f"written to {path}")


@_command("/draw [FILE.png]", "Draw the boxes of the last answer", "path")
def _draw(talk: Talk, words: str) -> None:
    from tinyv_cli.drawing.on_picture import draw_boxes, write_drawing

    path = None if talk.screen and not words else expand(_need(words, "/draw FILE.png"))
    shown = talk.conversation.picture
    turns = talk.conversation.turns
    boxes = read_boxes(turns[-1].answer) if turns else ()
    if shown is None or not boxes:
        raise InputError("the last answer holds no box", "ask for one: `[detection] cat`")
    if path is None:
        assert talk.screen is not None  # without a path there is one
        show_picture(draw_boxes(shown.image, boxes), talk.screen)
        return
    talk.outputs.check(path)
    try:
        write_drawing(path, draw_boxes(shown.image, boxes), replaces=True)
    except TinyvError as error:  # its hints are for the flag
        raise type(error)(error.problem, error.hint.replace("`--draw", "`/draw")) from error
    talk.outputs.adopt(path)
    talk.console.write_note(f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'} in {path}")


@_command("/help", "Show this")
def _show_help(talk: Talk, words: str) -> None:
    width = max(len(each.usage) for each in COMMANDS.values())
    lines = [f"{each.usage:<{width}}  {each.help}" for each in COMMANDS.values()]
    quotes = 'A question of several lines stands between """ and """. Ctrl-C stops an answer.'
    talk.show("\n".join([*lines, "", quotes]))


@_command("/bye", "Leave, as /exit, /quit and Ctrl-D do")
def _leave(talk: Talk, words: str) -> None:
    raise EOFError


def _need(words: str, usage: str) -> str:
    """Returns the words behind a command.

    Raises:
        UsageError: there are none.
    """
    if not words:
        raise UsageError(f"{usage.split()[0]} lacks something", f"type `{usage}`")
    return words


def _to_saved(talk: Talk) -> SavedChat:
    """Makes the conversation as a file holds it.

    Raises:
        InputError: nothing was said.
    """
    conversation = talk.conversation
    if not conversation.turns:
        raise InputError("nothing was said yet", "ask something first")
    shown = conversation.picture
    return SavedChat(
        format_version=FORMAT_VERSION,
        picture=SavedPicture(shown.lasting_name, hash_pixels(shown.pixels)) if shown else None,
        model=talk.model,
        template=talk.template.name,
        settings=dict(settings.list_settings(conversation.options)),
        turns=conversation.turns,
    )
