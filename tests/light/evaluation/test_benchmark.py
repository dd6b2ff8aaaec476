import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.light.toy_decoder import ToyDecoder, ToyEncoder, ToySlots
from tests.light.toy_tokenizer import make_tokenizer
from tests.light.toy_variant import make_manifest
from tinyv_cli.answers.slots import Slots
from tinyv_cli.backends.backend import Backend
from tinyv_cli.benchmark import bandwidth, machine
from tinyv_cli.benchmark import measure as measuring
from tinyv_cli.benchmark.measure import BenchPlan, count_bytes_per_token, make_picture, measure
from tinyv_cli.benchmark.spread import Repeats, Spread, make_spread, repeat, to_rate
from tinyv_cli.commands import bench
from tinyv_cli.disk import places
from tinyv_cli.engine import OpenEngine
from tinyv_cli.pictures.image import hash_pixels, to_pixels
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.variants import home, memory
from tinyv_cli.variants.manifest import FileEntry
from tinyv_cli.variants.memory import cache_bytes

ROOT = Path(__file__).resolve().parents[3]
SMALL_ARRAY_BYTES = 80_000


class Clock:
    """Time passes only where somebody works."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class TimedDecoder(ToyDecoder):
    """Takes 1/60 s a position of a prompt, and 1/20 s a token on its own; knows its prompts."""

    def __init__(self, clock, context_length=2048):
        super().__init__(context_length=context_length)
        self.clock = clock
        self.lengths = []

    def extend(self, segments):
        before = self.length
        logits = super().extend(segments)
        n_new = self.length - before
        self.lengths.append((before, n_new))
        self.clock.now_s += 1 / 20 if n_new == 1 else n_new / 60
        return logits

    def compute_logits(self):
        logits = np.zeros(300, np.float32)
        logits[97] = 1
        return logits


class TimedEncoder(ToyEncoder):
    """Takes 6 s a picture, and 0.7 s more the first time."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock
        self.seen = []

    def encode(self, pixels):
        self.clock.now_s += 6 if self.n_encoded else 6.7
        self.seen.append(hash_pixels(pixels))
        return super().encode(pixels)


class TimedEngine:
    """Opens a runtime that takes its time; knows all it opened."""

    def __init__(self, folder, context_length=2048, load_s=1.0):
        self.clock = Clock()
        self.opened = []
        self.image_px = 8
        self.template, self.notify = TEMPLATES["inst"], pytest.fail
        language = SimpleNamespace(vocab_size=300)
        manifest = SimpleNamespace(spec=SimpleNamespace(language=language), stop_ids=())
        self.variant = SimpleNamespace(manifest=manifest)
        self._tokenizer = make_tokenizer(folder)
        self._context_length, self._load_s = context_length, load_s

    @contextmanager
    def open(self):
        self.clock.now_s += self._load_s
        decoder = TimedDecoder(self.clock, self._context_length)
        backend = Backend(TimedEncoder(self.clock), ToySlots(decoder), "toy", self._load_s)
        self.opened.append(backend)
        slots = Slots(backend.slots, are_shared=False)
        yield OpenEngine(self, backend, self._tokenizer, backend.encoder, slots)


def measure_toy(engine, repeats, **plan):
    return measure(engine, BenchPlan(repeats, **plan), lambda _: None, engine.clock)


def test_rates_are_positions_and_tokens_by_the_time_they_took(tmp_path):
    engine = TimedEngine(tmp_path)
    measured = measure_toy(engine, Repeats(2))
    for spread in measured.prefill_tok_s.values():
        assert spread == Spread(pytest.approx(60), pytest.approx(60), pytest.approx(60), 2)
    for spread in measured.decode_tok_s.values():
        assert spread == Spread(pytest.approx(20), pytest.approx(20), pytest.approx(20), 2)
    assert measured.load_s == Spread(1, 1, 1, 2)
    assert measured.first_encode_s.median == pytest.approx(6.7)
    assert measured.answer_tokens == (32, 32)
    assert (measured.device, measured.context_length) == ("toy", 2048)


def test_prompts_start_empty_and_tokens_are_decoded_behind_their_depth(tmp_path):
    engine = TimedEngine(tmp_path)
    measure_toy(engine, Repeats(2), lengths=(32, 128), depths=(64, 300), n_decoded=4, n_answered=2)
    lengths = engine.opened[0].slots.decoders[0].lengths
    n_prompt = lengths[0][1]
    answers = [(0, n_prompt), (n_prompt, 1)] * 2
    prompts = [(0, 32), (0, 32), (0, 128), (0, 128)]
    deep, shallow = ([(depth + i, 1) for i in range(4)] * 2 for depth in (300, 64))
    assert lengths == [*answers, *prompts, (128, 172), *deep, *shallow]


def test_every_answer_is_about_a_new_picture(tmp_path):
    engine = TimedEngine(tmp_path)
    measure_toy(engine, Repeats(3))
    first = engine.opened[0].encoder
    assert len(set(first.seen)) == first.n_encoded == 4  # one for opening, then one an answer


def test_the_short_plan_measures_the_full_size_in_under_a_minute(tmp_path):
    engine = TimedEngine(tmp_path)
    measured = measure_toy(engine, Repeats(bench._N_REPEATS, bench._FIGURE_S))
    assert engine.clock.now_s < 57  # start-up and reading memory take the rest
    assert set(measured.prefill_tok_s) == {32, 128, 512}
    assert set(measured.decode_tok_s) == {64, 512, 1024}
    assert measured.decode_tok_s[64].repeats == measured.load_s.repeats == 3
    assert measured.total_s.repeats == measured.first_encode_s.repeats == 1


@pytest.mark.parametrize(("context_length", "depths"), [(64, [48]), (80, [64]), (10, [0])])
def test_decoding_is_measured_as_deep_as_there_is_room(context_length, depths):
    decoder = TimedDecoder(Clock(), context_length)
    ids = measuring.make_ids(context_length, 300)
    plan = BenchPlan(Repeats(1))
    found = measuring.measure_decoding(decoder, plan, ids, decoder.clock)
    assert list(found) == depths
    assert found[depths[0]].median == pytest.approx(20)


def test_the_whole_context_is_a_prompt_where_no_length_fits():
    decoder = TimedDecoder(Clock(), 20)
    ids = measuring.make_ids(20, 300)
    found = measuring.measure_prefill(decoder, BenchPlan(Repeats(1)), ids, decoder.clock)
    assert list(found) == [20]
    assert found[20].median == pytest.approx(60)


def test_bytes_of_a_token_are_weights_one_row_and_the_cache(place):
    manifest = home.resolve_variant("bits4").manifest
    spec = manifest.spec.language
    weights = next(each.size_bytes for each in manifest.files if each.role == "decoder-data")
    assert count_bytes_per_token(manifest, 0) == weights
    assert count_bytes_per_token(manifest, 64) == weights + cache_bytes(spec, 64)
    tables = [
        FileEntry(role, n * spec.vocab_size, "a" * 64, role)
        for role, n in (("embeddings", 40), ("embeddings-scales", 2))
    ]
    folder = places.variants_dir() / "bits4"
    larger = replace(make_manifest(folder), files=(*manifest.files, *tables))
    assert count_bytes_per_token(larger, 0) == weights + 42


def test_bytes_of_a_token_on_a_card_leave_out_all_embeddings_but_one_row(place):
    manifest = home.resolve_variant("bits4").manifest
    spec = manifest.spec.language
    row_bytes = spec.width + 4  # int8, and a scale in float32
    n_bytes = 1_000_000 + spec.vocab_size * row_bytes
    file = FileEntry("cuda-language.safetensors", n_bytes, "a" * 64, "cuda-language")
    manifest = replace(manifest, files=(*manifest.files, file))
    assert count_bytes_per_token(manifest, 0, "cuda") == 1_000_000 + row_bytes
    by_position = 2 * 2 * spec.n_layers * spec.width  # keys and values in float16
    assert count_bytes_per_token(manifest, 64, "cuda") == 1_000_000 + row_bytes + 64 * by_position


def test_pictures_differ_by_seed_only():
    first, again, other = (to_pixels(make_picture(seed), 16) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_spread_has_the_median_between_its_ends():
    assert make_spread([3, 1, 2]) == Spread(2, 1, 3, 3)
    assert make_spread([1, 2]) == Spread(1.5, 1, 2, 2)
    assert make_spread([5]) == Spread(5, 5, 5, 1)


@pytest.mark.parametrize(("limit_s", "n"), [(100, 5), (10, 4), (9, 3), (3, 1), (0, 1)])
def test_a_step_is_repeated_while_number_and_time_allow(limit_s, n):
    clock = Clock()

    def step():
        clock.now_s += 3
        return clock.now_s

    assert repeat(step, Repeats(5, limit_s), clock) == [3.0 * (i + 1) for i in range(n)]


def test_a_rate_is_finite_where_the_clock_stands_still():
    assert to_rate(10, 2) == 5
    assert 0 < to_rate(10, 0) < float("inf")


@pytest.mark.parametrize(
    ("free_bytes", "size_bytes"),
    [(64 << 30, 2_400_000_000), (400_000_004, 100_000_000), (0, 8_000_000)],
)
def test_less_memory_is_read_where_little_is_free(free_bytes, size_bytes):
    assert bandwidth.choose_array_bytes(free_bytes) == size_bytes


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_is_timed_over_the_whole_array(monkeypatch, threads):
    clock, read = Clock(), []

    def add_up(part):
        read.append(part)
        return int(np.add.reduce(part))

    def tick():
        clock.now_s += 0.5  # between any two looks
        return clock.now_s

    monkeypatch.setattr(bandwidth.np, "sum", add_up)
    spread = bandwidth.measure_bandwidth(threads, SMALL_ARRAY_BYTES, tick)
    assert spread.max == spread.min == pytest.approx(SMALL_ARRAY_BYTES / 1e9 / 0.5)
    assert sum(part.nbytes for part in read) == spread.repeats * SMALL_ARRAY_BYTES
    assert len(read) == spread.repeats * threads


def test_reading_takes_time():
    spread = bandwidth.measure_bandwidth(2, 8_000_000)
    assert 0.01 < spread.median < 10_000


def test_the_peak_of_memory_grows_with_what_is_touched():
    before = memory.read_peak_rss_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    assert before > 10_000_000
    array = np.ones(before // 4 + 50_000_000 // 4, np.float32)
    assert memory.read_peak_rss_bytes() >= before + 40_000_000
    assert array[0] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a peak on")
def test_the_peak_of_memory_is_not_that_of_the_process_before():
    array = np.ones(50_000_000, np.float32)
    code = (
        "from tinyv_cli.variants.memory import read_peak_rss_bytes as f; "
        "import resource; print(f(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own, handed_on = map(int, done.stdout.split())
    assert own < array.nbytes < handed_on


def test_the_machine_is_described_with_versions():
    about = machine.describe_machine(3)
    assert about["threads"] == 3
    assert about["onnxruntime"].count(".") >= 1
    assert all(isinstance(each, str | int | None) for each in about.values())
