"""The streamed reference: what the whole network computes, with one layer in memory."""

import weakref
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from quantize.measure.reference import compute_image_tokens, compute_logits
from tests.torch.weights.random_weights import make_read
from tinyv_cli.model.tinygptv import load_model, make_empty_model
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)


def make_pixels(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, 224, 224), dtype=np.float32)


def make_prompts(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((n, SPEC.language.width), dtype=np.float32) for n in lengths]


def relative_error(out: np.ndarray, reference: np.ndarray) -> float:
    assert out.shape == reference.shape
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


class WatchedRead:
    """Reads random tensors, counting how often and how many bytes of them live at once."""

    def __init__(self) -> None:
        self.read = make_read(SPEC)
        self.times: Counter[str] = Counter()
        self.live_bytes = self.peak_bytes = 0

    def __call__(self, name: str) -> torch.Tensor:
        array = self.read(name).numpy()
        self.times[name] += 1
        self.live_bytes += array.nbytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(array, self.forget, array.nbytes)  # the tensor's storage holds the array
        return torch.from_numpy(array)

    def forget(self, n_bytes: int) -> None:
        self.live_bytes -= n_bytes


def sum_bytes(part: str) -> int:
    module = make_empty_model(SPEC).get_submodule(part)
    return sum(t.numel() * 4 for t in module.state_dict().values())


def run_pictures(read: Callable[[str], torch.Tensor]) -> None:
    compute_image_tokens(SPEC, read, make_pixels(1))


def run_prompts(read: Callable[[str], torch.Tensor]) -> None:
    compute_logits(SPEC, read, make_prompts(3, 5))


def test_streamed_image_tokens_are_those_of_the_whole_network():
    read, pixels = make_read(SPEC), make_pixels(3)
    whole = load_model(SPEC, read).encode(torch.from_numpy(pixels)).numpy()
    assert relative_error(compute_image_tokens(SPEC, read, pixels), whole) < 1e-5


def test_streamed_logits_are_those_of_the_whole_network_for_prompts_of_any_length():
    read, prompts = make_read(SPEC), make_prompts(1, 40, 7)
    language = load_model(SPEC, read).language
    streamed = compute_logits(SPEC, read, prompts)
    assert len(streamed) == len(prompts)
    for out, prompt in zip(streamed, prompts, strict=True):
        whole = language(torch.from_numpy(prompt)[None])[0].numpy()
        assert relative_error(out, whole) < 1e-5


def test_every_tensor_of_the_network_is_read_once_but_the_embeddings():
    read = WatchedRead()
    run_pictures(read)
    run_prompts(read)
    names = set(make_empty_model(SPEC).state_dict()) - {"language.embed_tokens.weight"}
    assert read.times == Counter(names)


@pytest.mark.parametrize(
    ("run", "largest"),
    [
        (run_pictures, "vision.layers.0"),
        (run_prompts, "language.layers.0"),
    ],
)
def test_one_layer_is_in_memory_at_a_time(run: Callable[..., None], largest: str):
    read = WatchedRead()
    run(read)
    queries_bytes = SPEC.qformer.n_queries * SPEC.qformer.width * 4
    assert read.peak_bytes <= sum_bytes(largest) + queries_bytes
    assert read.live_bytes == 0
