"""A conversation becomes a file and comes back from one; also Markdown, to be read by people."""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyv_cli.disk.paths import exists, expand, is_folder
from tinyv_cli.disk.places import chats_dir
from tinyv_cli.disk.reading import read_bytes
from tinyv_cli.disk.typed_json import read_object, to_dataclass
from tinyv_cli.disk.whole_file import write_whole
from tinyv_cli.errors import InputError, describe_os_error
from tinyv_cli.prompts.prompt import Turn
from tinyv_cli.variants.home import is_bare_name

FORMAT_VERSION = 1
SUFFIX = ".json"

_MARKDOWN_CHARACTERS = re.compile(r"[\\`*_<>\[\]#|~&]")


@dataclass(frozen=True)
class SavedPicture:
    """The picture of a conversation.

    Attributes:
        name: an absolute path, or a URL.
        pixels: names what the model saw of it.
    """

    name: str
    pixels: str


@dataclass(frozen=True)
class SavedChat:
    """A conversation as a file holds it.

    Attributes:
        format_version: of the file.
        picture: that was shown last, None for none.
        model: the variant that answered.
        template: of the prompts.
        settings: by the names of `/set`.
        turns: what was said, oldest first.
    """

    format_version: int
    picture: SavedPicture | None
    model: str
    template: str
    settings: dict[str, Any]
    turns: tuple[Turn, ...]

    def to_json(self) -> str:
        """Makes the file's content, which is also what `/export json` writes."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Makes a text for people; what was said is shown as it was, never as mark-up."""
        about = f" about {Path(self.picture.name).name}" if self.picture else ""
        lines = [f"# Conversation{_escape(about)}", "", f"Answered by {_escape(self.model)}.", ""]
        for turn in self.turns:
            question = " ".join(turn.question.splitlines())
            lines += [f"**{_escape(question)}**", "", _escape(turn.answer), ""]
        return "\n".join(lines)


def list_names() -> list[str]:
    """Returns the names of the conversations in `chats_dir()`."""
    with suppress(OSError):
        return sorted(path.stem for path in chats_dir().glob(f"*{SUFFIX}"))
    return []


def resolve_chat(name_or_path: str) -> Path:
    """Returns a conversation's file: a name lies in `chats_dir()`, a path where it says."""
    if is_bare_name(name_or_path) and not name_or_path.endswith(SUFFIX):
        return chats_dir() / f"{name_or_path}{SUFFIX}"
    return expand(name_or_path)


def read_chat(path: Path) -> SavedChat:
    """Reads a conversation.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    hint = "`/load NAME` takes what `/save NAME` wrote"
    names = list_names()
    if names:
        hint += f"; there are {', '.join(names)}"
    try:
        chat = to_dataclass(SavedChat, read_object(read_bytes(path)))
        if chat.format_version != FORMAT_VERSION:
            raise ValueError(f"its format is {chat.format_version}, this version reads 1")
    except OSError as error:
        raise InputError(f"cannot read {path}: {describe_os_error(error)}", hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no conversation: {error}", hint) from error
    return chat


class Outputs:
    """Files that one conversation wrote or was loaded from; others are never written over.

    `/draw cat.png` about cat.png is refused, and `/save` with a name of last week.
    """

    def __init__(self) -> None:
        self._own: set[Path] = set()

    def adopt(self, path: Path) -> None:
        """Makes a file the conversation's own, as one that it was loaded from."""
        self._own.add(path.absolute())

    def check(self, path: Path) -> None:
        """Checks that a file may be written.

        Raises:
            InputError: it is not the conversation's own, or a folder.
        """
        if path.absolute() in self._own:
            return
        if is_folder(path):
            raise InputError(f"{path} is a folder", f"name a file in it: `{path}/NAME`")
        if exists(path):
            raise InputError(f"{path} is there already", "take another name, or remove it first")

    def write(self, path: Path, content: bytes) -> None:
        """Writes a file as a whole or not at all.

        Raises:
            InputError: as `check` does, or it cannot be written.
        """
        self.check(path)
        try:
            if path.parent == chats_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)
        except OSError as error:
            problem = f"cannot write {path}: {describe_os_error(error)}"
            raise InputError(problem, "name another file or folder") from error
        self.adopt(path)


def _escape(text: str) -> str:
    """Makes text that Markdown shows as it is: lines stay lines, none begins a list."""
    # Without it the boxes' `<12>` would vanish, as HTML.
    lines = _MARKDOWN_CHARACTERS.sub(r"\\\g<0>", text).splitlines()
    return "  \n".join(re.sub(r"^(\s*(?=[-+])|\s*\d+(?=[.)]))", r"\1\\", line) for line in lines)
