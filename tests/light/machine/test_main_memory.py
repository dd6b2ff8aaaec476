import platform

import psutil
import pytest

from tinyv_cli.machine.memory import give_back_freed, read_main_memory

MB = 1 << 20


@pytest.fixture
def free(monkeypatch):
    """Memory of 1,000 MB, of which 800 are free."""
    found = psutil.virtual_memory()._replace(total=1000 * MB, available=800 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found)


def read(tmp_path, own, **files):
    """Reads memory where the groups have these files, by their paths."""
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "own").write_text(own)
    found = read_main_memory(tmp_path / "groups", tmp_path / "own")
    return found.total_bytes // MB, found.available_bytes // MB


STAT = f"anon 5\ninactive_file {60 * MB}\nactive_file {40 * MB}\n"


def limit(folder, limit_mb, used_mb, stat=STAT):
    return {
        f"{folder}memory.max": f"{limit_mb * MB if limit_mb else 'max'}\n",
        f"{folder}memory.current": f"{used_mb * MB}\n",
        f"{folder}memory.stat": stat,
    }


def test_without_a_limit_it_is_what_the_computer_has(free, tmp_path):
    assert read(tmp_path, "") == (1000, 800)
    assert read(tmp_path, "0::/a\n", **limit("a/", None, 300)) == (1000, 800)
    assert read(tmp_path, "0::/nowhere\n") == (1000, 800)
    assert read(tmp_path, "strange\n::\n") == (1000, 800)


def test_a_containers_limit_counts_and_copies_of_files_are_free(free, tmp_path):
    assert read(tmp_path, "0::/a\n", **limit("a/", 500, 350)) == (500, 250)
    assert read(tmp_path, "0::/\n", **limit("", 400, 300)) == (400, 200)


def test_the_limit_of_a_group_around_holds(free, tmp_path):
    files = limit("a/b/", None, 10) | limit("a/", 300, 120)
    assert read(tmp_path, "0::/a/b\n", **files) == (300, 280)


def test_version_1_has_other_names(free, tmp_path):
    files = {
        "memory/x/memory.limit_in_bytes": str(200 * MB),
        "memory/x/memory.usage_in_bytes": str(190 * MB),
        "memory/x/memory.stat": STAT,
    }
    assert read(tmp_path, "5:cpu:/x\n4:memory:/x\n", **files) == (200, 110)


def test_a_full_group_leaves_nothing(free, tmp_path):
    assert read(tmp_path, "0::/a\n", **limit("a/", 100, 130, "")) == (100, 0)


def test_where_proc_is_hidden_the_system_is_asked(monkeypatch, tmp_path):
    right = psutil.virtual_memory()

    def fail():
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    found = read_main_memory(tmp_path, tmp_path / "own")
    assert found.total_bytes == pytest.approx(right.total, rel=0.01)
    assert 0 < found.available_bytes < found.total_bytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_freed_goes_back_to_the_system():
    process = psutil.Process()
    pieces = [b"x" * 100_000 for _ in range(2000)]
    last = pieces[-1]  # stands behind all that is freed
    del pieces
    before = process.memory_info().rss
    give_back_freed()
    assert before - process.memory_info().rss > 100 * MB
    assert last
