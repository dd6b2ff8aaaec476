"""A folder becomes the list of the public files in it, without opening one of tensors.

The four sources and where each is looked for are in `resolve_sources`. Phi-2's weights may lie in
one file or in shards with an index, as PyTorch files or as safetensors; its tokenizer is one file,
or the three it can be built from.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

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
END_OF_TEXT = "<|endoftext|>"
LIST_HINT = "`tinyv pull` fetches what is missing, `tinyv quantize --help` lists the files"
# No folder, no drive, no stream: a shard lies beside its index on every system.
_FILE_NAME = re.compile(r"(?!\.{1,2}\Z)[^/\\:\0]+", re.DOTALL)
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
        WeightsError: the folder is none or a variant, files are missing (all are named), Phi-2's
            weights are there more than once, or an index cannot be trusted.
    """
    if not folder.is_dir():
        raise WeightsError(f"{folder} is not a folder", f"name a folder of sources; {LIST_HINT}")
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
    phi = folder / PHI_FOLDER
    checkpoint = folder / make_checkpoint_name(stage)
    index, weights = _resolve_phi_weights(phi)
    tokenizer_files = _list_tokenizer_files(phi)
    single = (phi / "config.json", folder / VISION_FILE, folder / QFORMER_FILE, checkpoint)
    needed = (*single, *weights, *tokenizer_files)
    missing = [path.relative_to(folder).as_posix() for path in needed if not path.is_file()]
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


def _list_tokenizer_files(phi: Path) -> tuple[Path, ...]:
    """Lists the files of the tokenizer; those that are missing too, for the message."""
    parts = tuple(phi / name for name in TOKENIZER_PARTS)
    if (phi / TOKENIZER_FILE).is_file() or not any(path.is_file() for path in parts):
        return (phi / TOKENIZER_FILE,)
    added = phi / ADDED_TOKENS_FILE
    return (*parts, added) if added.is_file() else parts


def _resolve_phi_weights(phi: Path) -> tuple[Path | None, tuple[Path, ...]]:
    """Finds the one form in which Phi-2's weights are there.

    Returns:
        The index (None without shards), and the weight files (empty when there are none).
    """
    indexes = [phi / name for name in INDEX_FILES if (phi / name).is_file()]
    singles = [phi / name for name in SINGLE_FILES if (phi / name).is_file()]
    forms = [*indexes, *singles]
    if len(forms) > 1:
        names = " and ".join(path.name for path in forms)
        raise WeightsError(
            f"{phi} holds weights more than once: {names}", "keep one form and move the other away"
        )
    index = indexes[0] if indexes else None
    weights = tuple(singles)
    if index is not None:
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
                f"{index} names a shard outside its folder: {shard!r}",
                f"do not use this file; fetch it again from its publisher; {LIST_HINT}",
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
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise WeightsError(f"{path} cannot be read as text: {reason}", "fetch it again") from error


def read_tokenizer_json(files: SourceFiles) -> str:
    """Reads the tokenizer in the one-file form, or builds that from its older files.

    Returns:
        The text of a tokenizer.json.

    Raises:
        WeightsError: a file is damaged, or they do not fit one another.
    """
    first, *others = files.tokenizer_files
    if first.name == TOKENIZER_FILE:
        text = read_text(first)
        try:
            Tokenizer.from_str(text)
        except Exception as error:  # `tokenizers` raises nothing more exact
            label = files.label(first)
            raise WeightsError(f"{label} is not a tokenizer: {error}", "fetch it again") from error
        return text
    added = read_json_object(others[1]) if others[1:] else {}
    lines = [line for line in read_text(others[0]).split("\n") if line and line[:9] != "#version:"]
    merges = [(words[0], words[-1]) for words in map(str.split, lines) if len(words) == 2]
    if len(merges) != len(lines):
        raise WeightsError(f"{others[0]} holds a line that is not two tokens", "fetch it again")
    try:
        return make_tokenizer_json(read_json_object(first), merges, added)
    except WeightsError:
        raise
    except Exception as error:  # `tokenizers` raises nothing more exact
        names = " and ".join(files.label(path) for path in files.tokenizer_files)
        raise WeightsError(
            f"{names} make no tokenizer: {error}", "fetch them again, or add tokenizer.json"
        ) from error


def make_tokenizer_json(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], added: dict[str, int]
) -> str:
    """Builds Phi-2's tokenizer: byte-level BPE, no prefix space, nothing added to a text.

    Args:
        vocabulary: token → id, written in the byte-level alphabet.
        merges: pairs of tokens, the first to be merged first.
        added: token → id of whole texts beside the vocabulary (Phi-2 has 38 runs of white space).

    Returns:
        The text of a tokenizer.json.

    Raises:
        WeightsError: an added token's id is not the next free one.

    Source: the CodeGen tokenizer that Phi-2's tokenizer_config.json names.
    """
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    by_id = sorted((token for token in added if token != END_OF_TEXT), key=lambda t: added[t])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in by_id])
    wrong = [token for token in added if tokenizer.token_to_id(token) != added[token]]
    if wrong:
        raise WeightsError(
            f"{ADDED_TOKENS_FILE} gives {wrong[0]!r} the id {added[wrong[0]]!r}, "
            f"not {tokenizer.token_to_id(wrong[0])}",
            f"fetch it again together with {' and '.join(TOKENIZER_PARTS)}",
        )
    return str(tokenizer.to_str())
