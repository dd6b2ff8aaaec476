"""Probes, and material to round for, become the pass that hands out the language model's tensors.

Here stands which text meets which picture in which stream; the arithmetic is `calibrate`'s.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from quantize.calibrate.grids import to_grouped_codes
from quantize.calibrate.kept import KeptLayers
from quantize.calibrate.language import Calibration, LanguagePass, Target
from quantize.calibrate.material import Material, make_material, read_material
from quantize.calibrate.packing import pack
from quantize.calibrate.rounding import Settings
from quantize.calibrate.sensitivity import measure_losses
from quantize.groupwise import GroupedCodes, round_matrix
from quantize.measure.compare import ExactProbes, ProbeIds, embed, make_probe_ids
from quantize.recipe import EMBEDDINGS, INT8, Recipe
from tinyv_cli.answers.tokenizer import Tokenizer
from tinyv_cli.pictures.image import to_pixels
from tinyv_cli.prompts.prompt import TEMPLATES, default_template, make_prompt
from weights.reading.checkpoint import MergedWeights

Encode = Callable[[Sequence[np.ndarray]], np.ndarray]  # pixels (1, 3, S, S) → (P, Q, D)

# Positions for each column of the widest matrix: with 5 the miniature is six times as near as when
# rounded to the nearest, with 1.3 three and a half times.
_POSITIONS_A_COLUMN = 8
# Of the widest matrix: Phi-2's takes 1,024 positions, each 0.3 s of its 32 layers' products. So few
# for its columns cannot be trusted as far.
_MOST_ACTIVATIONS = 1024 * 10240
_FEW_POSITIONS = Settings(ridge=0.5, damping=0.05)
_OWN_SHARE = 0.9  # of the positions, where the user has questions; the rest keeps it general
_N_EXERCISES = 2000  # more than are ever taken
_RANKING_EVERY = 3  # of the probes


@dataclass(frozen=True)
class LanguageSide:
    """The language model that is to be written, and the probes in full precision.

    Attributes:
        weights: in full precision.
        tokenizer: the variant's.
        images: the probes' image tokens in full precision, (P, Q, D).
        threads: to round with.
    """

    weights: MergedWeights
    tokenizer: Tokenizer
    images: np.ndarray
    threads: int

    def open_pass(self, recipe: Recipe | None, calibration: Calibration | None) -> LanguagePass:
        """Opens a pass through the layers, which the probes take part in.

        Args:
            recipe: of the CPU's files, if activations are to be measured; None: they are not.
            calibration: None: matrices are rounded to the nearest.
        """
        language, read = self.weights.spec.language, self.weights.read
        table = read(EMBEDDINGS).numpy()
        embeddings = embed(self._probe_ids, self.images, table.__getitem__)
        measured = pack(embeddings, language, share_beginnings=True)
        self.weights.close()  # what the vision side had mapped: 0.5 GB at full size
        return LanguagePass(language, read, measured, calibration, recipe)

    def rank_matrices(self) -> list[str]:
        """Lists the layers' matrices, those first whose 4 bits lose most for their size.

        What they lose at the network's end is measured on the probes, each matrix by itself.
        """
        language, read = self.weights.spec.language, self.weights.read
        table = read(EMBEDDINGS).numpy()
        some = self._probe_ids[::_RANKING_EVERY]
        probes = pack(embed(some, self.images, table.__getitem__), language)
        losses = measure_losses(language, read, probes, self.threads)
        shapes = self.weights.shapes
        return sorted(losses, key=lambda name: -losses[name] / math.prod(shapes[name]))

    def finish(self, passed: LanguagePass) -> ExactProbes:
        """Returns the probes as the pass computed them, once all layers were asked for."""
        return ExactProbes(self._probe_ids, self.images, tuple(passed.finish()))

    @property
    def _probe_ids(self) -> tuple[ProbeIds, ...]:
        return make_probe_ids(self.tokenizer, default_template(self.weights.spec.stage))

    def make_calibration(
        self, target: Target, encode: Encode, own: Path | None, folder: Path
    ) -> Calibration:
        """Makes the streams that matrices are rounded for.

        Args:
            target: of the codes.
            encode: computes image tokens.
            own: the user's file of questions, which take nine tenths of the positions; None:
                all is the program's own.
            folder: takes the layers that are done.

        Raises:
            InputError: the file or a picture cannot be used.
            DeviceError: the folder cannot be written.
        """
        spec = self.weights.spec
        widest = max(spec.language.mlp_width, spec.language.width)
        wanted = min(_POSITIONS_A_COLUMN * widest, _MOST_ACTIVATIONS // widest)
        exact: list[np.ndarray] = []
        rounded: list[np.ndarray] = []
        table = self.weights.read(EMBEDDINGS)
        materials = [(make_material(_N_EXERCISES), wanted)]
        if own is not None:
            materials.insert(0, (read_material(own), int(_OWN_SHARE * wanted)))
        for material, up_to in materials:
            n_taken = sum(len(each) for each in exact)
            ids = self._encode_exercises(material, up_to - n_taken)
            shown = sorted({each.picture for each in ids})
            pixels = [to_pixels(material.pictures[n], spec.vision.image_px) for n in shown]
            images = dict(zip(shown, encode(pixels), strict=True))
            exact += embed(ids, images, lambda rows: table[rows].numpy())
            rounded += embed(
                ids, images, lambda rows: round_matrix(table[rows], INT8).to_matrix().numpy()
            )
        streams = pack(exact, spec.language), pack(rounded, spec.language)
        key = hashlib.sha256()
        for stream in streams:
            key.update(stream.states.numpy().data)
        for path in self.weights.files.all_files:
            status = path.stat()
            key.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
        threads = torch.get_num_threads()  # another number of them: other last bits of a sum
        key.update(f"{target} {version('tinyv')} {torch.__version__} {threads}".encode())
        kept = KeptLayers(folder, key.hexdigest())
        n_positions = int(streams[0].filled.sum())
        settings = Settings() if n_positions >= widest else _FEW_POSITIONS
        return Calibration(*streams, target, kept, settings)

    def _encode_exercises(self, material: Material, n_positions: int) -> list[ProbeIds]:
        """Encodes exercises of about so many positions."""
        spec = self.weights.spec
        template = TEMPLATES[default_template(spec.stage)]
        taken: list[ProbeIds] = []
        for each in material.exercises:
            before, after = make_prompt(template, (), each.question).pieces
            opening = tuple(self.tokenizer.encode(before))
            rest = (*self.tokenizer.encode(after), *self.tokenizer.encode(each.answer))
            room = spec.language.context_length - len(opening) - spec.qformer.n_queries
            length = len(opening) + spec.qformer.n_queries + len(rest[:room])
            if taken and n_positions < length / 2:
                break
            n_positions -= length
            taken.append(ProbeIds(each.picture, opening, rest[:room]))
        return taken


def find_codes(
    passed: LanguagePass, recipe: Recipe, threads: int
) -> Callable[[str], GroupedCodes | None]:
    """Makes what gives a CPU's files the codes of a pass.

    Args:
        passed: hands out the layers.
        recipe: of the files.
        threads: to round to the nearest with.
    """

    def find(name: str) -> GroupedCodes | None:
        rounding, arrays = recipe.rounding(name), passed.find(name)
        if arrays is not None:
            rounding = replace(rounding, float_activations=name in passed.unfit)
            return to_grouped_codes(arrays, rounding)
        if name not in passed.unfit:
            return None
        rounding = replace(rounding, float_activations=True)
        return round_matrix(passed.read(name), rounding, threads)

    return find
