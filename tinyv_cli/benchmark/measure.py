"""A variant that can be opened becomes times and rates, without a table or a file.

Everything runs through the session and the backend that `tinyv ask` opens. What the session times
itself, a picture's encoding and an answer, is taken from its books.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from tinyv_cli.answers.generate import Decoder, Rules, generate
from tinyv_cli.answers.reply import Answer
from tinyv_cli.answers.sampling import Sampler, SamplingOptions
from tinyv_cli.benchmark.spread import Clock, Repeats, Spread, make_spread, repeat, to_rate
from tinyv_cli.engine import Engine, OpenEngine
from tinyv_cli.pictures.image import to_pixels
from tinyv_cli.session import AnswerOptions
from tinyv_cli.variants.manifest import Manifest
from tinyv_cli.variants.memory import cache_bytes, cuda_table_bytes, read_peak_rss_bytes

QUESTION = "[caption] describe this picture"

_PICTURE_PX = (640, 480)
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_ID_STEP = 7919  # a prime: neighbours in a prompt are far apart in the table of embeddings


@dataclass(frozen=True)
class BenchPlan:
    """The figures to measure, and how often.

    Attributes:
        repeats: of each figure.
        lengths: positions of the prompts; those longer than the context are left out.
        depths: positions cached before decoding; those without room behind them are left out.
        n_decoded: tokens decoded behind each depth, at least 1.
        n_answered: the longest answer about a picture, in tokens.
        parallel: numbers of answers at once; none leaves them out.
        parallel_depth: positions cached before each of them.
    """

    repeats: Repeats
    lengths: tuple[int, ...] = (32, 128, 512)
    depths: tuple[int, ...] = (64, 512, 1024)
    n_decoded: int = 16
    n_answered: int = 32
    parallel: tuple[int, ...] = ()
    parallel_depth: int = 96

    @property
    def n_positions(self) -> int:
        """Positions of all that is computed at once, but for a question about a picture."""
        n_at_once = max(self.parallel, default=0) * (self.parallel_depth + self.n_decoded)
        return max(*self.lengths, max(self.depths) + self.n_decoded, n_at_once)


@dataclass(frozen=True)
class Measured:
    """The figures of an open variant; `_s` is seconds, `_tok_s` tokens a second.

    Attributes:
        device: where it ran.
        context_length: positions there was room for.
        load_s: opening the decoder, as the backend tells it.
        first_encode_s: the first picture after opening, which also opens the vision side.
        encode_s: a later picture.
        first_token_s: from the question to the first token, a new picture's encoding included.
        total_s: from the question to the answer's end.
        answer_tokens: tokens of each answer.
        prefill_tok_s: by positions of a prompt behind an empty cache.
        decode_tok_s: by positions cached before the first of the tokens.
        parallel_tok_s: of all answers together, by how many there are at once.
        peak_rss_bytes: of the process after all that, with one variant open; None on Windows.
    """

    device: str
    context_length: int
    load_s: Spread
    first_encode_s: Spread
    encode_s: Spread
    first_token_s: Spread
    total_s: Spread
    answer_tokens: tuple[int, ...]
    prefill_tok_s: dict[int, Spread]
    decode_tok_s: dict[int, Spread]
    parallel_tok_s: dict[int, Spread]
    peak_rss_bytes: int | None


def measure(
    engine: Engine, plan: BenchPlan, note: Callable[[str], None], clock: Clock = perf_counter
) -> Measured:
    """Measures an opened variant, and opens it again for the figures of opening.

    Args:
        engine: that is opened anew, as `tinyv ask` does.
        plan: what to measure.
        note: takes a word on what is being measured.
        clock: tells the time in seconds; a session's own times are not taken by it.

    Raises:
        InputError: the question about a picture does not fit the context.
        DeviceError, UsageError, WeightsError: the variant cannot be opened.
    """
    note("opening and pictures")
    vocab_size = engine.variant.manifest.spec.language.vocab_size
    with engine.open() as opened:
        loads = [opened.backend.load_s]
        first_encodes = [_time_encode(opened, clock)]
        answers = _ask_repeatedly(opened, plan, clock)
        decoder = opened.decoder
        ids = make_ids(decoder.context_length, vocab_size)
        note("prompts")
        prefill_tok_s = measure_prefill(decoder, plan, ids, clock)
        note("decoding")
        decode_tok_s = measure_decoding(decoder, plan, ids, clock)
        device, context_length = opened.backend.device, decoder.context_length
        peak_rss_bytes = read_peak_rss_bytes()
    del opened, decoder  # and their gigabytes, before the same are opened again
    note("opening again")
    _open_again(engine, plan.repeats, loads, first_encodes, clock)
    parallel_tok_s: dict[int, Spread] = {}
    if plan.parallel:
        note("several answers at once")
        parallel_tok_s = measure_parallel(engine, plan, clock)
    timings = [answer.timings for answer in answers]
    return Measured(
        device=device,
        context_length=context_length,
        load_s=make_spread(loads),
        first_encode_s=make_spread(first_encodes),
        encode_s=make_spread([each.encode_s for each in timings]),
        first_token_s=make_spread([each.first_token_s or each.total_s for each in timings]),
        total_s=make_spread([each.total_s for each in timings]),
        answer_tokens=tuple(answer.usage.completion_tokens for answer in answers),
        prefill_tok_s=prefill_tok_s,
        decode_tok_s=decode_tok_s,
        parallel_tok_s=parallel_tok_s,
        peak_rss_bytes=peak_rss_bytes,
    )


def measure_start(repeats: Repeats, clock: Clock = perf_counter) -> Spread:
    """Measures the seconds from a new process to the first line of `tinyv --help`."""
    return make_spread(repeat(lambda: _time_start(clock), repeats, clock))


def measure_prefill(
    decoder: Decoder, plan: BenchPlan, ids: Sequence[int], clock: Clock
) -> dict[int, Spread]:
    """Measures positions a second of prompts behind an empty cache, by their length.

    Args:
        decoder: holds anything; left with the longest prompt.
        plan: lengths that do not fit are left out; where none does, the whole context is one.
        ids: what stands at each position, (C,).
        clock: tells the time in seconds.
    """
    fitting = [each for each in sorted(plan.lengths) if each <= decoder.context_length]

    def time_prompt(length: int) -> float:
        decoder.rewind(0)
        started = clock()
        decoder.extend([tuple(ids[:length])])
        return to_rate(length, clock() - started)

    return {
        length: make_spread(repeat(partial(time_prompt, length), plan.repeats, clock))
        for length in fitting or [decoder.context_length]
    }


def measure_decoding(
    decoder: Decoder, plan: BenchPlan, ids: Sequence[int], clock: Clock
) -> dict[int, Spread]:
    """Measures tokens a second, decoded one by one, by the positions cached before them.

    Args:
        decoder: holds a beginning of `ids`, whose positions are not computed again.
        plan: depths that do not fit are left out; where none does, the deepest that does is one.
        ids: what stands at each position, (C,).
        clock: tells the time in seconds.
    """
    deepest = max(0, decoder.context_length - plan.n_decoded)
    fitting = [each for each in sorted(plan.depths) if each <= deepest] or [deepest]

    def time_tokens(depth: int) -> float:
        decoder.rewind(depth)
        chooser = Sampler(SamplingOptions())
        started = clock()
        tokens = generate(decoder, [(ids[depth],)], Rules(chooser, (), plan.n_decoded))
        n_tokens = sum(1 for _ in tokens)  # one forward pass each
        return to_rate(n_tokens, clock() - started)

    rates = {}
    for depth in reversed(fitting):  # the deepest first: the others lie in it
        if decoder.length < depth:
            decoder.extend([tuple(ids[decoder.length : depth])])
        rates[depth] = make_spread(repeat(partial(time_tokens, depth), plan.repeats, clock))
    return {depth: rates[depth] for depth in fitting}


def measure_parallel(engine: Engine, plan: BenchPlan, clock: Clock) -> dict[int, Spread]:
    """Measures tokens a second of several answers together, by how many there are.

    Args:
        engine: that is opened anew, with room for all of them.
        plan: how many, and behind how many positions.
        clock: tells the time in seconds.
    """
    n_slots, depth = max(plan.parallel), plan.parallel_depth
    context_length = min(engine.context_length, depth + plan.n_decoded)
    depth = context_length - plan.n_decoded
    options = replace(engine.options, n_slots=n_slots, context_length=context_length)
    ids = make_ids(context_length, engine.variant.manifest.spec.language.vocab_size)
    with replace(engine, options=options).open() as opened:
        decoder = opened.backend.slots
        decoder.extend(0, [ids[:depth]])
        for slot in range(1, n_slots):
            decoder.copy(0, slot, depth)

        def time_steps(n: int) -> float:
            for slot in range(n_slots):
                decoder.rewind(slot, depth)
            started = clock()
            for token in ids[depth:]:
                decoder.step(dict.fromkeys(range(n), token))
            return to_rate(n * plan.n_decoded, clock() - started)

        return {
            n: make_spread(repeat(partial(time_steps, n), plan.repeats, clock))
            for n in plan.parallel
        }


def count_bytes_per_token(manifest: Manifest, depth: int, device: str = "cpu") -> int:
    """Bytes that decoding one token reads.

    All of the decoder's weights as the variant stores them (the file `decoder-data`; the
    runtime rearranges the same bits), one row of the token embeddings, and the keys and values of
    `depth` positions in float32. What is computed on the way is small and stays in the caches.
    On a card the file `cuda-language`, of whose embeddings one row in int8 counts, and keys and
    values in float16.

    Args:
        manifest: of the variant.
        depth: positions cached before the token.
        device: `cuda`, or the CPU.
    """
    spec = manifest.spec.language
    if device == "cuda":
        weights = manifest.count_bytes("cuda-language") - cuda_table_bytes(spec)
        row_bytes = cuda_table_bytes(spec) // spec.vocab_size
        return weights + row_bytes + cache_bytes(spec, depth) // 2
    row_bytes = manifest.count_bytes("embeddings", "embeddings-scales") // spec.vocab_size
    return manifest.count_bytes("decoder-data") + row_bytes + cache_bytes(spec, depth)


def make_picture(seed: int) -> Image.Image:
    """Draws a picture of nothing: rectangles in random colours, another one for each seed."""
    rng = np.random.default_rng(seed)
    width, height = _PICTURE_PX
    image = np.empty((height, width, 3), np.uint8)
    image[:] = rng.integers(0, 256, 3)
    for _ in range(12):
        left, right = sorted(rng.integers(0, width, 2))
        top, bottom = sorted(rng.integers(0, height, 2))
        image[top : bottom + 1, left : right + 1] = rng.integers(0, 256, 3)
    return Image.fromarray(image)


def make_ids(n: int, vocab_size: int) -> tuple[int, ...]:
    """Token ids of a prompt that says nothing, the same ones each time."""
    return tuple(_ID_STEP * (i + 1) % vocab_size for i in range(n))


def _time_start(clock: Clock) -> float:
    """Seconds from the start of a process to its first line."""
    command = [sys.executable, "-m", "tinyv_cli", "--help"]
    started = clock()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=_PACKAGE_PARENT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        elapsed_s = clock() - started
        process.stdout.read()
    return elapsed_s


def _time_encode(opened: OpenEngine, clock: Clock) -> float:
    """Seconds from pixels to image tokens."""
    pixels = to_pixels(make_picture(0), opened.engine.image_px)
    started = clock()
    opened.encoder.encode(pixels)
    return clock() - started


def _ask_repeatedly(opened: OpenEngine, plan: BenchPlan, clock: Clock) -> list[Answer]:
    """Asks about a new picture each time, with nothing left in the cache."""
    session = opened.start_session()
    options = AnswerOptions(max_new_tokens=plan.n_answered)
    pictures = iter(range(1, plan.repeats.n + 1))

    def ask() -> Answer:
        opened.decoder.rewind(0)
        session.show(make_picture(next(pictures)), opened.engine.image_px)
        return session.ask(QUESTION, options).finish()

    return repeat(ask, plan.repeats, clock)


def _open_again(
    engine: Engine,
    repeats: Repeats,
    loads: list[float],
    first_encodes: list[float],
    clock: Clock,
) -> None:
    """Adds further times of opening, and of the picture after it while that is short enough."""
    while len(loads) < repeats.n and sum(loads) < repeats.limit_s:
        with engine.open() as opened:
            loads.append(opened.backend.load_s)
            if sum(first_encodes) < repeats.limit_s:
                first_encodes.append(_time_encode(opened, clock))
        del opened
