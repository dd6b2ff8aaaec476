from pathlib import Path

import platformdirs
import pytest

from tests.light.toy_variant import write_variant
from tinyv_cli.disk import places
from tinyv_cli.engine import find_variant
from tinyv_cli.errors import ExitCode, WeightsError
from tinyv_cli.variants.home import DamagedVariant, list_variants, resolve_folder, resolve_variant


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYV_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TINYV_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


def fail_to_resolve(name):
    with pytest.raises(WeightsError) as caught:
        resolve_variant(name)
    assert caught.value.exit_code == ExitCode.WEIGHTS
    return caught.value


def add(name, made_s=None, **changes):
    return write_variant(places.variants_dir() / name, made_s, **changes)


def test_home_is_where_the_variable_says(tmp_path):
    assert places.variants_dir() == tmp_path / "home" / "variants"
    assert places.stamps_dir() == tmp_path / "home" / "stamps"


def test_without_the_variable_home_is_the_users_data_folder(monkeypatch):
    monkeypatch.setenv("TINYV_HOME", "")
    expected = platformdirs.user_data_dir("tinyv", appauthor=False)
    assert places.home_dir() == Path(expected)


def test_a_tilde_in_the_variable_is_the_users_folder(monkeypatch):
    monkeypatch.setenv("TINYV_HOME", "~/weights")
    assert places.home_dir() == Path.home() / "weights"


def test_a_name_is_found_among_the_variants():
    folder = add("stage4-4bit")
    assert resolve_variant("stage4-4bit").folder == folder


@pytest.mark.parametrize("name", ["elsewhere/toy", "./elsewhere/toy", "elsewhere/../elsewhere/toy"])
def test_a_path_is_a_folder_anywhere(tmp_path, name):
    write_variant(tmp_path / "elsewhere" / "toy")
    assert resolve_variant(name).folder.resolve() == tmp_path / "elsewhere" / "toy"


def test_a_name_is_also_a_folder_right_here(tmp_path):
    write_variant(tmp_path / "toy")
    assert resolve_variant("toy").folder == tmp_path / "toy"


def test_a_variant_of_that_name_goes_before_a_folder_right_here(tmp_path):
    write_variant(tmp_path / "toy")
    folder = add("toy")
    assert resolve_variant("toy").folder == folder


def test_a_dot_is_the_folder_right_here(tmp_path, monkeypatch):
    write_variant(tmp_path / "toy")
    add("another")
    monkeypatch.chdir(tmp_path / "toy")
    assert resolve_variant(".").name == "toy"


def test_where_a_new_variant_goes(tmp_path):
    assert resolve_folder("mine") == places.variants_dir() / "mine"
    assert resolve_folder("./mine") == Path("mine")
    assert resolve_folder("~/mine") == Path.home() / "mine"
    assert resolve_folder(str(tmp_path / "mine")) == tmp_path / "mine"


def test_no_name_is_what_the_variable_names(monkeypatch):
    add("new", made_s=2000)
    add("old", made_s=1000)
    monkeypatch.setenv("TINYV_MODEL", "old")
    assert resolve_variant(None).name == "old"
    assert resolve_variant("new").name == "new"


def test_no_name_and_no_variable_is_the_newest():
    add("b-newest", made_s=3000)
    add("a-old", made_s=1000)
    add("c-middle", made_s=2000)
    assert resolve_variant(None).name == "b-newest"


def test_the_newest_that_is_damaged_is_passed_over():
    add("old", made_s=1000)
    damaged = add("new", made_s=2000)
    (damaged / "decoder.data").unlink()
    assert resolve_variant(None).name == "old"
    newest = damaged.parent / "newest"
    damaged.rename(newest)
    (note,) = find_variant(None).notes
    assert note == "old answers; newer, but damaged: newest (`tinyv list` says how)"
    assert find_variant("old").notes == ()


def test_where_all_are_damaged_the_damage_is_told():
    (add("only") / "decoder.data").unlink()
    assert "decoder.data is missing" in fail_to_resolve(None).problem


def test_without_any_variant_the_way_to_one_is_told():
    error = fail_to_resolve(None)
    assert error.problem == f"there is no variant in {places.variants_dir()}"
    assert "tinyv pull && tinyv quantize --bits 4" in error.hint
    assert "tinyv pull && tinyv quantize --bits 4" in fail_to_resolve("stage4-4bit").hint


def test_a_misspelt_name_gets_the_nearest_one():
    add("stage4-4bit")
    error = fail_to_resolve("stage4-4bti")
    assert "'stage4-4bti'" in error.problem
    assert error.hint == "did you mean `-m stage4-4bit`?"


def test_a_name_like_none_gets_the_list_and_the_way_to_one():
    add("stage4-4bit")
    error = fail_to_resolve("llama")
    assert "tinyv list" in error.hint
    assert "tinyv pull && tinyv quantize --bits 4" in error.hint


def test_a_path_to_nothing_is_called_a_folder(tmp_path):
    assert fail_to_resolve("./nothing").problem == "there is no folder ./nothing"


@pytest.mark.parametrize("name", ["x" * 5000, "y/" * 3000, "a\0b", "~no-such-user/toy"])
def test_a_word_that_can_be_no_path_is_an_unknown_variant(name):
    assert fail_to_resolve(name).problem.startswith("there is no ")


def test_the_list_is_by_name_and_holds_the_damaged_too():
    add("b")
    (add("a") / "manifest.json").write_text("{")
    (add("c") / "manifest.json").unlink()
    found = list_variants()
    assert [each.name for each in found] == ["a", "b", "c"]
    assert [isinstance(each, DamagedVariant) for each in found] == [True, False, True]
    assert "it is not JSON" in found[0].error.problem
    assert "it has no manifest.json" in found[2].error.problem


def test_the_list_leaves_out_files_and_folders_still_being_written():
    add(".toy.building-1")
    (places.variants_dir() / "notes.txt").write_text("mine")
    assert list_variants() == []


def test_a_list_without_a_folder_is_empty():
    assert list_variants() == []


def test_a_file_in_the_place_of_the_folder_is_an_error_of_the_weights():
    places.home_dir().mkdir()
    places.variants_dir().write_text("a file")
    with pytest.raises(WeightsError, match="cannot be read"):
        list_variants()
