import ast
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tinyv_cli", "quantize", "weights")
FILES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)

TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))

# A room may import itself and what stands further down; rooms in one row do not know each other.
# The longest prefix decides where a module belongs.
ORDER = (
    ("tinyv_cli.__main__",),
    ("tinyv_cli.app",),
    ("tinyv_cli.commands",),
    ("tinyv_cli.options",),
    ("tinyv_cli.harness",),
    ("weights.training",),
    ("weights.training.learning", "weights.training.network"),
    ("weights.training.recipe",),
    ("weights.training.language",),
    ("weights.training.world",),
    ("weights.synthetic",),
    ("quantize.export",),
    ("quantize.pipeline",),
    ("quantize.language_side",),
    ("quantize.cpu",),
    ("quantize.measure",),
    ("quantize.cuda",),
    ("quantize.calibrate",),
    ("quantize",),
    ("weights.pulling",),
    ("weights.reading",),
    ("weights.safetensors_writer",),
    (
        "tinyv_cli.batch",
        "tinyv_cli.benchmark",
        "tinyv_cli.chat",
        "tinyv_cli.evaluation",
        "tinyv_cli.serving",
    ),
    ("tinyv_cli.engine",),
    ("tinyv_cli.session",),
    ("tinyv_cli.backends.opening",),
    ("tinyv_cli.backends.cpu", "tinyv_cli.backends.cuda"),
    ("tinyv_cli.backends",),
    ("tinyv_cli.model",),
    ("tinyv_cli.answers",),
    ("tinyv_cli.devices",),
    ("tinyv_cli.variants",),
    ("tinyv_cli.drawing",),
    ("tinyv_cli.prompts",),
    ("tinyv_cli.pictures",),
    ("tinyv_cli.disk",),
    ("tinyv_cli.network",),
    ("tinyv_cli.machine",),
    ("tinyv_cli.console",),
    ("tinyv_cli.progress",),
    ("tinyv_cli.spec",),
    ("tinyv_cli.errors",),
    ("tinyv_cli.addresses",),
)
DOORS = {"tinyv_cli", "weights"}  # packages whose own file imports nothing
MOST_AT_THE_ROOT, MOST_IN_A_ROOM = 10, 12  # files
HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "optimum", "safetensors", "bitsandbytes"}
HEAVY |= {"ray", "fsspec"}
HEAVY_OURS = (
    "tinyv_cli.model",
    "tinyv_cli.backends.cpu",
    "tinyv_cli.backends.cuda",
    "tinyv_cli.batch.cluster",
    "tinyv_cli.devices.quiet_bitsandbytes",
    "tinyv_cli.devices.torch_probe",
    "tinyv_cli.harness.lmms_eval_model",
    "quantize",
    "weights",
)
SEAMS = ("tinyv_cli.commands", "tinyv_cli.backends.opening", "tinyv_cli.devices.choice")

HELP_BUDGET_S = 0.25
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_COMMAND_LINES = 25
MOST_WITH_ONE_CALLER = 0.1  # of all functions: a helper with one caller is mostly half a thought


class Import(NamedTuple):
    name: str
    line: int
    runs_at_import: bool  # neither inside a function nor for the type checker only
    is_for_types: bool


def to_module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {to_module(path): path for path in FILES}


def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"), str(path))


def walk_imports(node: ast.AST, at_import: bool = True, types: bool = False) -> Iterator[Import]:
    """Every import of a file; of `from package import module` the module where it is one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_import, types)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                name = name if name in MODULES else str(child.module)
                yield Import(name, child.lineno, at_import, types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from walk_imports(child, False, True)
        else:
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk_imports(child, at_import and not in_function, types)


def is_inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def find_place(module: str) -> tuple[int, str] | None:
    """The row of a module in `ORDER`, and the room that it belongs to."""
    found = [
        (len(room), row, room)
        for row, rooms in enumerate(ORDER)
        for room in rooms
        if is_inside(module, (room,))
    ]
    return max(found)[1:] if found else None


def is_light(module: str) -> bool:
    return not is_inside(module, HEAVY_OURS)


def run_python(code: str, *arguments: str) -> str:
    """Runs code in a fresh interpreter; returns its stdout."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def list_loaded(code: str) -> set[str]:
    """Names of the packages that code loads in a fresh interpreter."""
    tell = "\nimport sys\nprint('\\nLOADED', *{name.partition('.')[0] for name in sys.modules})"
    return set(run_python(code + tell).rpartition("LOADED")[2].split())


def test_the_walk_sees_every_kind_of_import():
    code = """
import os.path
from tinyv_cli.variants import home, manifest as m
if TYPE_CHECKING:
    import torch
class A:
    from tinyv_cli.spec import ModelSpec
def f():
    if True:
        import onnx
"""
    assert [each[:1] + each[2:] for each in walk_imports(ast.parse(code))] == [
        ("os.path", True, False),
        ("tinyv_cli.variants.home", True, False),
        ("tinyv_cli.variants.manifest", True, False),
        ("torch", False, True),
        ("tinyv_cli.spec", True, False),
        ("onnx", False, False),
    ]


@pytest.mark.parametrize("module", [each for each in MODULES if each not in DOORS])
def test_a_module_has_a_place_and_imports_none_above_or_beside_it(module):
    place = find_place(module)
    assert place is not None, f"{module} has no place: add its room to ORDER"
    for each in walk_imports(parse(MODULES[module])):
        if each.name.partition(".")[0] in PACKAGES:
            other = find_place(each.name)
            assert other is not None, f"{module}:{each.line} imports {each.name}, of no room"
            is_below = other[0] > place[0] or other[1] == place[1]
            assert is_below, f"{module}:{each.line} imports {each.name} from above or beside"


def test_no_modules_import_each_other_in_a_circle():
    uses = {
        module: {each.name for each in walk_imports(parse(path))} & MODULES.keys() - {module}
        for module, path in MODULES.items()
    }
    while free := {module for module, used in uses.items() if not used & uses.keys()}:
        uses = {module: used for module, used in uses.items() if module not in free}
    assert not uses, f"a circle runs through {', '.join(sorted(uses))}"


def test_no_room_holds_more_files_than_can_be_taken_in_at_once():
    folders = {path.parent for path in [*FILES, *TESTS]}
    for folder in folders:
        n_files = sum(1 for path in (ROOT / folder).glob("*.py"))
        most = MOST_AT_THE_ROOT if folder == Path("tinyv_cli") else MOST_IN_A_ROOM
        assert n_files <= most, f"{folder} holds {n_files} files"


@pytest.mark.parametrize("module", [module for module in MODULES if is_light(module)])
def test_a_light_module_names_no_heavy_library_and_a_heavy_module_only_at_a_seam(module):
    for each in walk_imports(parse(MODULES[module])):
        if each.is_for_types:
            continue
        place = f"{module}:{each.line} imports {each.name}"
        assert each.name.partition(".")[0] not in HEAVY, place
        if not is_light(each.name) or is_inside(each.name, ("quantize", "weights")):
            assert is_inside(module, SEAMS), place
            assert not each.runs_at_import, f"{place} when it is itself imported"


def test_only_the_verbs_that_make_fetch_and_remove_know_the_workshop():
    users = {
        module
        for module in MODULES
        for each in walk_imports(parse(MODULES[module]))
        if module.startswith("tinyv_cli") and is_inside(each.name, ("quantize", "weights"))
    }
    verbs = ("export", "fetching.pull", "fetching.push", "quantize", "variants.remove")
    assert sorted(users) == [f"tinyv_cli.commands.{verb}" for verb in verbs]


def test_the_cpus_runtime_is_imported_where_it_is_kept_from_calling_its_maker_and_nowhere_else():
    users = [
        str(path)
        for path in [*FILES, *TESTS]
        for each in walk_imports(parse(path))
        if is_inside(each.name, ("onnxruntime",))
    ]
    assert set(users) == {"tinyv_cli/backends/cpu/quiet_onnxruntime.py"}


def test_bitsandbytes_and_optimum_are_imported_where_they_are_kept_quiet_and_transformers_nowhere():
    users = {
        module
        for module, path in MODULES.items()
        for each in walk_imports(parse(path))
        if is_inside(each.name, ("bitsandbytes", "optimum", "transformers"))
    }
    assert users == {"tinyv_cli.devices.quiet_bitsandbytes", "quantize.export.onnx_file"}


def test_a_package_imports_nothing_by_itself():
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module != "tinyv_cli.backends.backend":
            assert list(walk_imports(parse(path))) == [], module


def test_what_can_be_typed_is_known_without_numbers_pictures_or_drawing():
    loaded = list_loaded("import tinyv_cli.app")
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY | {"numpy", "PIL", "tokenizers", "rich", "quantize", "weights"})


def test_help_loads_no_verb():
    code = "from tinyv_cli.app import main\nassert main(['--help']) == 0"
    loaded = list_loaded(code)
    assert loaded.isdisjoint(HEAVY | {"numpy", "PIL", "tokenizers", "rich", "quantize", "weights"})


def test_all_light_modules_together_load_nothing_heavy():
    light = [module for module in MODULES if is_light(module) and "__main__" not in module]
    assert "tinyv_cli.commands.ask" in light
    assert "tinyv_cli.session" in light
    loaded = list_loaded("\n".join(f"import {module}" for module in light))
    assert loaded.isdisjoint(HEAVY | {"quantize", "weights"})


def test_finding_the_sources_needs_no_torch():
    loaded = list_loaded("import weights.reading.sources")
    assert loaded.isdisjoint(HEAVY | {"numpy"})


def test_help_is_there_in_a_quarter_of_a_second():
    """Or, on a machine that is slow at the moment, in three times that of the library behind it."""
    code = "import sys\nfrom tinyv_cli.app import main\nsys.exit(main(sys.argv[1:]))"
    elapsed_s: dict[str, list[float]] = {code: [], "import typer.main, typer.completion": []}
    for _ in range(7):
        for each, times_s in elapsed_s.items():
            start_s = time.perf_counter()
            run_python(each, "--help")
            times_s.append(time.perf_counter() - start_s)
    ours_s, bare_s = map(min, elapsed_s.values())
    assert ours_s < max(HELP_BUDGET_S, 3 * bare_s)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_are_short(path):
    assert len((ROOT / path).read_text("utf-8").splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = count_lines(node)
            assert n_lines <= MAX_FUNCTION_LINES, f"{path}: {node.name} has {n_lines} lines"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_says_first_what_it_is_for(path):
    docstring = ast.get_docstring(parse(path))
    if docstring is None:
        assert (ROOT / path).read_text("utf-8") == "", path
    else:
        assert docstring.splitlines()[0].endswith((".", ":")), path


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_called_after_a_thing(path):
    assert path.stem not in {"utils", "common", "helpers", "helper", "base", "core", "manager"}


def test_a_command_is_short_with_its_options():
    options = [path for path in FILES if path.parts[:2] == ("tinyv_cli", "options")]
    declared = [
        (path, node)
        for path in (Path("tinyv_cli/app.py"), *options)
        for node in parse(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list
    ]
    assert len(declared) >= 20
    for path, node in declared:
        n_lines = count_lines(node)
        assert n_lines <= MAX_COMMAND_LINES, f"{path}: {node.name} has {n_lines} lines"


def count_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Lines from the first decorator to the end."""
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    assert node.end_lineno is not None
    return node.end_lineno - first + 1


def find_single_callers(tree: ast.Module) -> tuple[int, list[str]]:
    """Counts a file's functions, and lists the private ones that are called once.

    One that calls itself has two callers, one that is handed on to be called later has none.
    """
    nodes = list(ast.walk(tree))
    functions = [each for each in nodes if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    named, called = (
        Counter(getattr(each, "id", None) or getattr(each, "attr", None) for each in chosen)
        for chosen in (
            [each for each in nodes if isinstance(each, ast.Name | ast.Attribute)],
            [each.func for each in nodes if isinstance(each, ast.Call)],
        )
    )
    private = (f.name for f in functions if f.name.startswith("_") and not f.name.startswith("__"))
    return len(functions), [name for name in private if named[name] == called[name] == 1]


def test_helpers_with_one_caller_are_found():
    code = "def _a(): _d()\ndef _b(): _a()\ndef c(): _b(); _b(); run(_e)\n"
    code += "def _d(): _d()\ndef _e(): pass"
    assert find_single_callers(ast.parse(code)) == (5, ["_a"])


def test_few_functions_are_helpers_with_one_caller():
    counts = [find_single_callers(parse(path)) for path in FILES]
    n_functions, n_single = sum(n for n, _ in counts), sum(len(found) for _, found in counts)
    assert n_single < MOST_WITH_ONE_CALLER * n_functions, f"{n_single} of {n_functions}"


@pytest.mark.skipif(not (ROOT / ".git").exists() or not which("git"), reason="no checkout")
def test_the_top_level_holds_what_its_owner_fixed_and_nothing_else():
    words = ["git", "-c", "safe.directory=*", "ls-files"]
    kept = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if kept.returncode:
        pytest.skip(f"git does not list the files: {kept.stderr.strip()}")
    names = {line.partition("/")[0] for line in kept.stdout.splitlines()}
    folders = {"docs", "quantize", "tests", "tinyv_cli", "weights"}
    files = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
    assert {name for name in names if not name.startswith(".")} == folders | files
