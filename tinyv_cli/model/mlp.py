"""A block's MLP: a wide hidden layer between two linear maps."""

from torch import Tensor, nn
from torch.nn.functional import gelu


class Mlp(nn.Module):
    """Computes fc2(GELU(fc1(x))).

    Args:
        width: of input and output.
        hidden_width: between the two maps.
        approximate: how GELU is computed, `none` for the exact form or `tanh`.

    Source: arXiv 1606.08415 for both forms of GELU.
    """

    def __init__(self, width: int, hidden_width: int, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = self.fc2(gelu(self.fc1(hidden), approximate=self.approximate))
        return out
