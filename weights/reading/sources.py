"""A folder becomes the list of the public files in it, without opening one of tensors.

The four sources and where each is looked for are in `resolve_sources`. Phi-2's weights may lie in
one file or in shards with an index, as PyTorch files or as safetensors; its tokenizer is one file,
or the three it can be built from.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyv_cli.disk.typed_json import read_object
from tinyv_cli.errors import WeightsError, describe_os_error
from tinyv_cli.variants.manifest import make_read_error

STAGES = (1, 2, 3, 4)
PHI_FOLDER = "phi-2"
VISION_FILE = "eva_vit_g.pth"
QFORMER_FILE = "blip2_pretrained_flant5xxl.pth"
ARCHITECTURE_FILE = "architecture.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_PARTS = ("vocab.json", "merges.txt")
ADDED_TOKENS_FILE = "added_tokens.json"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
LIST_HINT = "`tinyv pull` fetches what is missing, `tinyv quantize --help` lists the files"
# No folder, no drive, no stream: a shard lies beside its index on every system.
_FILE_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\\:\0]+", re.DOTALL)
_LONGEST_NAME_BYTES = 255  # of one name, on every usual file system
_WEIGHT_FILE = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(bin|safetensors)")


@dataclass(frozen=True)
class SourceFiles:
    """The files that one variant is made from; all of them exist.

    Attributes:
        folder: the sources folder.
        phi: Phi-2's weight files, in the order of their names.
        phi_config: Phi-2's config.json.
        tokenizer: the folder that holds the tokenizer's files.
        vision: the ViT.
        qformer: BLIP-2's Q-Former.
        stage: the training stage of `checkpoint`.
        checkpoint: what TinyGPT-V trained.
        architecture: numbers that differ from the published ones, of a miniature.
        phi_index: which shard holds which tensor, where there are shards.
        tokenizer_files: the files that `read_tokenizer_json` reads.
    """

    folder: Path
    phi: tuple[Path, ...]
    phi_config: Path
    tokenizer: Path
    vision: Path
    qformer: Path
    stage: int
    checkpoint: Path
    architecture: Path | None
    phi_index: Path | None
    tokenizer_files: tuple[Path, ...]

    @property
    def all_files(self) -> tuple[Path, ...]:
        """All files that are read, each once."""
        extras = tuple(path for path in (self.phi_index, self.architecture) if path is not None)
        parts = (self.phi_config, *self.phi, *self.tokenizer_files)
        return (*parts, *extras, self.vision, self.qformer, self.checkpoint)

    def label(self, path: Path) -> str:
        """Returns a file's path within the folder, as messages name it."""
        return path.relative_to(self.folder).as_posix()


def resolve_sources(folder: Path, stage: int | None = None) -> SourceFiles:
    """Finds the four sources in a folder.

    Args:
        folder: holds phi-2/, eva_vit_g.pth, blip2_pretrained_flant5xxl.pth and the checkpoints.
        stage: 1 to 4; None takes the highest that is there.

    Raises:
        WeightsError: the folder is none, a variant or of a name that is not UTF-8, files are
            missing, Phi-2's weights are there more than once, or an index cannot be trusted.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", f"name a folder of sources; {LIST_HINT}")
    if str(folder).encode(errors="ignore") != os.fsencode(folder):
        raise WeightsError(
            f"{folder} has a name that is not UTF-8, by which torch opens no file",
            "rename it, or go there and use `--sources .`",
        )
    if (folder / "manifest.json").exists():
        raise WeightsError(
            f"{folder} is a variant, not a folder of sources",
            f"ask it a question with `tinyv ask -m {folder} PICTURE QUESTION`, or name the "
            "folder of the public files",
        )
    if stage is None:
        present = [each for each in STAGES if (folder / make_checkpoint_name(each)).is_file()]
        stage = max(present, default=STAGES[-1])
    elif stage not in STAGES:
        raise WeightsError(f"there is no stage {stage}", "use `--stage 1`, 2, 3 or 4")
    phi, checkpoint = folder / PHI_FOLDER, folder / make_checkpoint_name(stage)
    index, weights = _resolve_phi_weights(phi)
    # Those that are missing stand here too, for the message.
    tokenizer_files = tuple(phi / name for name in TOKENIZER_PARTS)
    if (phi / TOKENIZER_FILE).is_file() or not any(map(Path.is_file, tokenizer_files)):
        tokenizer_files = (phi / TOKENIZER_FILE,)
    elif (phi / ADDED_TOKENS_FILE).is_file():
        tokenizer_files = (*tokenizer_files, phi / ADDED_TOKENS_FILE)
    single = (phi / "config.json", folder / VISION_FILE, folder / QFORMER_FILE, checkpoint)
    lacking = [path for path in (*single, *tokenizer_files, *weights) if not path.is_file()]
    missing = [path.relative_to(folder).as_posix() for path in lacking]
    if index is not None and set(lacking) & set(weights):
        missing[-1] += f" (named by {index.relative_to(folder).as_posix()})"
    if not weights:
        missing.append(f"{PHI_FOLDER}/{SINGLE_FILES[0]} (or any other form of Phi-2's weights)")
    if missing:
        raise WeightsError(f"{folder} lacks {', '.join(missing)}", f"put it there; {LIST_HINT}")
    architecture = folder / ARCHITECTURE_FILE
    return SourceFiles(
        folder=folder,
        phi=weights,
        phi_config=single[0],
        tokenizer=phi,
        vision=single[1],
        qformer=single[2],
        stage=stage,
        checkpoint=checkpoint,
        architecture=architecture if architecture.is_file() else None,
        phi_index=index,
        tokenizer_files=tokenizer_files,
    )


def holds_sources(folder: Path) -> bool:
    """Returns whether any of the four sources lies in a folder, be it incomplete or half fetched.

    Raises:
        WeightsError: the folder cannot be read.
    """
    starts = (PHI_FOLDER, VISION_FILE, QFORMER_FILE, *map(make_checkpoint_name, STAGES))
    try:
        return folder.is_dir() and any(path.name.startswith(starts) for path in folder.iterdir())
    except OSError as error:
        raise make_read_error(folder, error) from error


def find_phi_weights(folder: Path) -> tuple[Path, ...]:
    """Finds Phi-2's weight files in a folder of sources, in the one form that is all there.

    Returns:
        The index first, where there is one; nothing where weights are missing, in more forms than
        one, or not to be trusted.
    """
    try:
        index, weights = _resolve_phi_weights(folder / PHI_FOLDER)
    except (WeightsError, OSError):
        return ()
    if not all(path.is_file() for path in weights):
        return ()
    return weights if index is None else (index, *weights)


def is_weight_file(name: str) -> bool:
    """Returns whether a file of this name is one of Phi-2's weight files, or the index of such."""
    return name in INDEX_FILES or _WEIGHT_FILE.fullmatch(name) is not None


def make_checkpoint_name(stage: int) -> str:
    """Returns the published name of a stage's checkpoint."""
    return f"TinyGPT-V_for_Stage{stage}.pth"


def _resolve_phi_weights(phi: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """Finds the one form in which Phi-2's weights are there.

    Returns:
        The index (None without shards), and the weight files (empty when there are none).
    """
    indexes = [phi / name for name in INDEX_FILES if (phi / name).is_file()]
    singles = [phi / name for name in SINGLE_FILES if (phi / name).is_file()]
    forms = [*indexes, *singles]
    # An index may name the one file beside it; then both are one form.
    if len(indexes) == len(singles) == 1:
        named = set(read_weight_map(indexes[0]).values())
        forms = indexes if named == {singles[0].name} else forms
    if len(forms) > 1:
        names = " and ".join(path.name for path in forms)
        raise WeightsError(
            f"{phi} holds weights more than once: {names}", "keep one form and move the other away"
        )
    index = indexes[0] if indexes else None
    weights = tuple(singles)
    if index is not None and not singles:
        weights = tuple(phi / name for name in sorted(set(read_weight_map(index).values())))
    here = phi.iterdir() if phi.is_dir() else ()
    strays = sorted(p.name for p in here if _WEIGHT_FILE.fullmatch(p.name) and p not in weights)
    if strays:
        raise WeightsError(
            f"{phi} holds weight files that no index names: {', '.join(strays)}",
            "fetch the index.json that belongs to them, or move them away",
        )
    return index, weights


def read_weight_map(index: Path) -> dict[str, str]:
    """Reads which shard holds which tensor.

    Returns:
        tensor name → file name, the latter without any folder.

    Raises:
        WeightsError: the index is not a JSON object of that form, or names a file elsewhere.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index} has no weight_map", f"fetch it again; {LIST_HINT}")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not _FILE_NAME.fullmatch(shard):
            raise WeightsError(
                f"{index} names a shard outside its folder: {str(shard)[:80]!r}",
                f"do not use this file; fetch it again from its publisher; {LIST_HINT}",
            )
        if not shard.isprintable() or len(os.fsencode(shard)) > _LONGEST_NAME_BYTES:
            raise WeightsError(
                f"{index} names a shard by what is too long or not text: {shard[:40]!a}",
                f"fetch it again; {LIST_HINT}",
            )
    return weight_map


def read_json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    try:
        return read_object(read_text(path))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: {error}", "fetch it again") from error


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file as the sources have theirs: UTF-8, indented, with a final newline."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_text(path: Path) -> str:
    """Reads a file of UTF-8 text.

    Raises:
        WeightsError: the file cannot be read, or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte order mark first
    except (OSError, UnicodeDecodeError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise WeightsError(f"{path} cannot be read as text: {reason}", "fetch it again") from error
    check_stand_in(str(path), text[:64].encode())
    return text


def check_stand_in(label: str, start: bytes) -> None:
    """Checks that a file is not what stands in its place when it was not fetched.

    Args:
        label: how messages name the file.
        start: its first bytes.

    Raises:
        WeightsError: it is a Git LFS pointer or a web page.
    """
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{label} is a Git LFS pointer, not the file", "run `git lfs pull`")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        raise WeightsError(f"{label} is a web page, not the file", f"fetch it again; {LIST_HINT}")
