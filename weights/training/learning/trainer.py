"""Parameters and the loss of each step become trained parameters; resumes where it stopped.

The loss of a step depends on the parameters and the step's number alone, and the state holds all
else that the next step depends on: a run that was killed ends with the same numbers as one that was
not.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tinyv_cli.disk.whole_file import sync_file, write_whole
from tinyv_cli.errors import UsageError, WeightsError
from weights.synthetic.torch_saving import save_whole
from weights.training.learning.optimizers import compute_rate, make_optimizers
from weights.training.recipe import Schedule, TrainingRecipe

STATES_FOLDER = "training"  # of a folder of sources: states and logs of its runs
_MAX_GRADIENT_NORM = 1.0
_CUDA_KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


@dataclass(frozen=True)
class TrainOptions:
    """How a run goes.

    Attributes:
        n_steps: of the whole run.
        n_warm_up: steps until the learning rate is at its peak.
        rates: learning rate at the first step, at its peak, at the end.
        save_every: steps between two states on disk.
        bfloat16: computes products in bfloat16; weights, norms and sums stay float32.
        optimizer: one of `recipe.OPTIMIZERS`.
    """

    n_steps: int
    n_warm_up: int
    rates: tuple[float, float, float]
    save_every: int = 100
    bfloat16: bool = False
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.save_every < 1:
            raise UsageError("a run of no step trains nothing", "use 1 or more steps")


def make_options(recipe: TrainingRecipe, schedule: Schedule) -> TrainOptions:
    """Makes the options of a phase of a recipe."""
    first, peak, last = schedule.rates
    return TrainOptions(
        schedule.steps,
        schedule.warm_up,
        (first, peak, last),
        recipe.save_every,
        recipe.bfloat16,
        schedule.optimizer,
    )


class Trainer:
    """One run in one folder.

    Args:
        name: of the run.
        trained: parameters by name, trained in place.
        compute_loss: the loss of a step, from 0; draws the step's batch.
        folder: keeps `{name}.state.pt` and `{name}.log.jsonl`; made if need be.
        options: of the whole run, the same for all that go on in one folder.

    Raises:
        UsageError: this torch does not have the optimizer.
    """

    def __init__(
        self,
        name: str,
        trained: dict[str, nn.Parameter],
        compute_loss: Callable[[int], Tensor],
        folder: Path,
        options: TrainOptions,
    ) -> None:
        self._options = options
        self._trained = trained
        self._compute_loss = compute_loss
        self._optimizers = make_optimizers(trained, options.optimizer)
        self._state_path = folder / f"{name}.state.pt"
        self._log_path = folder / f"{name}.log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, advance: Callable[[int], None], stop_at: int | None = None) -> int:
        """Trains from where an earlier run stopped.

        Args:
            advance: called with the number of steps just done, first that of earlier runs.
            stop_at: ends after so many steps of the whole, as a kill would, but with its state.

        Returns:
            Steps done in all.

        Raises:
            UsageError: the folder holds the state of a run with other options.
            WeightsError: the state is damaged.
        """
        options = self._options
        start = self._resume()
        advance(start)
        end = options.n_steps if stop_at is None else min(stop_at, options.n_steps)
        for step in range(start, end):
            self._take_step(step)
            advance(1)
            if (step + 1) % options.save_every == 0 or step + 1 == end:
                state = {
                    "n_done": step + 1,
                    "options": asdict(options),
                    "trained": {name: tensor.detach() for name, tensor in self._trained.items()},
                    "optimizers": [each.state_dict() for each in self._optimizers],
                }
                sync_file(self._log_path)  # a state is never without what was logged before it
                save_whole(self._state_path, state)  # a kill leaves the old one or the new
        return max(start, end)

    def _take_step(self, step: int) -> None:
        options = self._options
        rate = compute_rate(step, options.n_steps, options.n_warm_up, options.rates)
        for group in [each for one in self._optimizers for each in one.param_groups]:
            group["lr"] = rate
        device = next(iter(self._trained.values())).device.type
        # On a CPU fused attention's backward pass is slow: without it a step takes 0.22 instead of
        # 0.34 s (vision) and 0.55 instead of 0.68 s (language; one thread, batch 32, 112 px).
        kernels = [SDPBackend.MATH] if device == "cpu" else list(_CUDA_KERNELS)
        with (
            warnings.catch_warnings(),
            sdpa_kernel(kernels),
            torch.autocast(device, torch.bfloat16, enabled=options.bfloat16),
        ):
            # RMSNorm of bfloat16 by a float32 weight is meant, and as right as it is slow.
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
            loss = self._compute_loss(step)
        for each in self._trained.values():
            each.grad = None
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(self._trained.values(), _MAX_GRADIENT_NORM)
        for optimizer in self._optimizers:
            optimizer.step()
        line = json.dumps({"step": step, "loss": round(loss.item(), 6), "rate": rate})
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _resume(self) -> int:
        """Loads the state, if there is one, and drops what was logged after it."""
        if not self._state_path.exists():
            self._log_path.unlink(missing_ok=True)
            return 0
        try:
            state = torch.load(self._state_path, weights_only=True)
        except (RuntimeError, EOFError, ValueError, OSError) as error:
            raise WeightsError(
                f"{self._state_path} is damaged", "remove it to start again"
            ) from error
        if state["options"] != asdict(self._options):
            raise UsageError(
                f"{self._state_path} is of a run with other options",
                "use the same ones, or remove it to start again",
            )
        with torch.no_grad():
            for name, tensor in state["trained"].items():
                self._trained[name].copy_(tensor)
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        n_done: int = state["n_done"]
        lines = self._log_path.read_text("utf-8").splitlines(keepends=True)
        write_whole(self._log_path, "".join(lines[:n_done]))
        return n_done
