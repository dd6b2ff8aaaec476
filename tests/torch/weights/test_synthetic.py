"""Random sources: the same numbers in every form, one tensor in memory, and a sane network."""

import json
import subprocess
import sys
import weakref

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tests.torch.quantize.tiny_sources import CHECKPOINT, find_differing, read_all, write_tiny
from tinyv_cli.errors import UsageError
from tinyv_cli.model.tinygptv import load_model
from tinyv_cli.spec import make_full_spec, make_tiny_spec
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.synthetic.__main__ import main
from weights.synthetic.plans import plan_checkpoint, plan_phi, plan_qformer, plan_vision
from weights.synthetic.sources import SyntheticOptions, write_sources
from weights.synthetic.streaming import PlannedTensor, write_safetensors_file, write_torch_file


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", ["fused", "split", "msft"])
def test_sources_say_the_spec_they_were_written_from(tmp_path, stage, layout):
    folder = write_tiny(tmp_path / "s", stage=stage, phi_layout=layout)
    with open_weights(resolve_sources(folder)) as weights:
        assert weights.spec == make_tiny_spec(stage)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    first = read_all(write_tiny(tmp_path / "a", seed=3))
    assert find_differing(first, read_all(write_tiny(tmp_path / "b", seed=3))) == []
    other = find_differing(first, read_all(write_tiny(tmp_path / "c", seed=4)))
    constant = {name for name in first if name.endswith(("q_layernorm.bias", "k_layernorm.bias"))}
    assert set(other) == set(first) - constant


def test_no_two_tensors_hold_the_same_numbers(tmp_path):
    tensors = read_all(write_tiny(tmp_path / "s"))
    starts = {tensor.flatten()[:8].numpy().tobytes() for tensor in tensors.values()}
    n_zero_biases = 4
    assert len(starts) == len(tensors) - n_zero_biases + 1


def test_what_another_file_replaces_is_different_there(tmp_path):
    folder = write_tiny(tmp_path / "s", qformer_in_checkpoint=True)
    blip2 = torch.load(folder / "blip2_pretrained_flant5xxl.pth", weights_only=True)["model"]
    trained = torch.load(folder / CHECKPOINT, weights_only=True)["model"]
    assert not torch.equal(blip2["query_tokens"], trained["query_tokens"])


def test_a_full_size_plan_has_the_published_sizes_and_holds_no_number():
    spec, options = make_full_spec(4), SyntheticOptions()
    plans = [plan(spec, options) for plan in (plan_phi, plan_vision, plan_qformer)]
    sizes = [sum(tensor.size_bytes for tensor in plan.values()) / 1e9 for plan in plans]
    assert sizes == pytest.approx([5.56, 2.02, 0.42], abs=0.01)
    assert len(plan_checkpoint(spec, options)) == 262


def plan_watched(dtype):
    """Five tensors that fail to be made while an earlier one is still in memory."""
    made: list[weakref.ref[torch.Tensor]] = []

    def make(i):
        assert not any(reference() is not None for reference in made)
        tensor = torch.full((3, 5), float(i), dtype=dtype)
        made.append(weakref.ref(tensor))
        return tensor

    return {f"t{i}": PlannedTensor((3, 5), dtype, lambda i=i: make(i)) for i in range(5)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_one_tensor_at_a_time_is_in_memory(tmp_path, dtype):
    torch_file, safetensors_file = tmp_path / "a.pth", tmp_path / "a.safetensors"
    write_torch_file(torch_file, plan_watched(dtype), {"epoch": 3})
    write_safetensors_file(safetensors_file, plan_watched(dtype))

    content = torch.load(torch_file, weights_only=True)
    assert content["epoch"] == 3
    for tensors in (content["model"], load_file(safetensors_file)):
        for i in range(5):
            wanted = torch.full((3, 5), float(i), dtype=dtype)
            assert torch.equal(tensors[f"t{i}"], wanted)


def test_the_network_looks_at_the_picture_and_its_logits_are_neither_flat_nor_certain(tmp_path):
    with open_weights(resolve_sources(write_tiny(tmp_path / "s", stage=3))) as weights:
        model = load_model(weights.spec, weights.read)
        text = weights.read("language.embed_tokens.weight")[None, 40:60]
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        image_tokens = model.encode(pixels)
        logits = [model.language(torch.cat([t[None], text], dim=1), None) for t in image_tokens]
    assert 1 < logits[0].std() < 10
    assert logits[0].softmax(dim=-1).amax(dim=-1).mean() < 0.9
    assert (logits[0] - logits[1])[0, -1].abs().max() > 0.1


def test_the_tokenizer_fits_the_vocabulary_and_knows_phis_marks(tmp_path):
    tokenizer = Tokenizer.from_file(str(write_tiny(tmp_path / "s") / "phi-2" / "tokenizer.json"))
    assert tokenizer.get_vocab_size() <= make_tiny_spec(4).language.vocab_size
    for mark in ("###", " ###", "<|endoftext|>", "    "):
        assert len(tokenizer.encode(mark).ids) == 1


def test_the_first_release_of_phi_has_a_config_of_its_own(tmp_path):
    folder = write_tiny(tmp_path / "s", phi_layout="msft")
    config = json.loads((folder / "phi-2" / "config.json").read_text())
    assert config["n_embd"] == 160
    assert config["n_inner"] is None
    assert "hidden_size" not in config


def test_a_folder_that_holds_sources_is_not_written_over(tmp_path):
    folder = write_tiny(tmp_path / "s")
    with pytest.raises(UsageError, match="holds sources already"):
        write_tiny(folder, seed=1)


@pytest.mark.parametrize(
    ("stage", "options", "words"),
    [
        (4, {"phi_layout": "phi"}, "phi_layout is 'phi'"),
        (4, {"container": "zip"}, "container is 'zip'"),
        (4, {"dtype": "int8"}, "dtype is 'int8'"),
        (4, {"seed": -1}, "seed is -1"),
        (1, {"lora_names": "base-layer"}, "stage 1 has no LoRA"),
    ],
)
def test_options_that_do_not_exist_are_refused(tmp_path, stage, options, words):
    with pytest.raises(UsageError, match=words):
        write_sources(tmp_path / "s", make_tiny_spec(stage), SyntheticOptions(**options))
    assert not (tmp_path / "s").exists()


def test_the_command_writes_what_its_options_say(tmp_path):
    folder = tmp_path / "s"
    arguments = ["--stage", "2", "--phi-layout", "split", "--container", "safetensors-sharded"]
    main([str(folder), *arguments, "--lora-names", "default", "--module-prefix", "--seed", "7"])
    wanted = read_all(write_tiny(tmp_path / "o", stage=2, seed=7))
    assert find_differing(wanted, read_all(folder)) == []
    assert (folder / "phi-2" / "model.safetensors.index.json").is_file()
    names = torch.load(folder / "TinyGPT-V_for_Stage2.pth", weights_only=True)["model"]
    assert all(name.startswith("module.") for name in names)
    assert any(name.endswith("lora_A.default.weight") for name in names)


def test_the_command_says_what_is_wrong_and_how_to_go_on(tmp_path):
    (tmp_path / "phi-2").mkdir()
    command = [sys.executable, "-m", "weights.synthetic", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert "\nhint:  " in run.stderr
