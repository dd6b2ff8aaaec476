"""Copies of the miniature's variant, to be damaged: it really answers, by onnxruntime."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from tests.demo import DEMO


def copy_variant(folder):
    """Links the files of the miniature's variant into a folder, and copies its manifest."""
    folder.mkdir(parents=True)
    for path in (DEMO / "variant").iterdir():
        target = folder / path.name
        try:
            os.link(path, target)
        except OSError:  # another disk
            shutil.copy(path, target)
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_bytes(manifest)
    return folder


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def write_manifest(folder, values):
    (folder / "manifest.json").write_text(json.dumps(values))


def replace_file(folder, name, content):
    """Writes a file anew, and lets the manifest say so."""
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    values = read_manifest(folder)
    for entry in values["files"]:
        if entry["path"] == name:
            entry["size_bytes"] = len(content)
            entry["sha256"] = hashlib.sha256(content).hexdigest()
    write_manifest(folder, values)


def drop_role(folder, role):
    """Takes a file out of the manifest; it stays in the folder."""
    values = read_manifest(folder)
    values["files"] = [entry for entry in values["files"] if entry["role"] != role]
    write_manifest(folder, values)


PICTURE = Path(DEMO / "examples" / "cat.png")
