"""Makes the two pictures at the top of the README, from a real run of the miniature.

    python docs/first_screen.py

writes `docs/boxes.png`, which a command line draws, and `docs/terminal.svg`, what a terminal shows.
A test makes both anew and compares.
"""

import io
import os
import re
import shlex
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tinyv_cli.app import main

DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "weights" / "demo" / "examples"
COLUMNS = 80
LINES = (
    'tinyv ask cat.png "what is this?"',
    'tinyv ask three-apples.png "apples" --task detection --draw boxes.png',
    'tinyv ask three-apples.png "how many apples?" --json | jq .answer',
)


def run_lines(folder: Path) -> list[tuple[str, str, str]]:
    """Runs `LINES` in a folder with the example pictures.

    Returns:
        Each line, what it wrote on stderr, and what on stdout, as `jq` would show it.
    """
    told = []
    variables = {name: text for name, text in os.environ.items() if not name.startswith("TINYV_")}
    variables |= {"TINYV_HOME": str(folder / "home")}
    with chdir(folder), mock.patch.dict(os.environ, variables, clear=True):
        for path in EXAMPLES.iterdir():
            Path(path.name).write_bytes(path.read_bytes())
        for line in LINES:
            out, err = io.StringIO(), io.StringIO()
            words = shlex.split(line.partition(" | ")[0].replace("\\\n", " "))
            with redirect_stdout(out), redirect_stderr(err):
                code = main(words[1:])
            assert code == 0, err.getvalue()
            found = re.search(r'"answer": ("[^"]*")', out.getvalue())
            answer = f"{found[1]}\n" if "jq" in line and found else out.getvalue()
            told.append((line, err.getvalue(), answer))
    return told


def make_svg(told: list[tuple[str, str, str]]) -> str:
    """Draws what was typed and written, as a terminal shows it; no font is fetched for it."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line, err, out in told:
        console.print(Text.assemble(("$ ", "bold green"), line))
        for note in err.splitlines():
            console.print(Text.assemble((note[:5], "bold"), note[5:]))
        console.print(Text(out))
    bare = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="tinyv", code_format=bare, unique_id="tinyv")


def make_both(folder: Path) -> tuple[str, bytes]:
    """Runs everything in an empty folder; returns the SVG and the PNG."""
    svg = make_svg(run_lines(folder))
    return svg, (folder / "boxes.png").read_bytes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        drawn, png = make_both(Path(empty))
    (DOCS / "terminal.svg").write_text(drawn, "utf-8")
    (DOCS / "boxes.png").write_bytes(png)
