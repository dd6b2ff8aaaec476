"""Numbers of the configs become the model's, or are refused as nonsense."""

import json

import pytest

from tests.light.weights.test_sources import FILES
from tinyv_cli.errors import WeightsError
from tinyv_cli.spec import LanguageSpec, QFormerSpec, VisionSpec
from weights.reading.dimensions import make_spec, read_lora_alpha
from weights.reading.sources import resolve_sources

PHI = {
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 51200,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "partial_rotary_factor": 0.4,
    "hidden_act": "gelu_new",
}
MSFT = {
    "n_embd": 2560,
    "n_inner": None,
    "n_layer": 32,
    "n_head": 32,
    "n_head_kv": None,
    "vocab_size": 51200,
    "n_positions": 2048,
    "layer_norm_epsilon": 1e-5,
    "rotary_dim": 32,
    "activation_function": "gelu_new",
}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "phi-2").mkdir()
    for name in FILES:
        (tmp_path / name).touch()

    def write(phi=PHI, architecture=None):
        (tmp_path / "phi-2" / "config.json").write_text(json.dumps(phi))
        if architecture is not None:
            (tmp_path / "architecture.json").write_text(json.dumps(architecture))
        return resolve_sources(tmp_path)

    return write


def refuse(files, settings=None) -> str:
    with pytest.raises(WeightsError) as caught:
        make_spec(files, settings or {}, 4096)
    assert caught.value.hint
    return caught.value.problem


@pytest.mark.parametrize("config", [PHI, MSFT], ids=["transformers", "msft"])
def test_the_published_configs_say_the_published_numbers(files, config):
    spec = make_spec(files(config), {}, 4096)
    assert spec.language == LanguageSpec()
    assert spec.vision == VisionSpec()
    assert spec.qformer == QFormerSpec()


def test_rotary_numbers_are_read_where_transformers_5_puts_them(files):
    rope = {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    phi = {**PHI, "rope_parameters": rope}
    del phi["rope_theta"], phi["partial_rotary_factor"]
    language = make_spec(files(phi), {}, 4096).language
    assert (language.rope_base, language.rotary_width) == (500.0, 40)


def test_the_first_release_may_give_the_mlp_a_width(files):
    assert make_spec(files({**MSFT, "n_inner": 5120}), {}, 4096).language.mlp_width == 5120


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "has no hidden_size"),
        ({"intermediate_size": None}, "has no intermediate_size"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": 2560.0}, "hidden_size is 2560.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_attention_heads": 33}, "33 heads for a width of 2560"),
        ({"num_key_value_heads": 8}, "8 key heads for 32 heads"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"layer_norm_eps": float("nan")}, "NaN is not a number"),
        ({"rope_theta": float("inf")}, "Infinity is not a number"),
        ({"vocab_size": 2**31}, "vocab_size is 2147483648"),
        ({"hidden_size": -(2**31)}, "hidden_size is -2147483648"),
        ({"num_attention_heads": 10**400}, "num_attention_heads is 1000"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings is 2147483648"),
        ({"max_position_embeddings": 32}, "has room for 32 positions, a picture takes 32"),
        ({"layer_norm_eps": 2**31}, "layer_norm_eps is 2147483648"),
        ({"layer_norm_eps": 1e-320}, "layer_norm_eps is 1e-320"),
        ({"rope_theta": -10000.0}, "rope_theta is -10000.0"),
        ({"rope_theta": 3.4e38}, "rope_theta is 3.4e+38"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"partial_rotary_factor": 1e308}, "partial_rotary_factor is 1e+308"),
        ({"num_key_value_heads": 2**31}, "num_key_value_heads is 2147483648"),
        ({"partial_rotary_factor": 1.5}, "rotates 120 of the 80"),
        ({"partial_rotary_factor": 0.3875}, "rotates 31 of the 80"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"rope_scaling": {"rope_type": None, "type": "linear"}}, "rope_scaling is"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_nonsense_in_phis_config_is_refused(files, changes, words):
    problem = refuse(files({**PHI, **changes}))
    assert words in problem
    assert "phi-2/config.json" in problem


@pytest.mark.parametrize("digits", ["1e400", "-1e400", "9" * 5000])
def test_a_number_that_no_float_or_reader_holds_is_refused(files, tmp_path, digits):
    files()
    path = tmp_path / "phi-2/config.json"
    path.write_text(path.read_text().replace("51200", digits))
    assert f"{path} is damaged" in refuse(resolve_sources(tmp_path))


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (PHI, {"rotary_dim": 40}, "rotary_dim is 40, but partial_rotary_factor is 0.4 of 80"),
        (PHI, {"rope_parameters": {"rope_theta": 500.0}}, "but rope_parameters.rope_theta is 500"),
        (PHI, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        (PHI, {"rope_scaling": {"type": "default", "rope_theta": 1e6}}, "rope_scaling.rope_theta"),
        (PHI, {"rope_parameters": {"rotary_dim": 16}}, "rotary_dim is 16, but partial_rotary"),
        (MSFT, {"rope_parameters": {"rotary_dim": 16}}, "but rope_parameters.rotary_dim is 16"),
        (MSFT, {"rope_scaling": {"partial_rotary_factor": 0.5}}, "rope_scaling.partial_rotary"),
        (MSFT, {"rope_parameters": {"full": {"rope_theta": 5.0}}}, "rope_parameters is"),
        (PHI, {"n_embd": 1024}, "hidden_size is 2560, but n_embd is 1024"),
        (PHI, {"n_layer": 24}, "num_hidden_layers is 32, but n_layer is 24"),
        (MSFT, {"layer_norm_eps": 1e-6}, "but layer_norm_epsilon is 1e-05"),
        (MSFT, {"hidden_act": "relu"}, "hidden_act is 'relu', but activation_function"),
    ],
)
def test_two_keys_for_one_number_agree_or_are_refused(files, config, changes, words):
    problem = refuse(files({**config, **changes}))
    assert words in problem
    assert problem.startswith("phi-2/config.json says ")


def test_two_keys_that_agree_are_no_fault(files):
    more = {"rotary_dim": 32, "rope_parameters": {"rope_theta": 10000, "rotary_dim": 32}}
    assert make_spec(files({**PHI, **MSFT, **more}), {}, 4096).language == LanguageSpec()


def test_architecture_gives_what_differs_and_leaves_the_rest(files):
    architecture = {"vision": {"width": 176, "heads": 2, "layers": 3}, "qformer": {"layers": 4}}
    spec = make_spec(files(architecture=architecture), {}, 4096)
    assert spec.vision == VisionSpec(width=176, n_heads=2, n_layers=3)
    assert spec.qformer == QFormerSpec(n_layers=4)


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ({"vision": {"depth": 3}}, "an unknown key: depth"),
        ({"visual": {}}, "an unknown key: visual"),
        ({"vision": 3}, "vision is 3"),
        ({"vision": {"width": 0}}, "width is 0"),
        ({"qformer": {"heads": 7}}, "7 heads for a width of 768"),
        ({"vision": {"image_px": 450}}, "450 pixels"),
    ],
)
def test_nonsense_in_architecture_is_refused(files, architecture, words):
    assert words in refuse(files(architecture=architecture))


@pytest.mark.parametrize(
    ("vision", "settings", "image_px"),
    [
        ({}, {}, 448),
        ({}, {"image_size": 224}, 224),
        ({"image_px": 56}, {"image_size": 224}, 56),
        ({"image_size": 112}, {}, 112),
    ],
)
def test_architecture_tells_the_pictures_size_before_the_checkpoint_before_the_stage(
    files, vision, settings, image_px
):
    spec = make_spec(files(architecture={"vision": vision}), settings, 4096)
    assert spec.vision.image_px == image_px


@pytest.mark.parametrize("size", ["448", 450, 0, 10**7, [448, 448]])
def test_a_picture_size_that_makes_no_sense_is_refused(files, size):
    assert str(size) in refuse(files(), {"image_size": size})


def test_alpha_is_the_checkpoints_else_16(files):
    assert read_lora_alpha(files(), {}) == 16
    assert read_lora_alpha(files(), {"lora_alpha": 32}) == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"lora_alpha": 32},
        {"config": {"lora_alpha": 32, "model": {"image_size": 448}}},
        {"config": {"run": {"peft": {"lora_alpha": 32.0}}, "model": {"lora_alpha": 32}}},
        {"epoch": 3, "lora_config": {"lora_alpha": 32, "use_rslora": False, "rank_pattern": {}}},
    ],
)
def test_alpha_is_found_wherever_it_stands(files, settings):
    assert read_lora_alpha(files(), settings) == 32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"config": {"lora_alpha": 8, "model": {"lora_alpha": 16}}}, "but config.model.lora_alpha"),
        ({"config": {"model": {"use_rslora": True}}}, "config.model.use_rslora is True"),
        ({"config": {"use_rslora": "yes", "model": {}}}, "config.use_rslora is 'yes'"),
        ({"use_rslora": 1}, "use_rslora is 1"),
        ({"config": {"run": {"use_dora": True}}}, "config.run.use_dora is True"),
        ({"config": {"model": {"alpha_pattern": {"dense": 4}}}}, "alpha_pattern is {'dense': 4}"),
    ],
)
def test_another_scale_of_lora_is_refused_by_name(files, settings, words):
    with pytest.raises(WeightsError) as caught:
        read_lora_alpha(files(), settings)
    assert caught.value.problem.startswith("TinyGPT-V_for_Stage4.pth says ")
    assert words in caught.value.problem


def test_settings_that_hold_themselves_are_read(files):
    settings = {"lora_alpha": 4}
    settings["config"] = {"model": settings}
    assert read_lora_alpha(files(), settings) == 4


@pytest.mark.parametrize("alpha", ["16", 0, -1, True, float("nan"), float("inf")])
def test_an_alpha_that_makes_no_sense_is_refused(files, alpha):
    with pytest.raises(WeightsError, match=r"TinyGPT-V_for_Stage4\.pth says lora_alpha is"):
        read_lora_alpha(files(), {"lora_alpha": alpha})
