"""A line such as `/image cat.png` becomes what it asks for; asks the model nothing by itself."""

import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from tinyv_cli.chat import settings
from tinyv_cli.chat.conversation import ShownPicture, is_address
from tinyv_cli.chat.saved import (
    FORMAT_VERSION,
    SavedChat,
    SavedPicture,
    read_chat,
    resolve_chat,
)
from tinyv_cli.chat.talk import Talk
from tinyv_cli.console import to_size
from tinyv_cli.errors import InputError, TinyvError, UsageError
from tinyv_cli.pictures.image import hash_pixels
from tinyv_cli.prompts.boxes import read_boxes
from tinyv_cli.prompts.prompt import make_prompt
from tinyv_cli.variants.memory import read_peak_rss_bytes

Takes = Literal["nothing", "path", "chat", "setting", "topic", "export"]


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
    run: Callable[[Talk, str], None]
    takes: Takes = "nothing"


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
    command = COMMANDS.get(name)
    if command is None:
        raise _make_unknown_error(name, line)
    words = words.strip()
    if command.takes == "nothing" and words:
        raise UsageError(f"{name} takes nothing, not '{words}'", f"type `{name}` alone")
    command.run(talk, words)


def _make_unknown_error(name: str, line: str) -> UsageError:
    """The nearest command, or the one that a picture's name lacks before it."""
    problem = f"there is no command '{name}'"
    close = get_close_matches(name, COMMANDS, n=1)
    if close:
        return UsageError(problem, f"did you mean `{close[0]}`?")
    with suppress(OSError):  # it can be too long for a file's name
        if to_path(line).is_file():
            return UsageError(problem, f"show a picture with `/image {line}`")
    return UsageError(problem, "`/help` lists them; with a space before it, it is a question")


def to_path(words: str) -> Path:
    """The file that is meant, its name as it is, or quoted as a shell or a dragged file has it."""
    literal = Path(words).expanduser()
    with suppress(OSError, ValueError):
        parts = shlex.split(words)
        if not literal.exists() and len(parts) == 1:
            return Path(parts[0]).expanduser()
    return literal


def _need(words: str, usage: str) -> str:
    """The words behind a command.

    Raises:
        UsageError: there are none.
    """
    if not words:
        raise UsageError(f"{usage.split()[0]} lacks something", f"type `{usage}`")
    return words


def _show_help(talk: Talk, words: str) -> None:
    width = max(len(each.usage) for each in COMMANDS.values())
    lines = [f"{each.usage:<{width}}  {each.help}" for each in COMMANDS.values()]
    quotes = 'A question of several lines stands between """ and """. Ctrl-C stops an answer.'
    talk.show("\n".join([*lines, "", quotes]))


def _show_picture(talk: Talk, words: str) -> None:
    name = _need(words, "/image PATH")
    picture = talk.open_picture(name if is_address(name) else str(to_path(name)))
    had_turns = bool(talk.conversation.turns)
    talk.conversation.begin(picture)
    began = "; a new conversation begins" if had_turns else ""
    talk.console.write_note(f"{picture.name} is shown{began}")


def _clear(talk: Talk, words: str) -> None:
    talk.conversation.clear()
    shown = talk.conversation.picture
    stays = f"; {shown.name} is still shown" if shown else ""
    talk.console.write_note(f"what was said is forgotten{stays}")


def _undo(talk: Talk, words: str) -> None:
    turn = talk.conversation.undo()
    question = " ".join(turn.question.split())
    talk.console.write_note(f"taken back: {question}")


def _retry(talk: Talk, words: str) -> None:
    options = talk.conversation.options.sampling
    if talk.conversation.turns and (options.temperature == 0 or options.seed is not None):
        way_out = "`/set temp 0.7`" if options.temperature == 0 else "`/set seed off`"
        talk.console.write_note(f"the answer will be the same; {way_out} makes others")
    talk.stream(talk.conversation.retry)


def _set(talk: Talk, words: str) -> None:
    conversation = talk.conversation
    conversation.options = settings.change_settings(conversation.options, words)
    talk.show(settings.to_text(settings.list_settings(conversation.options)))


def _show(talk: Talk, words: str) -> None:
    if words and words not in TOPICS:
        raise UsageError(f"there is no '{words}' to show", f"show one of {', '.join(TOPICS)}")
    chosen = [words] if words else list(TOPICS)
    talk.show("\n\n".join(f"{topic}:\n{TOPICS[topic](talk)}" for topic in chosen))


def _tell_prompt(talk: Talk) -> str:
    """The prompt of the last answer, exactly as it was sent."""
    conversation = talk.conversation
    if conversation.answer is not None:
        return conversation.answer.prompt
    if not conversation.turns:
        return "nothing was said yet"
    n_images = 0 if conversation.picture is None else 1
    *earlier, last = conversation.turns
    return make_prompt(talk.template, earlier, last.question, n_images).text


def _tell_settings(talk: Talk) -> str:
    shown = talk.conversation.picture
    about: dict[str, object] = {
        "model": talk.model,
        "template": talk.template.name,
        "picture": "none" if shown is None else shown.name,
    }
    return settings.to_text(about | dict(settings.list_settings(talk.conversation.options)))


def _tell_memory(talk: Talk) -> str:
    """Bytes, and positions of the context that the last prompt and its answer took."""
    peak = read_peak_rss_bytes()
    lines = [f"estimated       {to_size(talk.needed_bytes)}"]
    if peak is not None:
        lines.append(f"taken at most   {to_size(peak)}")
    answer = talk.conversation.answer
    if answer is not None:
        usage = answer.usage
        n_used = usage.prompt_tokens + usage.completion_tokens
        lines.append(f"context used    {n_used} of {talk.context_length} positions")
    return "\n".join(lines)


def _to_saved(talk: Talk) -> SavedChat:
    """The conversation as a file holds it.

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


def _save(talk: Talk, words: str) -> None:
    name = _need(words or talk.saved_as or "", "/save NAME")
    path = resolve_chat(name)
    talk.outputs.write(path, _to_saved(talk).to_json().encode())
    talk.saved_as = name
    talk.console.write_note(f"saved as {path}; `/load {name}` takes it up again")


def _load(talk: Talk, words: str) -> None:
    name = _need(words, "/load NAME")
    path = resolve_chat(name)
    saved = read_chat(path)
    conversation = talk.conversation
    options = settings.restore_settings(conversation.options, saved.settings)
    picture = _find_picture(talk, saved)
    conversation.begin(picture, saved.turns)
    conversation.options = options
    talk.outputs.adopt(path)
    talk.saved_as = name
    if saved.model != talk.model:
        talk.console.write_note(f"{saved.model} answered then, {talk.model} answers now")
    n = len(saved.turns)
    turns = "question and its answer" if n == 1 else f"{n} questions and their answers"
    talk.console.write_note(f"{turns} from {path}")
    if saved.turns:
        talk.show(f"> {saved.turns[-1].question}\n{saved.turns[-1].answer}")


def _find_picture(talk: Talk, saved: SavedChat) -> ShownPicture | None:
    """The picture of a conversation; the one that is shown where it is the same."""
    if saved.picture is None:
        return None
    shown = talk.conversation.picture
    if shown is not None and hash_pixels(shown.pixels) == saved.picture.pixels:
        return shown
    picture = talk.open_picture(saved.picture.name)
    # Another model may see the same file with other pixels.
    if saved.model == talk.model and hash_pixels(picture.pixels) != saved.picture.pixels:
        talk.console.write_note(f"{picture.name} is not the picture it was then")
    return picture


def _export(talk: Talk, words: str) -> None:
    kind, _, name = _need(words, "/export md|json FILE").partition(" ")
    if kind not in EXPORTS:
        close = get_close_matches(kind, EXPORTS, n=1)
        hint = f"did you mean `/export {close[0]} FILE`?" if close else "type `/export md FILE`"
        raise UsageError(f"there is no export as '{kind}'", hint)
    path = Path(_need(name.strip(), f"/export {kind} FILE")).expanduser()
    talk.outputs.write(path, EXPORTS[kind](_to_saved(talk)).encode())
    talk.console.write_note(f"written to {path}")


def _draw(talk: Talk, words: str) -> None:
    from tinyv_cli.drawing.on_picture import draw_boxes, write_drawing

    path = Path(_need(words, "/draw FILE.png")).expanduser()
    shown = talk.conversation.picture
    turns = talk.conversation.turns
    boxes = read_boxes(turns[-1].answer) if turns else ()
    if shown is None or not boxes:
        raise InputError("the last answer holds no box", "ask for one: `[detection] cat`")
    talk.outputs.check(path)
    try:
        write_drawing(path, draw_boxes(shown.image, boxes))
    except TinyvError as error:  # its hints are for the flag
        raise type(error)(error.problem, error.hint.replace("`--draw", "`/draw")) from error
    talk.outputs.adopt(path)
    talk.console.write_note(f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'} in {path}")


def _leave(talk: Talk, words: str) -> None:
    raise EOFError


TOPICS: dict[str, Callable[[Talk], str]] = {
    "prompt": _tell_prompt,
    "settings": _tell_settings,
    "memory": _tell_memory,
}
EXPORTS: dict[str, Callable[[SavedChat], str]] = {
    "md": SavedChat.to_markdown,
    "json": SavedChat.to_json,
}
COMMANDS = {
    each.usage.split()[0]: each
    for each in (
        Command("/image PATH", "Show a picture; a new conversation begins", _show_picture, "path"),
        Command("/clear", "Forget what was said", _clear),
        Command("/undo", "Take the last question and its answer back", _undo),
        Command("/retry", "Ask the last question again", _retry),
        Command("/set temp 0.5 …", f"Change {', '.join(settings.NAMES)}", _set, "setting"),
        Command("/show [prompt|settings|memory]", "Show them", _show, "topic"),
        Command("/save [NAME|FILE]", "Keep the conversation", _save, "chat"),
        Command("/load NAME|FILE", "Take a conversation up again", _load, "chat"),
        Command("/export md|json FILE", "Write the conversation to a file", _export, "export"),
        Command("/draw FILE.png", "Draw the boxes of the last answer", _draw, "path"),
        Command("/help", "Show this", _show_help),
        Command("/bye", "Leave, as Ctrl-D does", _leave),
    )
}
