"""Merged tensors become the CPU's files of a variant: graphs with their numbers, and embeddings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantize.cpu.decoder_graph import write_decoder
from quantize.cpu.graph import DataFile, FindCodes, GraphWriter
from quantize.cpu.vision_graph import fold_projections, write_vision
from quantize.groupwise import round_matrix
from quantize.plan import VariantPlan
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
        read: returns a canonical tensor in float32.
        threads: to round with.
        progress: is told of each layer.
        find_codes: as `GraphWriter` takes it, for the language model.
    """

    folder: Path
    plan: VariantPlan
    recipe: Recipe
    read: ReadTensor
    threads: int
    progress: Progress
    find_codes: FindCodes | None = None

    def write_vision(self) -> None:
        """Writes the vision side, over one that was written before."""
        spec = self.plan.spec
        n_steps = spec.vision.n_layers + spec.qformer.n_layers
        with (
            self._open_graphs("vision", fold_projections(self.read)) as (graphs, shares),
            self.progress("rounding the vision side", n_steps) as bar,
        ):
            write_vision(graphs, shares, spec, bar.advance)

    def write_decoder(self) -> None:
        """Writes the language model without its embeddings."""
        spec = self.plan.spec.language
        with (
            self._open_graphs("decoder", self.read) as (graphs, shares),
            self.progress("rounding the language model", spec.n_layers + 1) as bar,
        ):
            write_decoder(graphs, shares, spec, bar.advance)

    def write_embeddings(self) -> None:
        """Writes the embedding table: float32 rows, or codes and their scales and offsets."""
        rounding = self.recipe.rounding(EMBEDDINGS)
        table, files = self.read(EMBEDDINGS), self.plan.files
        if not rounding.has_codes:
            np.save(self.folder / files["embeddings"], table.numpy())
            return
        rounded = round_matrix(table, rounding, self.threads)
        offsets = -rounded.zero_points.float() * rounded.scales
        scales = np.stack([rounded.scales.numpy(), offsets.numpy()], axis=-1)
        np.save(self.folder / files["embeddings"], rounded.codes.numpy())
        np.save(self.folder / files["embeddings-scales"], scales)

    @contextmanager
    def _open_graphs(
        self, part: str, read: ReadTensor
    ) -> Iterator[tuple[list[GraphWriter], list[range]]]:
        """Yields the writers of a part's graphs, over one data file, and the layers of each."""
        shares = self.plan.graphs(part)
        with DataFile(self.folder / self.plan.files[f"{part}-data"]) as data:
            writers = [
                GraphWriter(
                    self.folder / name, data, self.recipe, read, self.threads, self.find_codes
                )
                for name in shares
            ]
            yield writers, list(shares.values())
