"""What quantising refuses before it writes a byte: published hashes, tokenizers, numbers."""

import json
import time

import pytest

from quantize.pipeline import QuantizeOptions, make_variant, plan_variant
from quantize.plan import make_plan
from quantize.recipe import RECIPES
from tests.torch.quantize.tiny_sources import (
    CHECKPOINT,
    PHI,
    QFORMER,
    VISION,
    change_content,
    write_tiny,
)
from tinyv_cli.app import main
from tinyv_cli.errors import MEMORY_HINT, DeviceError, ExitCode, WeightsError
from tinyv_cli.machine import memory
from tinyv_cli.machine.memory import MainMemory
from tinyv_cli.model.tinygptv import make_empty_model
from tinyv_cli.progress import show_nothing
from tinyv_cli.spec import ModelSpec, make_full_spec
from tinyv_cli.variants.hashes import hash_file
from weights.pulling.catalog import Catalog, PublicFile, SourceForm, SourcePart, read_catalog
from weights.reading.checkpoint import open_weights
from weights.reading.sources import resolve_sources
from weights.synthetic.plans import plan_qformer, plan_vision
from weights.synthetic.sources import SyntheticOptions

TOKENIZER = "phi-2/tokenizer.json"
CONFIG = "phi-2/config.json"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path):
    return write_tiny(tmp_path / "s")


def quantize(folder, *flags):
    words = ["quantize", "--sources", str(folder), "-o", str(folder.parent / "v"), "-q"]
    return main([*words, *flags])


def refuse(folder, capsys, *flags):
    """Quantises what must be refused; returns the error's first line."""
    capsys.readouterr()
    assert quantize(folder, *flags) == ExitCode.WEIGHTS
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 2)
    assert not (folder.parent / "v").exists()
    return err.splitlines()[0]


@pytest.fixture
def publish(monkeypatch):
    """Makes a list of published files that consists of one."""

    def publish(path, **facts):
        part = SourcePart("it", (SourceForm((PublicFile(path, (), **facts),)),))
        monkeypatch.setattr("quantize.pipeline.read_catalog", lambda: Catalog((part,)))

    return publish


@pytest.mark.parametrize("file", [PHI, VISION, QFORMER, CHECKPOINT])
def test_a_file_of_a_published_name_and_length_has_the_published_hash(
    folder, publish, capsys, file
):
    publish(file, size_bytes=(folder / file).stat().st_size, sha256="0" * 64)
    problem = refuse(folder, capsys)
    assert f"{file} is damaged: its SHA-256 starts {hash_file(folder / file)[:12]}" in problem


def test_a_rounded_length_is_matched_as_far_as_it_is_rounded(folder, publish, capsys):
    size_bytes = (folder / VISION).stat().st_size
    publish(VISION, about_bytes=round(size_bytes, -4), sha256="0" * 64)
    assert VISION in refuse(folder, capsys)
    publish(VISION, about_bytes=round(size_bytes, -4) + 10_000, sha256="0" * 64)
    assert quantize(folder) == ExitCode.OK


def test_a_published_hash_that_is_right_is_compared_once(folder, publish, monkeypatch):
    path = folder / CHECKPOINT
    publish(CHECKPOINT, size_bytes=path.stat().st_size, sha256=hash_file(path))
    hashed = []

    def note(path, bar=None):
        hashed.append(path.name)
        return hash_file(path, bar)

    monkeypatch.setattr("tinyv_cli.variants.hashes.hash_file", note)
    assert quantize(folder) == ExitCode.OK
    assert hashed.count(CHECKPOINT) == 1
    assert quantize(folder, "--force") == ExitCode.OK
    assert hashed.count(CHECKPOINT) == 1


def test_another_length_is_another_file(folder, publish):
    publish(PHI, size_bytes=(folder / PHI).stat().st_size + 1, sha256="0" * 64)
    assert quantize(folder) == ExitCode.OK


def test_random_sources_of_full_size_are_not_taken_for_the_published_ones():
    published = {each.path: each for each in read_catalog().list_files()}
    for file, plan in ((VISION, plan_vision), (QFORMER, plan_qformer)):
        tensors = plan(ModelSpec(stage=4), SyntheticOptions()).values()
        n_bytes = sum(each.dtype.itemsize * _count(each.shape) for each in tensors)
        assert published[file].size_bytes is None
        assert abs(n_bytes - published[file].about_bytes) > 5_000_000


def _count(shape):
    n = 1
    for length in shape:
        n *= length
    return n


def change_json(path, change):
    values = json.loads(path.read_text("utf-8"))
    change(values)
    path.write_text(json.dumps(values), "utf-8")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["model"]["vocab"].pop("é"), "has no token for the byte 233"),
        (lambda v: v["model"]["vocab"].update(zz=5), "gives two tokens the id 5"),
        (lambda v: v["model"]["vocab"].update(zz=512), "gives token 'zz' the id 512"),
        (lambda v: v["model"].update(dropout=7), "Dropout should be between 0 and 1"),
        (lambda v: v.update(decoder={"type": "Fuse"}), "is not a byte-level tokenizer"),
        (lambda v: v.update(decoder=None), "is not a byte-level tokenizer"),
        (  # tokenizers 909: a panic, which is no Exception
            lambda v: v.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
            "is not a tokenizer: chunk size must be non-zero",
        ),
        (
            lambda v: v.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
            "is not a",
        ),
    ],
)
def test_a_tokenizer_that_cannot_answer_is_refused_by_its_name_in_the_sources(
    folder, capfd, change, words
):
    change_json(folder / TOKENIZER, change)
    for flags in (["--dry-run"], []):
        problem = refuse(folder, capfd, *flags)  # nor does the library write to stderr by itself
        assert problem.startswith(f"error: {TOKENIZER} ")
        assert words in problem


def test_a_tokenizer_of_another_form_makes_a_variant(folder):
    def change(values):
        values["model"]["dropout"] = 0.9
        values["decoder"] = {"type": "Sequence", "decoders": [values["decoder"]]}

    change_json(folder / TOKENIZER, change)
    assert quantize(folder) == ExitCode.OK


@pytest.mark.parametrize(
    ("file", "section", "key"),
    [
        (CONFIG, None, "num_hidden_layers"),
        ("architecture.json", "qformer", "layers"),
        ("architecture.json", "vision", "layers"),
    ],
)
def test_a_thousand_layers_are_refused_before_they_are_made(folder, file, section, key):
    """It took 80 s: for each missing tensor, a set of all was made."""
    change_json(folder / file, lambda v: (v[section] if section else v).update({key: 1000}))
    start = time.process_time()
    with pytest.raises(WeightsError) as caught:
        open_weights(resolve_sources(folder))
    assert time.process_time() - start < 15
    assert "lacks" in caught.value.problem
    assert file.rpartition("/")[2] in caught.value.hint


def test_a_checkpoint_whose_dicts_hold_themselves_is_refused(folder):
    def change(content):
        content["config"]["model"]["again"] = content["config"]

    change_content(folder / CHECKPOINT, change)
    open_weights(resolve_sources(folder)).close()
    change_content(folder / CHECKPOINT, lambda content: content.update(more=[content["config"]]))
    with pytest.raises(WeightsError, match=f"{CHECKPOINT} holds lists or dicts without an end"):
        open_weights(resolve_sources(folder))


def test_a_network_too_large_for_the_memory_is_refused_with_figures(folder, monkeypatch):
    output = folder.parent / "v"
    options = QuantizeOptions(folder, output, bits=4, threads=1)
    least_bytes = plan_variant(options).least_bytes
    monkeypatch.setattr(memory, "read_main_memory", lambda: MainMemory(10**9, least_bytes - 1))
    with pytest.raises(DeviceError, match="of memory are free, quantising takes ") as refused:
        make_variant(options, show_nothing)
    assert refused.value.hint == MEMORY_HINT
    assert not list(folder.parent.glob("*v*"))
    monkeypatch.setattr(memory, "read_main_memory", lambda: MainMemory(10**9, least_bytes))
    make_variant(options, show_nothing)
    assert output.is_dir()


def test_what_full_size_cannot_do_without_is_less_than_what_it_takes():
    spec = make_full_spec(4)
    shapes = {name: tuple(t.shape) for name, t in make_empty_model(spec).state_dict().items()}
    plan = make_plan(spec, shapes, RECIPES[4])
    assert 2.2e9 < plan.least_bytes < 2.5e9 < plan.quantise_bytes < 4.5e9
