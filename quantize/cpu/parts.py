"""Merged tensors become a variant's files: graphs with their numbers, and the embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from quantize.cpu.data_file import DataFile
from quantize.cpu.decoder_graph import write_decoder
from quantize.cpu.graph import GraphWriter
from quantize.cpu.vision_graph import fold_projections, write_vision
from quantize.groupwise import round_matrix
from quantize.plan import Plan
from quantize.recipe import EMBEDDINGS, Recipe
from tinyv_cli.progress import Progress
from weights.reading.checkpoint import ReadTensor


@dataclass(frozen=True)
class PartWriter:
    """Writes the parts of one variant.

    Attributes:
        folder: where to.
        plan: names the files.
        recipe: how each tensor is rounded.
        read: gives a canonical tensor in float32.
        threads: to round with.
        progress: is told of each layer.
    """

    folder: Path
    plan: Plan
    recipe: Recipe
    read: ReadTensor
    threads: int
    progress: Progress

    def with_recipe(self, recipe: Recipe) -> Self:
        """The same, rounding otherwise."""
        return replace(self, recipe=recipe)

    def write_vision(self) -> None:
        """Writes the vision side; what stood in its place is gone."""
        spec = self.plan.spec
        n_steps = spec.vision.n_layers + spec.qformer.n_layers
        read = fold_projections(self.read)
        with (
            self._open_graphs("vision", read) as graphs,
            self.progress("rounding the vision side", n_steps) as bar,
        ):
            write_vision(graphs, self._shares("vision"), spec, bar.advance)

    def write_decoder(self) -> None:
        """Writes the language model without its embeddings."""
        spec = self.plan.spec.language
        with (
            self._open_graphs("decoder", self.read) as graphs,
            self.progress("rounding the language model", spec.n_layers + 1) as bar,
        ):
            write_decoder(graphs, self._shares("decoder"), spec, bar.advance)

    def write_embeddings(self) -> None:
        """Writes the embedding table: float32 rows, or codes and their scales and offsets."""
        rounding = self.recipe.rounding(EMBEDDINGS)
        table = self.read(EMBEDDINGS)
        if not rounding.has_codes:
            np.save(self._path("embeddings"), table.numpy())
            return
        rounded = round_matrix(table, rounding, self.threads)
        offsets = -rounded.zero_points.float() * rounded.scales
        scales = np.stack([rounded.scales.numpy(), offsets.numpy()], axis=-1)
        np.save(self._path("embeddings"), rounded.codes.numpy())
        np.save(self._path("embeddings-scales"), scales)

    @contextmanager
    def _open_graphs(self, part: str, read: ReadTensor) -> Iterator[list[GraphWriter]]:
        """Gives the writers of a part's graphs, over one data file."""
        with DataFile(self._path(f"{part}-data")) as data:
            yield [
                GraphWriter(self.folder / name, data, self.recipe, read, self.threads)
                for name in self.plan.graphs(part)
            ]

    def _shares(self, part: str) -> list[range]:
        return list(self.plan.graphs(part).values())

    def _path(self, role: str) -> Path:
        return self.folder / self.plan.files[role]


class SeenNames:
    """Wraps a reader so that it knows which tensors were asked for."""

    def __init__(self, read: ReadTensor) -> None:
        self._read = read
        self.names: set[str] = set()

    def __call__(self, name: str) -> torch.Tensor:
        """Reads a tensor."""
        self.names.add(name)
        return self._read(name)
