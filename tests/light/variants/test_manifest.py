import json
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.light.toy_variant import make_manifest, write_files, write_variant
from tinyv_cli.errors import ExitCode, WeightsError
from tinyv_cli.spec import make_tiny_spec
from tinyv_cli.variants.manifest import FORMAT_VERSION, Manifest, read_variant

NO_FILES = Manifest(
    FORMAT_VERSION, 4, make_tiny_spec(4), "human", (), {}, (), (), None, "tinyv test"
).to_json()


@pytest.fixture
def folder(tmp_path):
    return write_variant(tmp_path / "toy")


@pytest.fixture
def values(folder):
    """The manifest as plain values, to be spoiled."""
    return json.loads((folder / "manifest.json").read_text())


def read_spoiled(values):
    with pytest.raises(WeightsError) as caught:
        Manifest.from_json(json.dumps(values))
    assert caught.value.exit_code == ExitCode.WEIGHTS
    assert "tinyv quantize" in caught.value.hint
    return caught.value.problem


def fail_to_read(folder):
    with pytest.raises(WeightsError) as caught:
        read_variant(folder)
    assert caught.value.hint
    return caught.value.problem


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    write_files(tmp_path / "toy")
    for errors in (make_manifest(tmp_path / "toy").errors, None):
        manifest = make_manifest(tmp_path / "toy", errors=errors)
        assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_variant_knows_its_name_its_size_and_where_each_part_lies(folder):
    variant = read_variant(folder)
    assert variant.name == "toy"
    assert variant.path("decoder-data").read_bytes() == b"codes and scales"
    sizes = [(folder / entry.path).stat().st_size for entry in variant.manifest.files]
    assert variant.manifest.size_bytes == sum(sizes)


def test_a_part_that_is_not_there_is_an_error_and_not_a_guess(folder):
    with pytest.raises(WeightsError, match="no file with the role 'vision'"):
        read_variant(folder).path("vision")


def test_a_relative_folder_becomes_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    variant = read_variant(Path("toy"))
    assert variant.folder == folder
    assert variant.name == "toy"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ("[" * 100_000, "recursion"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        ('{"bits": NaN}', "NaN is not a number"),
    ],
)
def test_what_is_not_a_json_object_is_refused(text, reason):
    with pytest.raises(WeightsError) as caught:
        Manifest.from_json(text)
    assert caught.value.problem.startswith("manifest.json is not a valid manifest: ")
    assert reason in caught.value.problem


def test_a_newer_format_is_told_apart_from_damage_whatever_else_it_holds():
    with pytest.raises(WeightsError) as caught:
        Manifest.from_json('{"format_version": 2, "something": "new"}')
    assert "made by a newer tinyv" in caught.value.problem
    assert caught.value.hint == "update tinyv: `pip install --upgrade tinyv`"


def test_unknown_keys_are_ignored(values):
    known = Manifest.from_json(json.dumps(values))
    assert Manifest.from_json(json.dumps(values | {"licence": "none"})) == known


@pytest.mark.parametrize(
    "key", ["format_version", "bits", "spec", "template", "stop_ids", "recipe", "files", "errors"]
)
def test_a_missing_key_is_named(values, key):
    del values[key]
    assert read_spoiled(values).endswith(f"{key} is missing")


def test_a_missing_key_deep_inside_is_named_with_its_place(values):
    del values["spec"]["vision"]["width"]
    assert read_spoiled(values).endswith("spec.vision.width is missing")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("format_version", "1", "format_version is not a whole number"),
        ("format_version", True, "format_version is not a whole number"),
        ("format_version", 0, "format_version is 0"),
        ("bits", 4.0, "bits is not a whole number"),
        ("bits", 0, "bits is 0"),
        ("spec", None, "spec is not an object"),
        ("template", 3, "template is not a text"),
        ("stop_ids", 3, "stop_ids is not a list"),
        ("stop_ids", [1, "2"], "stop_ids[1] is not a whole number"),
        ("stop_ids", [-1], "stop id -1 is not in the vocabulary"),
        ("stop_ids", [512], "stop id 512 is not in the vocabulary"),
        ("recipe", [], "recipe is not an object"),
        ("files", {}, "files is not a list"),
        ("files", ["decoder.onnx"], "files[0] is not an object"),
        ("errors", {}, "errors.image_token_cosine_mean is missing"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named(values, key, value, reason):
    assert reason in read_spoiled(values | {key: value})


def test_a_number_of_the_model_must_be_positive(values):
    values["spec"]["language"]["n_layers"] = 0
    assert read_spoiled(values).endswith("spec.language.n_layers is 0")


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "part/../../secret",
        "/etc/passwd",
        "C:/secret",
        "C:secret",
        "file:stream",
        "part\\decoder.data",
        "\\\\host\\share",
        "./decoder.data",
        "part//decoder.data",
        "decoder.data/",
        "",
        ".",
        "manifest.json",
        "deco\x00der",
        "deco\nder",
    ],
)
@pytest.mark.parametrize("key", ["files", "sources"])
def test_a_path_that_is_not_plainly_inside_the_folder_is_refused(values, key, path):
    values[key][0]["path"] = path
    assert repr(path) in read_spoiled(values)


@given(st.text(st.sampled_from("./\\:aC~ \n"), max_size=8))
def test_no_path_that_is_taken_leads_out_of_its_folder_on_any_system(path):
    entry = {"path": path, "size_bytes": 0, "sha256": "0" * 64, "role": "decoder"}
    values = json.loads(NO_FILES) | {"files": [entry]}
    try:
        Manifest.from_json(json.dumps(values))
    except WeightsError:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        read = kind(path)
        assert read.parts
        assert not read.anchor
        assert ".." not in read.parts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size_bytes": -1}, "size of decoder.onnx is -1"),
        ({"sha256": "a" * 63}, "sha256 of decoder.onnx is not 64 hexadecimal digits"),
        ({"sha256": "A" * 64}, "sha256 of decoder.onnx is not 64 hexadecimal digits"),
        ({"path": "DECODER.data"}, "path 'decoder.data' occurs twice"),
        ({"role": "decoder-data"}, "role 'decoder-data' occurs twice"),
    ],
)
def test_an_entry_that_cannot_be_is_named(values, change, reason):
    values["files"][0].update(change)
    assert reason in read_spoiled(values)


def test_a_missing_file_is_named(folder):
    (folder / "decoder.data").unlink()
    assert fail_to_read(folder) == f"{folder / 'decoder.data'} is missing"


@pytest.mark.parametrize("content", [b"", b"codes and scale", b"codes and scales!"])
def test_a_file_of_the_wrong_size_is_named_with_both_sizes(folder, content):
    (folder / "decoder.data").write_bytes(content)
    problem = f"{folder / 'decoder.data'} has {len(content)} bytes, its manifest says 16"
    assert fail_to_read(folder) == problem


def test_a_folder_in_the_place_of_a_file_is_refused(folder):
    (folder / "decoder.data").unlink()
    (folder / "decoder.data").mkdir()
    assert fail_to_read(folder) == f"{folder / 'decoder.data'} is not a file"


def test_a_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    outside = tmp_path / "outside"
    (folder / "decoder.data").rename(outside)
    (folder / "decoder.data").symlink_to(outside)
    assert "is a link that leads out of its folder" in fail_to_read(folder)


def test_a_link_to_a_whole_variant_is_the_variant(folder, tmp_path):
    (tmp_path / "best").symlink_to(folder)
    assert read_variant(tmp_path / "best").name == "best"


def test_a_link_to_itself_is_an_error_and_no_crash(folder):
    (folder / "decoder.data").unlink()
    (folder / "decoder.data").symlink_to("decoder.data")
    assert str(folder / "decoder.data") in fail_to_read(folder)


def test_a_manifest_that_may_not_be_read_is_told_so(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # permissions do not stop every user
    assert fail_to_read(folder) == f"{folder / 'manifest.json'} cannot be read: permission denied"


def test_what_is_no_folder_is_told_so(folder):
    assert fail_to_read(folder / "decoder.data").endswith("is not a folder")


def test_a_folder_of_sources_is_sent_to_quantize(tmp_path):
    (tmp_path / "phi-2").mkdir()
    with pytest.raises(WeightsError) as caught:
        read_variant(tmp_path)
    assert caught.value.problem == f"{tmp_path} is not a variant: it has no manifest.json"
    assert f"tinyv quantize --sources {tmp_path}" in caught.value.hint


def test_a_folder_of_anything_else_is_sent_to_the_list(tmp_path):
    with pytest.raises(WeightsError) as caught:
        read_variant(tmp_path)
    assert "tinyv list" in caught.value.hint
