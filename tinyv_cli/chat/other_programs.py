"""What other programs hold becomes part of a conversation: a picture copied, a text edited."""

import base64
import io
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import ImageGrab, UnidentifiedImageError

from tinyv_cli.errors import InputError, describe_os_error

_EDITORS = ("sensible-editor", "nano", "vim", "vi")


def read_clipboard() -> tuple[str, ...]:
    """Returns words that open what was copied: a picture as a `data:` URL, or names of files.

    Pillow asks the system; on Linux through `wl-paste` (Wayland) or `xclip` (X11).

    Raises:
        InputError: no picture was copied, or nothing here can ask for it.
    """
    way_out = "copy a picture, as by a program for screenshots; or drop a picture's file here"
    try:
        copied = ImageGrab.grabclipboard()
    except NotImplementedError as error:
        raise InputError(
            "the clipboard cannot be read: wl-paste or xclip is missing",
            "install one: `sudo apt install wl-clipboard` for Wayland, xclip for X11",
        ) from error
    except UnidentifiedImageError as error:
        raise InputError("the clipboard holds no picture Pillow can read", way_out) from error
    except OSError as error:
        reason = describe_os_error(error) if error.errno else " ".join(str(error).split())
        raise InputError(f"the clipboard cannot be read: {reason}", way_out) from error
    if not copied:
        raise InputError("the clipboard holds no picture", way_out)
    if isinstance(copied, list):
        return tuple(copied)
    file = io.BytesIO()
    copied.save(file, "PNG", compress_level=1)
    return (f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}",)


def edit_text(text: str) -> str:
    """Lets the user change a text in VISUAL or EDITOR, else in what is usual here.

    Returns:
        The text as it was saved, without blank lines around it.

    Raises:
        InputError: the editor cannot be started or fails, or what it saved is no text.
    """
    found = (each for each in _EDITORS if shutil.which(each))
    usual = "notepad" if sys.platform == "win32" else next(found, "vi")
    wanted = os.environ.get("VISUAL") or os.environ.get("EDITOR") or usual
    way_out = "name another editor before the chat: `export EDITOR=nano`"
    try:
        command = shlex.split(wanted, posix=sys.platform != "win32")
    except ValueError as error:
        raise InputError(f"the editor '{wanted}' is no command", way_out) from error
    with tempfile.TemporaryDirectory(prefix="tinyv-") as folder:
        file = Path(folder, "question.txt")
        file.write_text(text, "utf-8")
        try:
            done = subprocess.run([*command, str(file)], check=False)
        except OSError as error:
            reason = describe_os_error(error)
            raise InputError(f"the editor {wanted} does not start: {reason}", way_out) from error
        if done.returncode:
            problem = f"the editor {wanted} ended with code {done.returncode}; nothing is asked"
            raise InputError(problem, way_out)
        try:
            return file.read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            problem = f"the editor {wanted} left no text in UTF-8; nothing is asked"
            raise InputError(problem, way_out) from error
