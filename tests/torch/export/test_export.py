"""The exported file against our own graphs, in other runtimes, and what is left of a failure."""

import json
import re

import numpy as np
import onnx
import pytest
import torch

from quantize.export.request import OPSETS, ExportOptions
from tests.demo import DEMO
from tests.golden import CASES, needs_golden
from tests.torch.conftest import open_variant, read_golden_case
from tests.torch.export.exported import (
    MINIATURE,
    SOURCES,
    needs_openvino,
    needs_optimum,
    open_in_openvino,
)
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.app import main
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.errors import DeviceError, ExitCode, WeightsError
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.progress import show_nothing
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.session import AnswerOptions, Session
from tinyv_cli.variants import miniature as miniature_files
from tinyv_cli.variants.manifest import read_variant

pytestmark = needs_optimum

EXAMPLES = DEMO / "examples"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Gives the folder that sources are exported to, once for each."""
    from quantize.export.pipeline import export_vision

    home = tmp_path_factory.mktemp("exported")

    def export(name, dtype="float32"):
        folder = home / f"{name}-{dtype}"
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(miniature_files, "miniature_dir", lambda: DEMO)
                export_vision(ExportOptions(SOURCES[name], folder, dtype=dtype), show_nothing)
        return folder

    return export


def run_onnxruntime(folder, pixels):
    """Without operators of its own maker's: those of ONNX alone are looked up."""
    model = onnx.load(folder / "vision.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert [each.domain for each in model.opset_import] == [""]
    path = str(folder / "vision.onnx")
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
        None, {"pixel_values": pixels}
    )[0]


def relative(out, expected):
    return float(np.linalg.norm(out - expected) / np.linalg.norm(expected))


@needs_golden
@pytest.mark.parametrize("case", CASES)
def test_our_own_graph_is_held_to_the_one_that_optimum_exports(case, exported, golden_variant):
    golden = read_golden_case(case)
    pixels = np.concatenate([golden.tensors["pixel_values"]] * 2)
    pixels[1] = -pixels[0, :, ::-1]  # a batch, and another picture
    witness = run_onnxruntime(exported(case), pixels)
    own = open_variant(golden_variant(case, 32)).backend.encoder.encode(pixels)
    assert relative(own, witness) < 1e-5
    assert relative(witness[:1], golden.tensors["image_embeds"]) < 1e-3


@needs_golden
@needs_openvino
@pytest.mark.parametrize("case", CASES)
def test_another_makers_runtime_computes_the_tokens_that_lead_to_the_golden_answers(
    case, exported, golden_variant
):
    golden = read_golden_case(case)
    tokens = open_in_openvino(exported(case) / "vision.onnx")(golden.tensors["pixel_values"])
    assert relative(tokens, golden.tensors["image_embeds"]) < 1e-3
    opened = open_variant(golden_variant(case, 32))
    template = TEMPLATES[golden.facts["template"]]
    session = Session(
        _Fixed(tokens), opened.backend.decoder, opened.tokenizer, template, notify=pytest.fail
    )
    session.show(golden.picture, golden.facts["image_size"])
    for turn in golden.turns:
        answer = session.ask(turn["question"], AnswerOptions(24)).finish()
        assert list(answer.token_ids) == turn["greedy_ids"]


class _Fixed:
    """An encoder whose image tokens another runtime has computed."""

    def __init__(self, tokens):
        self.encode = lambda pixels: tokens


@pytest.fixture(scope="module")
def miniature():
    """The miniature as it is carried, open."""
    variant = read_variant(DEMO / "variant")
    backend = open_backend(variant, BackendOptions(threads=1))
    return variant, backend, Tokenizer(variant.path("tokenizer"))


@needs_openvino
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_miniature_answers_from_openvinos_tokens_as_from_torchs(dtype, exported, miniature):
    from quantize.measure.reference import compute_image_tokens
    from weights.reading.checkpoint import open_weights
    from weights.reading.sources import resolve_sources

    variant, backend, tokenizer = miniature
    template = TEMPLATES[variant.manifest.template]
    pictures = [read_picture(path) for path in sorted(EXAMPLES.glob("*.png"))]
    pixels = np.concatenate([to_pixels(each, 224) for each in pictures])
    with open_weights(resolve_sources(SOURCES[MINIATURE])) as weights:
        exact = compute_image_tokens(weights.spec, weights.read, pixels)
    path = exported(MINIATURE, dtype) / "vision.onnx"
    tokens = open_in_openvino(path)(pixels.astype(dtype)).astype(np.float32)
    assert relative(tokens, exact) < {"float32": 1e-5, "float16": 1e-2}[dtype]
    answers = []
    for pairs in zip(exact, tokens, strict=True):
        said = []
        for image in pairs:
            encoder = _Fixed(image[None])
            session = Session(encoder, backend.decoder, tokenizer, template, notify=pytest.fail)
            session.show(pictures[0], 224)
            said.append(session.ask("[vqa] what is this?", AnswerOptions(12)).finish().token_ids)
        answers.append(said)
    assert all(first == second for first, second in answers)
    assert len({first for first, _ in answers}) > 1  # pictures count


@needs_openvino
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_page_beside_it_says_how_to_run_it(dtype, exported, monkeypatch):
    folder = exported(MINIATURE, dtype)
    page = (folder / "README.md").read_text("utf-8")
    assert len(page.splitlines()) <= 20
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    picture = EXAMPLES / "cat.png"
    monkeypatch.chdir(folder)
    names = {}
    exec(code.replace("cat.jpg", str(picture)), names)  # what a reader would paste
    pixels = to_pixels(read_picture(picture), 224)
    expected = run_onnxruntime(exported(MINIATURE), pixels)
    assert relative(names["image_tokens"], expected) < {"float32": 1e-5, "float16": 1e-3}[dtype]


def test_what_has_to_be_known_lies_beside_it(exported, tmp_path):
    about = json.loads((exported(MINIATURE) / "vision.json").read_text("utf-8"))
    assert about["pixel_values"]["shape"] == ["batch_size", 3, 224, 224]
    assert about["image_tokens"]["shape"] == ["batch_size", 32, 256]
    assert about["template"]["before_question"] == TEMPLATES["inst"].before_question
    assert about["toy"] is True
    assert {each.name for each in exported(MINIATURE).iterdir()} == {
        "README.md",
        "vision.json",
        "vision.onnx",
    }


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_the_oldest_and_the_newest_operators_can_be_had(opset, tiny_sources, tmp_path, capsys):
    words = ["--sources", str(tiny_sources), "-o", str(tmp_path / "out"), "--opset", str(opset)]
    assert main(["export", *words, "-q"]) == ExitCode.OK
    assert capsys.readouterr() == (f"{tmp_path / 'out'}\n", "")
    model = onnx.load(tmp_path / "out" / "vision.onnx")
    assert model.opset_import[0].version == opset
    assert {node.domain for node in model.graph.node} == {""}


@pytest.fixture
def refused(tiny_sources, tmp_path):
    """Exports small sources, which must fail and leave nothing."""
    from quantize.export.pipeline import export_vision

    def export(error, **options):
        target = tmp_path / "there" / "out"
        with pytest.raises(error) as caught:
            export_vision(ExportOptions(tiny_sources, target, **options), show_nothing)
        assert not target.parent.exists() or not list(target.parent.iterdir())
        return caught.value

    return export


def test_a_file_that_computes_something_else_is_refused_and_removed(refused, monkeypatch):
    from quantize.export import pipeline

    def write_another(side, opset, path):
        with torch.no_grad():
            side.projection.bias = torch.nn.Parameter(side.projection.bias + 1)
        pipeline_write(side, opset, path)
        with torch.no_grad():
            side.projection.bias -= 1

    pipeline_write = pipeline.write_onnx_file
    monkeypatch.setattr(pipeline, "write_onnx_file", write_another)
    error = refused(WeightsError)
    assert "computes other image tokens than torch" in error.problem
    assert "image_tokens: max diff = 1" in error.problem or "max diff = 0.99" in error.problem


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("psutil.virtual_memory", "of memory are free, exporting in float32 takes 608 MB"),
        ("shutil.disk_usage", "has 1.00 MB free, exporting takes"),
    ],
)
def test_too_little_room_is_refused_with_figures_before_anything_is_read(
    refused, monkeypatch, place, said
):
    from types import SimpleNamespace

    room = SimpleNamespace(total=2_000_000, available=1_000_000, free=1_000_000)
    monkeypatch.setattr(place, lambda *_: room)
    monkeypatch.setattr("quantize.export.pipeline.map_vision_side", pytest.fail)
    assert said in refused(DeviceError).problem
