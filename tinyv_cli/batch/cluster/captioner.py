"""A class for Ray's `map_batches`: bytes and names of pictures become columns with their answers.

In a program of one's own:

    import ray
    from ray.data import ActorPoolStrategy
    from tinyv_cli.batch.cluster.captioner import Captioner

    pictures = ray.data.read_binary_files("photos/", include_paths=True)
    pictures.map_batches(
        Captioner,
        fn_constructor_args=("4bit", "[caption] describe this image."),
        compute=ActorPoolStrategy(size=2),
        batch_size=32,
        **Captioner.estimate_resources("4bit"),
    ).write_parquet("captions/")
"""

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tinyv_cli.answers.constrained import make_grammar
from tinyv_cli.answers.tokenizer import open_tokenizer
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.batch.cluster.lines import to_table
from tinyv_cli.batch.cluster.storage import Place, is_remote
from tinyv_cli.batch.cluster.weights_copy import copy_variant
from tinyv_cli.batch.pipeline import Asking, open_listed
from tinyv_cli.batch.settings import hash_variant
from tinyv_cli.engine import Demand, Engine, find_variant, plan_engine
from tinyv_cli.errors import WeightsError
from tinyv_cli.pictures.image import say_nothing
from tinyv_cli.pictures.opening import open_picture, read_named
from tinyv_cli.prompts.prompt import check_question, make_prompt
from tinyv_cli.prompts.tasks import Question
from tinyv_cli.session import DEFAULT_OPTIONS, AnswerOptions

_WAY_OUT = "look at what it is: `file PICTURE`; JPEG and PNG are read always"


@dataclass(frozen=True, kw_only=True)
class CaptionOptions:
    """How a worker answers.

    Attributes:
        answer: length and sampling; its grammar is made by the worker of the next two.
        choices: as `--choices`.
        schema: as `--schema`.
        template: of prompts; None for the variant's own.
        backend: device, threads and memory; a thread for one CPU of Ray's.
        parallel: answers at once in a worker.
        variant_from: the URL or folder that the variant is copied from, once on a machine.
        variant_hash: that the variant must have (`settings.hash_variant`); None for any.
        folder: that relative names start from; empty for where the worker runs.
    """

    answer: AnswerOptions = DEFAULT_OPTIONS
    choices: str | None = None
    schema: str | None = None
    template: str | None = None
    backend: BackendOptions = field(default=BackendOptions(threads=1))
    parallel: int = 8
    variant_from: str | None = None
    variant_hash: str | None = None
    folder: str = ""


DEFAULTS = CaptionOptions()


class Captioner:
    """Answers one question about pictures, several at once, with a variant that stays open.

    Args:
        model: the variant's name or folder; None for the newest one.
        question: asked about each picture, exactly as it stands where it is a text.
        options: how answers are made.

    Raises:
        TinyvError: the variant cannot be found or opened, is another than was asked for, or the
            question cannot be asked.
    """

    def __init__(
        self, model: str | None, question: Question | str, options: CaptionOptions = DEFAULTS
    ) -> None:
        if options.folder and Path(options.folder).is_dir():
            os.chdir(options.folder)
        question = Question(question) if isinstance(question, str) else question
        if options.variant_from is not None:
            model = str(copy_variant(options.variant_from, model))
        engine = plan_captioner(model, question, options)
        found = hash_variant(engine.variant)
        if options.variant_hash not in (None, found):
            raise WeightsError(
                f"variant {engine.variant.name} of {platform.node()} is another than the "
                "batch was begun with",
                "copy the same one to every machine, or let it be copied: `--variant-from URL`",
            )
        tokenizer = open_tokenizer(engine.variant)
        grammar = make_grammar(tokenizer, options.choices, options.schema)
        self._asking = Asking(engine, question, replace(options.answer, grammar=grammar))
        self._held = ExitStack()  # for as long as the worker lives
        self._opened = self._held.enter_context(engine.open())

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
        """Answers about pictures, and yields a row for each, in their order.

        In their order, so that Ray, which numbers what a worker yields, makes a killed call again
        without losing or doubling any.

        Args:
            batch: columns of N values: `path`, the name of each, and `bytes`, its content; where
                that is missing, `word` holds a path or URL that opens it.

        Returns:
            Tables of one row with the fields of a line of `tinyv batch` (`lines.SCHEMA`). A
            picture that cannot be read has an `error`.
        """
        names = [str(each) for each in batch["path"]]
        contents, words = batch.get("bytes"), batch.get("word")

        def read(key: Path) -> Image.Image:
            index = int(str(key))
            name = names[index]
            if contents is not None:
                return read_named(bytes(contents[index] or b""), name, _WAY_OUT)
            return open_word(name if words is None else str(words[index]), name)

        keys = [Path(str(index)) for index in range(len(names))]
        pictures = self._asking.prefetch(self._opened.encoder, keys, read)
        try:
            waiting: dict[int, dict[str, Any]] = {}
            n_yielded = 0
            for line in self._asking.answer(self._opened, pictures):
                index = int(line["path"])
                waiting[index] = line | {"path": names[index]}
                while n_yielded in waiting:
                    yield to_table([waiting.pop(n_yielded)])
                    n_yielded += 1
        finally:
            pictures.close()

    @staticmethod
    def estimate_resources(
        model: str | None, question: Question | str = "?", options: CaptionOptions = DEFAULTS
    ) -> dict[str, float]:
        """Estimates what a worker takes, as arguments for `map_batches`: CPUs and bytes of memory.

        Raises:
            TinyvError: the variant cannot be found, or memory does not suffice on this machine.
        """
        asked = Question(question) if isinstance(question, str) else question
        return to_resources(plan_captioner(model, asked, options))


def plan_captioner(
    model: str | None,
    question: Question,
    options: CaptionOptions,
    notify: Callable[[str], None] = say_nothing,
) -> Engine:
    """Plans the engine of a worker; loads no weights.

    Args:
        model: the variant's name or folder.
        question: that is asked.
        options: how answers are made.
        notify: takes lines for the user.

    Raises:
        TinyvError: as `find_variant` and `plan_engine`.
    """
    longest = question.at_longest()
    check_question(longest)
    found = find_variant(model, options.template)
    whole = make_prompt(found.template, (), longest).text
    n_positions = found.count_positions(whole, 1, options.answer.max_new_tokens)
    demand = Demand(n_positions, n_slots=options.parallel)
    return plan_engine(found, options.backend, demand, notify)


def to_resources(engine: Engine) -> dict[str, float]:
    """Returns what Ray is to keep for a worker: its threads as CPUs, its memory, its GPU."""
    if engine.options.device.startswith("cuda"):
        return {"num_cpus": 1, "num_gpus": 1}
    return {"num_cpus": engine.options.threads or 1, "memory": float(engine.needed_bytes)}


def open_word(word: str, name: str) -> Image.Image:
    """Opens a picture by its path, or by the URL of a store or a web server.

    Raises:
        InputError: it cannot be read.
    """
    if is_remote(word):
        return read_named(Place(word).read(), name, _WAY_OUT)
    if word.startswith(("http://", "https://")):
        return open_picture(word)
    return open_listed(word, Path(name) if word == name else Path(word), say_nothing)
