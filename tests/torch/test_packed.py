"""Packed weights compute what portable ones do, and are made again whenever they do not fit."""

import json
import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from quantize.graph import GraphWriter
from quantize.recipe import Recipe, Rounding
from tests.golden import CASES, needs_golden
from tinyv_cli.backends import packed as packed_module
from tinyv_cli.backends.apart import run_apart
from tinyv_cli.backends.onnx_sessions import open_session, save_packed
from tinyv_cli.backends.packed import PackedPart, resolve_graph
from tinyv_cli.errors import DeviceError, WeightsError
from tinyv_cli.manifest import Variant, read_variant

PARTS = ("vision", "decoder")


@pytest.fixture
def variant(golden_variant, tmp_path: Path) -> Variant:
    folder = tmp_path / "variant"
    shutil.copytree(golden_variant(CASES[0], 8).folder, folder)
    return read_variant(folder)


def write_chain(path: Path, bits: int, widths: tuple[int, ...]) -> None:
    """A graph of several linears; with wide ones the runtime packs, small ones stand between."""
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        tensors[f"{i}.weight"] = torch.randn(n_out, n_in, generator=generator) / n_in**0.5
        tensors[f"{i}.bias"] = torch.randn(n_out, generator=generator)
    with GraphWriter(path, Recipe(bits, (("*", Rounding(bits)),)), tensors.__getitem__) as graph:
        x = "x"
        for i in range(len(widths) - 1):
            x = graph.linear(x, str(i))
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", width])
            for name, width in (("x", widths[0]), (x, widths[-1]))
        ]
        graph.save(infos[:1], infos[1:])


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_compute_the_same_bits(tmp_path, bits):
    widths = (1280, 2000, 97, 2304, 1100)  # above and below the size from which the runtime packs
    write_chain(tmp_path / "portable.onnx", bits, widths)
    save_packed(tmp_path / "portable.onnx", tmp_path / "packed.onnx", 1)
    assert b"MatMulNBits+" in (tmp_path / "packed.onnx").read_bytes(), "nothing was packed"
    sessions = [open_session(tmp_path / f"{name}.onnx", 1) for name in ("portable", "packed")]
    for n_rows in (1, 2, 40):
        x = np.random.default_rng(n_rows).standard_normal((n_rows, widths[0]), np.float32)
        outputs = [session.run(None, {"x": x})[0] for session in sessions]
        assert np.isfinite(outputs[0]).all()
        assert np.array_equal(*outputs)


@needs_golden
@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("case", CASES)
def test_both_parts_of_a_variant_compute_the_same_bits_packed(case, bits, golden_variant):
    variant = golden_variant(case, bits)
    pixels = np.random.default_rng(5).standard_normal(
        (1, 3, *[variant.manifest.spec.vision.image_px] * 2), np.float32
    )
    outputs = [
        open_session(path, 1).run(None, {"pixels": pixels})[0]
        for path in (variant.path("vision"), PackedPart(variant, "vision").graph)
    ]
    assert np.array_equal(*outputs)
    feeds = make_decoder_feeds(variant)
    outputs = [
        open_session(path, 1).run(["logits"], feeds)[0]
        for path in (variant.path("decoder"), PackedPart(variant, "decoder").graph)
    ]
    assert np.array_equal(*outputs)


def make_decoder_feeds(variant: Variant) -> dict[str, np.ndarray]:
    spec = variant.manifest.spec.language
    generator = np.random.default_rng(6)
    cache = np.zeros((1, spec.n_heads, 16, spec.head_width), np.float32)
    return {
        "embeddings": generator.standard_normal((1, 9, spec.width), np.float32),
        "last_positions": np.array([8], np.int32),
        "total_length": np.array(9, np.int32),
        **{f"past_{k}.{i}": cache for i in range(spec.n_layers) for k in ("key", "value")},
    }


@needs_golden
def test_quantising_leaves_packed_parts_that_are_used_without_a_word(golden_variant):
    variant = golden_variant(CASES[0], 4)
    for part in PARTS:
        assert resolve_graph(variant, part, 1, pytest.fail) == PackedPart(variant, part).graph


@needs_golden
@pytest.mark.parametrize("part", PARTS)
def test_on_another_machine_weights_are_packed_again_and_one_line_says_so(
    variant, part, monkeypatch
):
    monkeypatch.setattr(packed_module, "describe_machine", lambda: "other-machine")
    told: list[str] = []
    path = resolve_graph(variant, part, 1, told.append)
    assert path.parent.name == f"{part}-other-machine"
    assert len(told) == 1
    assert variant.name in told[0]
    assert resolve_graph(variant, part, 1, pytest.fail) == path
    assert [each.name for each in path.parent.parent.glob(f"{part}-*")] == [path.parent.name]


@needs_golden
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "record", "other origin"])
def test_a_packed_part_that_is_damaged_is_made_again(variant, damage):
    packed = PackedPart(variant, "decoder")
    content = packed.graph.read_bytes()
    record = packed.folder / "packed.json"
    if damage == "flip":
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 255])
        packed.graph.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        stat = packed.graph.stat()
        os.utime(packed.graph, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    elif damage == "truncate":
        packed.graph.write_bytes(content[:1000])
    elif damage == "remove":
        packed.graph.unlink()
    elif damage == "record":
        record.write_text("{", "utf-8")
    else:
        document = json.loads(record.read_text("utf-8"))
        document["origin"] = ["0" * 64, "1" * 64]
        record.write_text(json.dumps(document), "utf-8")
    told: list[str] = []
    path = resolve_graph(variant, "decoder", 1, told.append)
    assert len(told) == 1
    assert path.read_bytes() == content
    assert packed.is_current()


@needs_golden
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_still_answers(variant):
    shutil.rmtree(variant.folder / "packed")
    variant.folder.chmod(0o555)
    try:
        assert resolve_graph(variant, "decoder", 1, pytest.fail) == variant.path("decoder")
    finally:
        variant.folder.chmod(0o755)


@needs_golden
def test_where_nothing_can_be_kept_the_portable_graph_answers(variant, monkeypatch):
    shutil.rmtree(variant.folder / "packed")
    (variant.folder / "packed").write_text("not a folder", "utf-8")  # also stops root
    assert resolve_graph(variant, "decoder", 1, pytest.fail) == variant.path("decoder")
    monkeypatch.setattr(packed_module, "_WORTH_TELLING_BYTES", 1)
    told: list[str] = []
    resolve_graph(variant, "decoder", 1, told.append)
    assert len(told) == 1


@needs_golden
def test_on_a_disk_without_room_the_portable_graph_answers(variant, monkeypatch):
    shutil.rmtree(variant.folder / "packed")
    usage = shutil.disk_usage(variant.folder)._replace(free=1000)
    monkeypatch.setattr(packed_module.shutil, "disk_usage", lambda _: usage)
    assert resolve_graph(variant, "decoder", 1, pytest.fail) == variant.path("decoder")
    assert list((variant.folder / "packed").iterdir()) == []


@needs_golden
def test_several_at_once_all_get_a_whole_packed_part(variant):
    shutil.rmtree(variant.folder / "packed")
    paths: list[Path] = []

    def resolve() -> None:
        paths.append(resolve_graph(variant, "decoder", 1, lambda _: None))

    workers = [threading.Thread(target=resolve) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(paths) == 4
    for path in paths:
        open_session(path, 1)
    assert PackedPart(variant, "decoder").is_current()


@needs_golden
def test_what_a_killed_process_left_is_removed(variant):
    home = variant.folder / "packed"
    shutil.rmtree(home)
    left_over = home / ".building-999999999-decoder"
    left_over.mkdir(parents=True)
    (left_over / "decoder.data").write_bytes(b"half")
    resolve_graph(variant, "decoder", 1, lambda _: None)
    assert not left_over.exists()


def test_large_parts_are_packed_in_a_process_of_their_own(variant, monkeypatch):
    here = PackedPart(variant, "decoder")
    here.build(1)
    expected = here.graph.read_bytes()
    shutil.rmtree(here.folder)
    monkeypatch.setattr(packed_module, "_WORTH_A_PROCESS_BYTES", 0)
    monkeypatch.setattr(packed_module, "save_packed", fail_here)
    with pytest.raises(WeightsError, match=rf"not in {os.getpid()}") as caught:
        here.build(1)  # an error of the other process arrives whole
    assert caught.value.hint == "try again"
    monkeypatch.undo()
    monkeypatch.setattr(packed_module, "_WORTH_A_PROCESS_BYTES", 0)
    here.build(1)
    assert here.is_current()
    assert here.graph.read_bytes() == expected


def fail_here(*_: object) -> None:
    raise WeightsError(f"not in {os.getppid()}", "try again")


def test_a_killed_process_is_said_to_want_memory():
    with pytest.raises(DeviceError, match="was killed"):
        run_apart(os._exit, 9)
