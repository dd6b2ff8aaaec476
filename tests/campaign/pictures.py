"""Damages pictures of every format that is read: `python -m tests.campaign.pictures`.

`--count N --seed S` makes N attempts; every `ASKED_EVERY`th goes through `tinyv ask` too. Nothing
may crash, take over 10 s or over 1 GB beyond the picture's own, start anything, write or read
elsewhere, or end with 1.
"""

import os
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from types import FunctionType

import psutil
from PIL import Image

from tests.campaign.damage import attempts
from tests.campaign.damage.attempts import Attack, FaultError, ask, check_ending
from tests.campaign.damage.mutations import mutate
from tests.campaign.damage.picture_files import NESTS, damage_png, list_seeds
from tests.light.real_variant import copy_variant
from tinyv_cli.errors import DeviceError, ExitCode, InputError
from tinyv_cli.pictures.decoding.effort import PEAK_BYTES
from tinyv_cli.pictures.decoding.formats import list_formats
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
        outcome = self.read(content)
        if number % ASKED_EVERY == 0:
            self._ask(content)
        return outcome

    def read(self, content):
        """Reads bytes; returns the name of the outcome.

        Raises:
            FaultError: it is none that is planned.
        """
        try:
            picture = read_picture(content)
        except InputError as error:
            if not (error.problem.isprintable() and error.hint):
                raise FaultError("a message that cannot be printed, or without a hint") from error
            return "refused"
        except DeviceError as error:
            if _count_bytes(content) < psutil.virtual_memory().available / 2:
                raise FaultError("memory does not suffice") from error
            return "too large for this memory"
        if picture.mode != "RGB" or min(picture.size) < 2:
            raise FaultError(f"a picture of mode {picture.mode} and {picture.size}")
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
        return _count_bytes(self.make(number))

    def list_sound(self):
        """Lists the sound files that all others are made from."""
        return self._all


def _count_bytes(content):
    """Counts the memory that a picture may take by its head; nothing for a damaged one."""
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(BytesIO(content), formats=list_formats()) as picture:
            return picture.width * picture.height * PEAK_BYTES
    return 0


def guide(attack, count, keep):
    """Has atheris choose the damage, by what of Pillow's Python and of ours it reaches.

    The decoders in C are not measured: their wheels are not built for it. The process ends with the
    last attempt.
    """
    import atheris

    sound = attack.folder / "sound"
    sound.mkdir()
    for i, content in enumerate(attack.list_sound()):
        (sound / str(i)).write_bytes(content)
    attack.warm_up()
    for name, module in list(sys.modules.items()):
        if not name.startswith(("PIL.", "tinyv_cli.pictures.")):
            continue
        owners = [module, *(each for each in vars(module).values() if isinstance(each, type))]
        found = [each for owner in owners for each in vars(owner).values()]
        for function in {each for each in found if isinstance(each, FunctionType)}:
            if function.__module__ == name:
                atheris.instrument_func(function)
    limits = (f"-timeout={attempts.LIMIT_S}", "-rss_limit_mb=3000", "-max_len=20000")
    words = (f"-runs={count}", f"-seed={attack.seed + 1}", f"-artifact_prefix={keep}/", *limits)
    atheris.Setup([sys.argv[0], *words, str(sound)], attack.read)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(attempts.main(Pictures, __doc__, 10_000, guide))
