"""Answers from the exported vision side in onnxruntime and OpenVINO beside those of our own graph.

    tinyv export -o build/vision
    tinyv quantize --bits 32 -o build/mini32
    python -m weights.training.scenes --split test --seed 11 --count 60 --size 224 --out scenes
    python -m tests.bench.exported_answers build/mini32 scenes/questions.jsonl build/vision

The variant's decoder answers each question from each runtime's image tokens. One JSON line is
printed. Needs `pip install '.[export,runtimes]'`.
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import numpy as np

from tests.torch.export.exported import open_in_openvino
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.backends.backend import BackendOptions
from tinyv_cli.backends.cpu.quiet_onnxruntime import ort
from tinyv_cli.backends.opening import open_backend
from tinyv_cli.evaluation.questions import read_question_file, read_questions
from tinyv_cli.pictures.image import read_picture, to_pixels
from tinyv_cli.prompts.prompt import TEMPLATES
from tinyv_cli.session import AnswerOptions, Session
from tinyv_cli.variants.manifest import read_variant


def open_runtime(path: Path, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """What computes an exported file's image tokens, float32, by onnxruntime or OpenVINO."""
    about = json.loads(path.with_name("vision.json").read_text("utf-8"))
    dtype = about["pixel_values"]["dtype"]
    if name == "openvino":
        run = open_in_openvino(path)
    else:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(pixels: np.ndarray) -> np.ndarray:
            return session.run(None, {"pixel_values": pixels})[0]

    return lambda pixels: run(pixels.astype(dtype)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("-n", type=int, default=500, help="questions")
    parser.add_argument("--first", type=int, default=0, help="of them, from 0")
    chosen = parser.parse_args()
    variant = read_variant(chosen.variant)
    manifest = variant.manifest
    backend = open_backend(variant, BackendOptions())
    tokenizer = Tokenizer(variant.path("tokenizer"))
    path = chosen.exported / "vision.onnx"
    encoders = {"own": backend.encoder.encode}
    encoders |= {name: open_runtime(path, name) for name in ("onnxruntime", "openvino")}
    content = read_question_file(chosen.questions)
    questions = read_questions(content, chosen.questions)[chosen.first :][: chosen.n]
    same = dict.fromkeys(encoders, 0)
    error = dict.fromkeys(encoders, 0.0)
    for picture_path, asked in groupby(questions, key=lambda each: each.picture):
        picture = read_picture(picture_path)
        pixels = to_pixels(picture, manifest.spec.vision.image_px)
        exact = backend.encoder.encode(pixels)
        sessions = {}
        for name, encode in encoders.items():
            tokens = encode(pixels)
            relative = float(np.linalg.norm(tokens - exact) / np.linalg.norm(exact))
            error[name] = max(error[name], relative)
            fixed = type("Fixed", (), {"encode": staticmethod(lambda _, tokens=tokens: tokens)})
            template = TEMPLATES[manifest.template]
            sessions[name] = Session(fixed(), backend.decoder, tokenizer, template, notify=print)
        for question in asked:
            answers = {}
            for name, session in sessions.items():
                session.show(picture, manifest.spec.vision.image_px)
                answers[name] = session.ask(question.text, AnswerOptions(64)).finish().token_ids
            for name, answer in answers.items():
                same[name] += answer == answers["own"]
    document = {
        "first": chosen.first,
        "questions": len(questions),
        "same_answer": same,
        "largest_error": error,
        "versions": {name: version(name) for name in ("onnxruntime", "openvino", "torch")},
    }
    print(json.dumps(document))  # noqa: T201


if __name__ == "__main__":
    main()
