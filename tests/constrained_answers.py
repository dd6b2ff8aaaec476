"""The miniature under choices and schemas; by hand: `python -m tests.constrained_answers`."""

import json
import sys
import time
from dataclasses import dataclass

import jsonschema

from tests.demo import DEMO
from tinyv_cli.answers.constrained import make_choice_grammar, make_schema_grammar
from tinyv_cli.answers.generate import ImageTokens, Rules, generate
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.answers.tracked import TrackedDecoder
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.prompts.prompt import TEMPLATES, make_prompt
from tinyv_cli.variants.manifest import read_variant

PICTURES = ("breakfast", "car-and-tree", "cat", "three-apples")
QUESTIONS = (
    "[vqa] what is in the picture?",
    "[vqa] how many apples are there?",
    "[vqa] what colour is it?",
    "[caption] describe the picture",
    "[detection] cat",
)
CHOICES = {
    "things": ("cat", "car", "apple", "tree", "cup"),
    "prefixes": ("a", "a cat", "a cat and a dog", "an apple"),
    "sentences": ("There is a cat.", "There are three apples.", "I see a car & a tree (green)."),
    "other letters": ("猫", "pomme d'été", "яблоко"),
}
_BOX = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
SCHEMAS = {
    "enum": {"enum": ["yes", "no", 1, None]},
    "object": {
        "type": "object",
        "properties": {
            "thing": {"type": "string"},
            "count": {"type": "integer", "minimum": 0},
            "is_red": {"type": "boolean"},
        },
        "required": ["thing", "count", "is_red"],
        "additionalProperties": False,
    },
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 1},
    "nested": {
        "type": "object",
        "properties": {
            "things": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "string", "maxLength": 12},
                        "box": {**_BOX, "minItems": 4, "maxItems": 4},
                    },
                    "required": ["label", "box"],
                    "additionalProperties": False,
                },
            },
            "note": {"type": ["string", "null"]},
        },
        "required": ["things"],
        "additionalProperties": False,
    },
    "open object": {"type": "object", "required": ["answer"]},
    "date": {
        "type": "object",
        "properties": {"on": {"type": "string", "format": "date"}},
        "required": ["on"],
    },
}


@dataclass(frozen=True)
class Told:
    """One answer: its text, why it ended, its tokens, and the seconds of all but the prompt."""

    text: str
    reason: str
    n_tokens: int
    decode_s: float


class Miniature:
    """The miniature that comes along, opened for answers of its own kind."""

    def __init__(self):
        variant = read_variant(DEMO / "variant")
        self.tokenizer = Tokenizer(variant.path("tokenizer"))
        self._template = TEMPLATES[variant.manifest.template]
        self._backend = open_backend(variant, BackendOptions(threads=1))
        self._decoder = TrackedDecoder(self._backend.decoder)
        size = variant.manifest.spec.vision.image_px
        self._images = {}
        for name in PICTURES:
            pixels = to_pixels(read_picture(DEMO / "examples" / f"{name}.png"), size)
            self._images[name] = ImageTokens(self._backend.encoder.encode(pixels)[0], name)

    def answer(self, i, grammar=None, max_new_tokens=100):
        """The i-th question about the i-th picture, greedy at first, then ever more by chance."""
        prompt = make_prompt(self._template, (), QUESTIONS[i % len(QUESTIONS)])
        before, after = (tuple(self.tokenizer.encode(piece)) for piece in prompt.pieces)
        segments = [before, self._images[PICTURES[i % len(PICTURES)]], after]
        sampler = Sampler(SamplingOptions(temperature=(i % 5) * 0.5, seed=i))
        rest, _ = self._decoder.rewind_to_common(segments)
        constraint = None if grammar is None else grammar.start()
        stop_ids = self.tokenizer.stop_ids
        steps = generate(self._decoder, rest, Rules(sampler, stop_ids, max_new_tokens, constraint))
        ids, started = [], None
        while True:
            try:
                ids += next(steps).tokens
            except StopIteration as end:
                decode_s = time.perf_counter() - (started or time.perf_counter())
                return Told(self.tokenizer.decode(ids).strip(), end.value, len(ids), decode_s)
            started = started or time.perf_counter()

    def close(self):
        self._backend.close()


def list_forms(tokenizer):
    """(name, grammar, what an answer's text is checked with)."""
    for name, choices in CHOICES.items():
        yield name, make_choice_grammar(tokenizer, choices), choices.__contains__
    for name, schema in SCHEMAS.items():
        yield name, make_schema_grammar(tokenizer, json.dumps(schema)), make_check(schema)


def make_check(schema):
    validator = jsonschema.Draft202012Validator(schema)
    return lambda text: validator.is_valid(json.loads(text))


def main(n_answers):
    """Prints, for each form, how many answers hold and what a token takes beside a free one."""
    miniature = Miniature()
    free = [miniature.answer(i) for i in range(40)]
    print(f"free: {to_token_ms(free):.2f} ms a token")  # noqa: T201 - a script's output
    for name, grammar, holds in list_forms(miniature.tokenizer):
        told = [miniature.answer(i, grammar) for i in range(n_answers)]
        n_held = sum(holds(each.text) for each in told)
        n_cut = sum(each.reason == "length" for each in told)
        line = f"{name}: {n_held} of {n_answers} hold, {n_cut} cut, {to_token_ms(told):.2f} ms"
        print(f"{line} a token, as {told[0].text[:100]}")  # noqa: T201
    miniature.close()


def to_token_ms(told):
    """Milliseconds a token, the first one left out since the prompt's pass gives it."""
    n_tokens = sum(max(0, each.n_tokens - 1) for each in told)
    return 1000 * sum(each.decode_s for each in told) / max(1, n_tokens)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
