"""What a matrix's rounding costs, told from gradients, against the divergence that it causes."""

import numpy as np
import pytest

from quantize.calibrate.layer import MATRICES
from quantize.calibrate.packing import pack
from quantize.calibrate.sensitivity import measure_losses
from quantize.groupwise import round_matrix
from quantize.measure.reference import compute_logits
from quantize.recipe import INT4
from tests.torch.weights.random_weights import make_read
from tinyv_cli.evaluation.divergence import compute_divergences
from tinyv_cli.spec import make_tiny_spec

SPEC = make_tiny_spec(3)
NAMES = [
    f"language.layers.{layer}.{name}.weight"
    for layer in range(SPEC.language.n_layers)
    for name in MATRICES
]


@pytest.fixture(scope="module")
def measured():
    read = make_read(SPEC)
    generator = np.random.default_rng(4)
    width = SPEC.language.width
    prompts = [generator.standard_normal((n, width), np.float32) for n in range(12, 36)]
    found = measure_losses(SPEC.language, read, pack(prompts, SPEC.language), 1)
    exact = compute_logits(SPEC, read, prompts)

    def diverge(name):
        def read_one_rounded(wanted):
            tensor = read(wanted)
            return round_matrix(tensor, INT4).to_matrix() if wanted == name else tensor

        logits = compute_logits(SPEC, read_one_rounded, prompts)
        pairs = zip(exact, logits, strict=True)
        return np.concatenate([compute_divergences(one, other) for one, other in pairs]).mean()

    return found, {name: diverge(name) for name in NAMES}


def test_a_matrix_s_loss_is_about_the_divergence_that_its_rounding_causes(measured):
    found, true = measured
    assert found.keys() == true.keys()
    for name in NAMES:
        assert 0.6 < found[name] / true[name] < 1.6, (name, found[name], true[name])
