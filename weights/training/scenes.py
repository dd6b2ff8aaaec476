"""A seed becomes a folder of pictures with their questions and answers.

`python -m weights.training.scenes --seed 1 --count 100 --size 224 --out DIR` writes 000000.png and
on, and `questions.jsonl`, a line a question: {"picture", "task", "question", "answer"}. Needs the
font Noto Color Emoji (Debian package fonts-noto-color-emoji).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from tinyv_cli.errors import UsageError
from weights.synthetic.module_command import open_console
from weights.training.language.asking import SceneQuestion
from weights.training.language.questions import make_questions
from weights.training.world.drawing import draw_scene
from weights.training.world.glyphs import FONT_VARIABLE, Glyphs, open_glyphs
from weights.training.world.placement import make_scene
from weights.training.world.scene import Scene
from weights.training.world.splits import SPLITS, Split, make_generator

QUESTIONS_FILE = "questions.jsonl"
_MIN_PX, _MAX_PX = 16, 4096


def make_example(split: Split, seed: int, index: int) -> tuple[Scene, list[SceneQuestion]]:
    """Makes the scene of a number within a seed, and its questions.

    It depends on its own number alone, not on how many are made.
    """
    generator = make_generator(split, seed, index)
    scene = make_scene(generator, split)
    return scene, make_questions(scene, generator)


def write_scenes(
    folder: Path, split: Split, seed: int, count: int, size_px: int, glyphs: Glyphs
) -> None:
    """Writes pictures and questions.

    Args:
        folder: made if need be; holds no questions yet.
        split: whose scenes.
        seed: zero or more.
        count: of pictures, one or more.
        size_px: side of each picture, 16-4096.
        glyphs: to draw with.

    Raises:
        UsageError: a number is out of range, or the folder holds questions already.
    """
    if seed < 0:
        raise UsageError(f"seed is {seed}", "use zero or more")
    if count < 1:
        raise UsageError(f"count is {count}", "use one or more")
    if not _MIN_PX <= size_px <= _MAX_PX:
        raise UsageError(f"size is {size_px} px", f"use {_MIN_PX} to {_MAX_PX}")
    target = folder / QUESTIONS_FILE
    if target.exists():
        raise UsageError(f"{target} is there already", "name a new folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    with target.open("x", encoding="utf-8") as lines:
        for index in range(count):
            scene, questions = make_example(split, seed, index)
            picture = f"{index:06}.png"
            draw_scene(scene, size_px, glyphs).save(folder / picture)
            for each in questions:
                line = {"picture": picture, "task": each.task}
                line |= {"question": each.question, "answer": each.answer}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes what the command line asks for, and prints the folder's path.

    Args:
        arguments: instead of the process's own.

    Raises:
        SystemExit: the command line is wrong, or there is no font.
    """
    parser = argparse.ArgumentParser(prog="python -m weights.training.scenes", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="other numbers, other scenes")
    parser.add_argument("--count", type=int, default=100, help="how many pictures")
    parser.add_argument("--size", type=int, default=224, help="side of a picture in pixels")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--font", type=Path, help=f"NotoColorEmoji.ttf; also {FONT_VARIABLE}")
    parsed = parser.parse_args(arguments)
    with open_console() as console:
        glyphs = open_glyphs(parsed.font)
        write_scenes(parsed.out, parsed.split, parsed.seed, parsed.count, parsed.size, glyphs)
        console.write_line(str(parsed.out))


if __name__ == "__main__":
    main()
