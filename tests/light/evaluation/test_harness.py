"""The adapter for lmms-eval, with its few classes stood in for; the real one is tried by hand."""

import atexit
import importlib
import math
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from tests.light.toy_decoder import ScriptedDecoder, ToyEncoder, ToySlots
from tinyv_cli.backends import opening as backends
from tinyv_cli.backends.backend import Backend

MODULE = "tinyv_cli.harness.lmms_eval_model"
CAT, MARK, END = 260, 257, 258  # ids of the toy's tokenizer


class StandIn:
    """lmms-eval's base class, as far as it is used."""

    def __init__(self):
        self.task_dict = {}


@pytest.fixture
def adapter(monkeypatch, place):
    """The module, loaded where lmms-eval's own seem to be."""
    classes = {
        "lmms_eval.api.instance": {"Instance": SimpleNamespace},
        "lmms_eval.api.model": {"lmms": StandIn},
        "lmms_eval.models.registry_v2": {"ModelManifest": SimpleNamespace},
    }
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models", *classes):
        module = ModuleType(name)
        for key, value in classes.get(name, {}).items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def open_model(adapter, monkeypatch):
    """Opens the model with what it is to say; what ends it is called at the test's end."""
    ends = []
    monkeypatch.setattr(atexit, "register", ends.append)
    encoders = []

    def make(script, documents, **arguments):
        def open_backend(variant, options, meanwhile):
            encoders.append(ToyEncoder())
            meanwhile(encoders[-1], "toy")
            decoder = ScriptedDecoder(script, vocab_size=300)
            return Backend(encoders[-1], ToySlots(decoder), "toy", 0.1)

        monkeypatch.setattr(backends, "open_backend", open_backend)
        model = adapter.TinyV("bits4", batch_size=1, **arguments)
        model.task_dict = {
            "a_task": {"test": documents},
            "refcoco_bbox_rec_val": {"test": documents},
        }
        model.encoders = encoders
        return model

    yield make
    for end in ends:
        end()


def see(document):
    return [Image.new("RGBA", (4, 4), document["colour"])]


def make_request(context, target, number=0, task="a_task"):
    return SimpleNamespace(args=(context, target, see, number, task, "test"))


DOCUMENTS = [{"colour": "red", "answer": "cat"}, {"colour": "blue", "answer": "a cat"}]


def test_the_entry_point_names_the_model(adapter):
    root = Path(__file__).resolve().parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["entry-points"]["lmms_eval.models"]["tinyv"].partition(":")
    manifest = getattr(importlib.import_module(module), function)
    path = manifest_path(adapter, manifest)
    name, _, kind = path.rpartition(".")
    assert getattr(importlib.import_module(name), kind) is adapter.TinyV


def manifest_path(adapter, manifest):
    """The class that a manifest names; the stand-in takes keywords alone."""
    made = []
    adapter.ModelManifest = lambda name, simple_class_path: made.append((name, simple_class_path))
    manifest()
    [(name, path)] = made
    assert name == "tinyv"
    return path


def test_answers_come_in_order_and_end_where_the_task_says(open_model):
    model = open_model([CAT, *b".", CAT, MARK, *b"dog!!"], DOCUMENTS, tag="[vqa]")
    requests = [
        make_request("what?", {"until": ["."], "max_new_tokens": 9}),
        make_request("what?", {"until": "\n\n"}, 1),
        make_request("what?", {"max_new_tokens": 3}, 1),
    ]
    assert model.generate_until(requests) == ["cat", "cat", "dog"]
    assert model.encoders[0].n_encoded == 2  # neighbours about one picture share it


def test_boxes_are_written_as_its_tasks_read_them(open_model):
    text = b"{<10><20><30><40>}"
    model = open_model([*text, END, *text, END, *b"none", END], DOCUMENTS)
    requests = [
        make_request("… this sentence describes: a dog", {}, task="refcoco_bbox_rec_val"),
        make_request("where?", {}),
        make_request("where?", {}, task="refcoco_bbox_rec_val"),
    ]
    asked = []
    ask = model._sessions[0].ask
    model._sessions[0].ask = lambda text, options: asked.append(text) or ask(text, options)
    found = model.generate_until(requests)
    assert asked[:2] == ["[refer] give me the location of a dog", "where?"]
    assert found == ["[0.10, 0.20, 0.30, 0.40]", text.decode(), "none"]


def test_a_loss_is_the_mean_of_the_texts_tokens(open_model):
    model = open_model([CAT, CAT, ord("a"), 261, ord("b"), 261], DOCUMENTS)
    likely = math.log(299 + math.e) - 1
    requests = [
        make_request("what?", "cat"),
        make_request("what?", lambda document: document["answer"], 1),  # `a`, then ` cat`
    ]
    first, second, *_ = model.loglikelihood([requests[0], requests[0], requests[1]])[::2]
    assert first == (pytest.approx(likely), True)
    assert second == (pytest.approx(likely), True)
    [(loss, is_greedy)] = model.loglikelihood([requests[1]])  # `b` is likelier, then ` cat`
    assert loss == pytest.approx(likely + 0.5)
    assert not is_greedy


def test_several_rounds_are_refused(open_model):
    with pytest.raises(NotImplementedError):
        open_model([END], DOCUMENTS).generate_until_multi_round([])
