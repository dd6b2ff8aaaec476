"""What a benchmark's files come to, whichever layout they have: records, one a question."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """A picture that is read when it is needed.

    Attributes:
        name: of its file, or of the row that holds it; the same name means the same picture.
        read: returns the file's path or content, or raises an `InputError`.
        problem: why it cannot be read, as far as that is known already; empty where nothing is.
    """

    name: str
    read: Callable[[], Path | bytes] = field(compare=False)
    problem: str = ""


@dataclass(frozen=True)
class Region:
    """A part of a picture, in pixels of the file as it lies, as annotations have it.

    Attributes:
        x: left edge.
        y: upper edge.
        width: of the part.
        height: likewise.
        picture_width: of the whole picture.
        picture_height: likewise.
    """

    x: float
    y: float
    width: float
    height: float
    picture_width: int
    picture_height: int


@dataclass(frozen=True)
class Record:
    """One question of a benchmark.

    Attributes:
        index: its place among all records, from 0.
        place: names it in messages, by file and line or row.
        picture: that it is about.
        question: what stands in the prompt in place of `{question}`.
        references: the answers that people gave; at least one, but where there is a region.
        group: what rules sum up by; several are joined by commas.
        choices: that are ranked; none where text is generated.
        right_choice: place of the right one among them.
        region: the right place, where a place is asked for.
    """

    index: int
    place: str
    picture: Picture
    question: str
    references: tuple[str, ...] = ()
    group: str = ""
    choices: tuple[str, ...] = ()
    right_choice: int = 0
    region: Region | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The texts to rank: the choices, and what they become for the published script.

        It joins choices with `_` and splits there again, so that one with `_` in it is two.
        """
        return tuple(dict.fromkeys((*self.choices, *self.split_choices)))

    @property
    def split_choices(self) -> tuple[str, ...]:
        """The choices as the published script sees them."""
        return tuple("_".join(self.choices).split("_")) if self.choices else ()


@dataclass(frozen=True)
class Given:
    """What was answered to one record.

    Attributes:
        text: the whole text that was generated, not ended at `###`; None where none was.
        losses: of texts that were ranked, in nats a token, by text.
    """

    text: str | None = None
    losses: dict[str, float] | None = None
