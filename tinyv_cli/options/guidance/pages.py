"""Help becomes pages that read well from 40 columns on: options in groups, examples, nothing cut.

typer prints groups and whole sentences only through rich, which takes longer to load than the page
takes to print. The types of its formatters lie elsewhere in each release.
"""

import re
import shutil
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from tinyv_cli.options.declare import OTHER, PANELS, TASK

_WIDEST = 100  # columns; longer lines are hard to read
_NARROWEST = 30
_TWO_COLUMNS = 60  # below, the text about an option stands under it
_WIDEST_TERM = 28

# Of each verb two, in the order of want. `-m` names what `tinyv list` may show.
EXAMPLES = {
    "ask": (
        'tinyv ask cat.jpg "what is this?"',
        "tinyv ask cat.jpg --task caption --json | jq -r .answer",
    ),
    "chat": (
        "tinyv chat cat.jpg",
        "printf 'what is this?\\nis it big?\\n' | tinyv chat cat.jpg --json",
    ),
    "batch": (
        'tinyv batch photos/ "what is this?" -o answers.jsonl',
        'tinyv batch -r photos/ "[caption] describe this image." -o captions.jsonl',
    ),
    "serve": (
        "tinyv serve",
        "tinyv serve -m miniature --port 8080",
    ),
    "list": (
        "tinyv list",
        "tinyv list --json | jq -r '.variants[].name'",
    ),
    "show": (
        "tinyv show miniature",
        "tinyv show miniature --json | jq .size_bytes",
    ),
    "pull": (
        "tinyv pull --ready 4bit",
        "tinyv pull --from ~/Downloads/tinygpt-v --dry-run",
    ),
    "push": (
        "tinyv push miniature share/miniature",
        "tinyv push stage4-4bit /mnt/usb/4bit --force",
    ),
    "quantize": (
        "tinyv quantize --bits 4",
        "tinyv quantize --sources sources/ --bits 8 --dry-run",
    ),
    "export": (
        "tinyv export -o vision",
        "tinyv export -o vision --sources sources/ --dtype float16",
    ),
    "rm": (
        "tinyv rm stage4-8bit",
        "tinyv rm stage4-8bit --sources --yes",
    ),
    "eval": (
        "tinyv eval questions.jsonl",
        "tinyv eval questions.jsonl -m stage4-4bit --against stage4-8bit",
    ),
    "bench": (
        "tinyv bench -m miniature",
        "tinyv bench -m miniature --json > before.json",
    ),
    "doctor": (
        "tinyv doctor",
        "tinyv doctor --device cuda --json",
    ),
}


def measure_page() -> int:
    """Returns how many columns a help page takes here; one at the right stays free."""
    return max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST) - 1)


class Verb(TyperCommand):
    """A verb with a page of its own: usage, what it does, examples, then options in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Writes the page."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        _write_examples(formatter, EXAMPLES[str(self.name)])
        groups: dict[str, list[tuple[str, str]]] = {each: [] for each in PANELS}
        words_first = sorted(self.get_params(ctx), key=lambda e: e.param_type_name != "argument")
        for each in words_first:
            record = each.get_help_record(ctx)
            if record is not None:
                is_argument = each.param_type_name == "argument"
                term = str(each.metavar).strip("[].") if is_argument else record[0]
                panel = getattr(each, "rich_help_panel", None) or (TASK if is_argument else OTHER)
                groups[panel].append((term, _to_sentence(record[1])))
        _write_groups(formatter, groups)
        self.format_epilog(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Lists what stands behind the verb: arguments as they are declared, then options."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        needed = [
            f"{each.opts[0]} {each.metavar}"
            for each in self.get_params(ctx)
            if each.param_type_name == "option" and each.required
        ]
        return [*(str(each.metavar) for each in arguments), *needed, "[OPTIONS]"]


class Program(TyperGroup):
    """The page of all verbs, by what they are for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Writes the page."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, verb in self.commands.items():
            first = " ".join((verb.help or "").partition("\n\n")[0].split())
            groups.setdefault(str(getattr(verb, "rich_help_panel", OTHER)), []).append(
                (name, first)
            )
        records = [each.get_help_record(ctx) for each in self.get_params(ctx)]
        groups[OTHER] = [(term, _to_sentence(text)) for term, text in filter(None, records)]
        _write_groups(formatter, groups)
        _write_examples(formatter, [EXAMPLES[name][0] for name in self.commands])
        self.format_epilog(ctx, formatter)


def _to_sentence(text: str) -> str:
    """Writes what typer says of an option's default behind it, and leaves out that it is needed."""
    text = re.sub(r"\s*\[required\]$|; required(?=\]$)", "", text)
    return re.sub(r"\s*\[default: (.*)\]$", r" (else \1)", text).removesuffix(".")


def _write_groups(formatter: Any, groups: dict[str, list[tuple[str, str]]]) -> None:  # noqa: ANN401
    """Writes terms under headings, what they mean beside them or, on a narrow page, below."""
    widest = _WIDEST_TERM if formatter.width >= _TWO_COLUMNS else 2
    for heading, rows in groups.items():
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=widest)


def _write_examples(formatter: Any, lines: Sequence[str]) -> None:  # noqa: ANN401
    """Writes command lines; one that is too long goes on in the next, as a shell reads it."""
    with formatter.section("Examples"):
        for line in lines:
            row = ""
            for word in re.findall(r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'])+", line):
                if row and len(row) + len(word) + 5 > formatter.width:
                    formatter.write(f"  {row} \\\n")
                    row = "   "
                row = f"{row} {word}" if row else word
            formatter.write(f"  {row}\n")
