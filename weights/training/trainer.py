"""Parameters and a loss of each step become trained parameters; stops and goes on where it was.

The loss of a step depends on the parameters and the step's number alone, and the state holds all
else that the next step depends on: a run that was killed ends with the same numbers as one that was
not. Knows no network and no data.
"""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tinyv_cli.errors import UsageError, WeightsError
from weights.training.recipe import Recipe, Schedule
from weights.training.stages import compute_rate

STATES_FOLDER = "training"  # of a folder of sources: states and logs of its runs
_BETAS = (0.9, 0.999)  # source: MiniGPT-4's configurations, which TinyGPT-V's follow
_WEIGHT_DECAY = 0.05
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
    """

    n_steps: int
    n_warm_up: int
    rates: tuple[float, float, float]
    save_every: int = 100
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.save_every < 1:
            raise UsageError("a run of no step trains nothing", "use 1 or more steps")


def make_options(recipe: Recipe, schedule: Schedule) -> TrainOptions:
    """How a phase of a recipe goes."""
    first, peak, last = schedule.rates
    return TrainOptions(
        schedule.steps, schedule.warm_up, (first, peak, last), recipe.save_every, recipe.bfloat16
    )


class Trainer:
    """One run in one folder.

    Args:
        name: of the run.
        trained: parameters by name, trained in place.
        compute_loss: the loss of a step, from 0; draws the step's batch.
        folder: keeps `{name}.state.pt` and `{name}.log.jsonl`; made if need be.
    """

    def __init__(
        self,
        name: str,
        trained: dict[str, nn.Parameter],
        compute_loss: Callable[[int], Tensor],
        folder: Path,
    ) -> None:
        self._trained = trained
        self._compute_loss = compute_loss
        self._optimizer = _make_optimizer(trained)
        self._state_path = folder / f"{name}.state.pt"
        self._log_path = folder / f"{name}.log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self, options: TrainOptions, advance: Callable[[int], None], stop_at: int | None = None
    ) -> int:
        """Trains from where an earlier run stopped.

        Args:
            options: the same for all runs in one folder.
            advance: is told how many steps are done, those of earlier runs first.
            stop_at: ends after so many steps of the whole, as a kill would, but with its state.

        Returns:
            Steps done in all.

        Raises:
            UsageError: the folder holds the state of a run with other options.
            WeightsError: the state is damaged.
        """
        start = self._resume(options)
        advance(start)
        end = options.n_steps if stop_at is None else min(stop_at, options.n_steps)
        for step in range(start, end):
            self._take_step(step, options)
            advance(1)
            if (step + 1) % options.save_every == 0 or step + 1 == end:
                self._save(step + 1, options)
        return max(start, end)

    def _take_step(self, step: int, options: TrainOptions) -> None:
        rate = compute_rate(step, options.n_steps, options.n_warm_up, options.rates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        device = next(iter(self._trained.values())).device.type
        # On a CPU fused attention goes back at half the speed of its parts (DESIGN.md).
        kernels = [SDPBackend.MATH] if device == "cpu" else list(_CUDA_KERNELS)
        with (
            warnings.catch_warnings(),
            sdpa_kernel(kernels),
            torch.autocast(device, torch.bfloat16, enabled=options.bfloat16),
        ):
            # RMSNorm of bfloat16 by a float32 weight is meant, and as right as it is slow.
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
            loss = self._compute_loss(step)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        nn.utils.clip_grad_norm_(self._trained.values(), _MAX_GRADIENT_NORM)
        self._optimizer.step()
        line = json.dumps({"step": step, "loss": round(loss.item(), 6), "rate": rate})
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def _save(self, n_done: int, options: TrainOptions) -> None:
        """Exchanges the state as a whole, so that a kill leaves the old one or the new."""
        state = {
            "n_done": n_done,
            "options": asdict(options),
            "trained": {name: tensor.detach() for name, tensor in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
        }
        fresh = self._state_path.with_name(f"{self._state_path.name}.writing-{os.getpid()}")
        try:
            torch.save(state, fresh)
            fresh.replace(self._state_path)
        finally:
            fresh.unlink(missing_ok=True)

    def _resume(self, options: TrainOptions) -> int:
        """Loads the state, if there is one, and drops what was logged after it."""
        if not self._state_path.exists():
            self._log_path.unlink(missing_ok=True)
            return 0
        state = self._read_state()
        if state["options"] != asdict(options):
            raise UsageError(
                f"{self._state_path} is of a run with other options",
                "use the same ones, or remove it to start again",
            )
        with torch.no_grad():
            for name, tensor in state["trained"].items():
                self._trained[name].copy_(tensor)
        self._optimizer.load_state_dict(state["optimizer"])
        n_done: int = state["n_done"]
        lines = self._log_path.read_text("utf-8").splitlines(keepends=True)
        self._log_path.write_text("".join(lines[:n_done]), "utf-8")
        return n_done

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self._state_path, weights_only=True)
        except (RuntimeError, EOFError, ValueError, OSError) as error:
            raise WeightsError(
                f"{self._state_path} is damaged", "remove it to start again"
            ) from error
        return state


def _make_optimizer(trained: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    """AdamW; what is no matrix does not decay."""
    matrices = [each for each in trained.values() if each.ndim > 1]
    others = [each for each in trained.values() if each.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": _WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=_BETAS, fused=True)
