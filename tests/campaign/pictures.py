"""Damages pictures of every format that is read, and reads them: `python -m tests.campaign.pictures`.

`--count N --seed S` makes N attempts; every `ASKED_EVERY`th goes through `tinyv ask` too. Nothing may
crash, take over 10 s or over 1 GB beyond the picture's own, start anything, write or read elsewhere,
or end with 1.
"""

import os
import sys
import warnings
from contextlib import suppress
from io import BytesIO

import psutil
from PIL import Image

from tests.campaign import attempts
from tests.campaign.attempts import Attack, Fault, ask, check_ending
from tests.campaign.damage.mutations import mutate
from tests.campaign.damage.picture_files import NESTS, damage_png, list_seeds
from tests.light.real_variant import copy_variant
from tinyv_cli.errors import DeviceError, ExitCode, InputError
from tinyv_cli.pictures.decoding.formats import list_formats
from tinyv_cli.pictures.decoding.rgb import _PEAK_BYTES
from tinyv_cli.pictures.image import read_picture, to_pixels

ASKED_EVERY = 1000


class Pictures(Attack):
    """Pictures, through `read_picture` as bytes and through the program as files."""

    def __init__(self, seed, folder):
        super().__init__(seed, folder)
        self._seeds = list_seeds()
        self._formats = list(self._seeds)
        self._all = [content for contents in self._seeds.values() for content in contents]
        os.environ["TINYV_HOME"] = str(folder / "home")
        self._variant = copy_variant(folder / "variant")

    @property
    def formats(self):
        """The formats that there are sound files of."""
        return frozenset(self._formats)

    def make(self, number):
        """Makes the bytes of an attempt."""
        chance = self.make_chance(number)
        content = chance.choice(self._seeds[chance.choice(self._formats)])
        others = self._all
        way = chance.random()
        if way < 0.12:
            inner = content if chance.random() < 0.3 else mutate(content, chance, others)
            content = chance.choice(NESTS)(inner)
            if chance.random() < 0.1:
                content = chance.choice(NESTS)(content)
            if chance.random() < 0.5:
                return content
        elif way < 0.2:
            content = chance.choice(self._seeds["PNG"])
            return damage_png(content, chance, lambda body: mutate(body, chance, others))
        return mutate(content, chance, others)

    def warm_up(self):
        """Reads a sound file of each format, and asks about one."""
        for contents in self._seeds.values():
            with suppress(InputError):
                read_picture(contents[0])
        self._ask(self._seeds["PNG"][0])

    def attempt(self, number):
        """Reads a damaged picture, and asks about some."""
        content = self.make(number)
        outcome = self._read(content, number)
        if number % ASKED_EVERY == 0:
            self._ask(content)
        return outcome

    def _read(self, content, number):
        try:
            picture = read_picture(content)
        except InputError as error:
            if not (error.problem.isprintable() and error.hint):
                raise Fault("a message that cannot be printed, or without a hint") from error
            return "refused"
        except DeviceError as error:
            if self.count_own_bytes(number) < psutil.virtual_memory().available / 2:
                raise Fault("memory does not suffice") from error
            return "too large for this memory"
        if picture.mode != "RGB" or min(picture.size) < 2:
            raise Fault(f"a picture of mode {picture.mode} and {picture.size}")
        to_pixels(picture, 28)
        return "read"

    def _ask(self, content):
        path = self.folder / "picture"
        path.write_bytes(content)
        words = ["ask", str(path), "what is this?", "-m", str(self._variant), "-n", "1", "-q"]
        code, out, err = ask(words)
        allowed = (ExitCode.OK, ExitCode.INPUT, ExitCode.DEVICE)
        check_ending(code, out, err, allowed)

    def keep(self, number, folder):
        """Writes the damaged picture."""
        (folder / "picture").write_bytes(self.make(number))

    def count_own_bytes(self, number):
        """Counts what the picture's head promises."""
        with suppress(Exception), warnings.catch_warnings():  # a damaged one
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(self.make(number)), formats=list_formats()) as picture:
                width, height = picture.size
            return width * height * _PEAK_BYTES
        return 0


if __name__ == "__main__":
    sys.exit(attempts.main(Pictures, __doc__, 10_000))
