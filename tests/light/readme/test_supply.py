"""The list of tested versions names all that is asked for, within its bounds, and no place."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
OLDER = {"export", "runtimes"}  # what asks for other releases has an environment of its own


def test_tested_versions_are_given_of_all_that_is_asked_for():
    text = (ROOT / ".ci" / "constraints.txt").read_text("utf-8")
    pins = [Requirement(each) for each in text.splitlines() if not each.startswith("#")]
    versions = {canonicalize_name(each.name): str(each.specifier) for each in pins}
    assert len(versions) == len(pins)
    assert all(re.fullmatch(r"==[a-z0-9.]+", each) for each in versions.values())
    assert not re.search(r"://| @ |--", text)
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = asked["optional-dependencies"]
    wanted = [asked["dependencies"], *(extras[each] for each in extras.keys() - OLDER)]
    for need in map(Requirement, (each for part in wanted for each in part)):
        if need.name != asked["name"]:
            version = versions[canonicalize_name(need.name)].removeprefix("==")
            assert need.specifier.contains(version), (need, version)
