"""A variant's folder whose weights are a few bytes, and a runtime that answers from a script."""

import hashlib
import os
from dataclasses import replace

from PIL import Image

from tests.light.toy_decoder import ScriptedDecoder, ToyEncoder, ToySlots
from tests.light.toy_tokenizer import make_tokenizer
from tinyv_cli.backends.backend import Backend, prefetch_nothing
from tinyv_cli.spec import make_tiny_spec
from tinyv_cli.variants.manifest import FORMAT_VERSION, FileEntry, Manifest, MeasuredErrors

ERRORS = MeasuredErrors(0.99912, 0.99034, 0.01234, 0.975)
LOAD_S = 0.25


def write_files(folder):
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(folder)
    (folder / "decoder.onnx").write_bytes(b"graph")
    (folder / "decoder.data").write_bytes(b"codes and scales")
    return tokenizer


def make_entry(folder, name, role):
    content = (folder / name).read_bytes()
    return FileEntry(name, len(content), hashlib.sha256(content).hexdigest(), role)


def make_manifest(folder, **changes):
    """The manifest of files that `write_files` wrote."""
    names = {"decoder.onnx": "decoder", "decoder.data": "decoder-data"}
    names["tokenizer.json"] = "tokenizer"
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bits=4,
        spec=make_tiny_spec(4),
        template="human",
        stop_ids=(258,),
        recipe={"bits": 4},
        sources=(FileEntry("phi-2/config.json", 3, "a" * 64, "source"),),
        files=tuple(make_entry(folder, name, role) for name, role in names.items()),
        errors=ERRORS,
        made_by="tinyv test",
    )
    return replace(manifest, **changes)


def write_variant(folder, made_s=None, **changes):
    """Writes a whole variant; `made_s` is when it was made, in seconds since 1970."""
    write_files(folder)
    (folder / "manifest.json").write_text(make_manifest(folder, **changes).to_json(), "utf-8")
    if made_s is not None:
        os.utime(folder / "manifest.json", (made_s, made_s))
    return folder


def write_picture(path):
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def make_script(text, stop=True):
    """Ids of a text in the toy tokenizer, a byte a token, and the stop id."""
    return [*text.encode(), *([258] if stop else [])]


def make_open_backend(script, seen=None):
    """An `open_backend` whose decoder follows a script; notes what it was asked in `seen`."""

    def open_backend(variant, options, meanwhile=prefetch_nothing):
        if seen is not None:
            seen.update(variant=variant, options=options)
        decoder = ScriptedDecoder(script, options.context_length or 2048)
        encoder = ToyEncoder()
        meanwhile(encoder, "toy")
        return Backend(encoder, ToySlots(decoder), "toy", LOAD_S)

    return open_backend
