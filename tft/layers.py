"""The building blocks of section 4.1: gated linear unit and gated residual network.

Lim, Arik, Loeff, Pfister, "Temporal Fusion Transformers for Interpretable Multi-horizon Time
Series Forecasting", arXiv 1912.09363; equation numbers are the paper's.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from tft.dropout import Dropout


class GatedLinearUnit(nn.Module):
    """GLU(g) = sigmoid(W4 g + b4) * (W5 g + b5), equation 5, with dropout on g."""

    def __init__(self, input_size: int, output_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear(input_size, 2 * output_size)  # W5 above W4: the order of F.glu

    def forward(self, g: Tensor) -> Tensor:
        """Map [..., input_size] to [..., output_size]."""
        gated: Tensor = F.glu(self.linear(self.dropout(g)))
        return gated


class GatedSkip(nn.Module):
    """LayerNorm(skip + GLU(x)): the gated skip connection of equations 17, 20 and 22."""

    def __init__(self, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = GatedLinearUnit(hidden_size, hidden_size, dropout)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Combine two tensors [..., hidden_size] into one of the same shape."""
        normed: Tensor = self.norm(skip + self.gate(x))
        return normed


class GatedResidualNetwork(nn.Module):
    """GRN(a, c) = LayerNorm(a + GLU(n1)), equations 2 to 4.

    n1 = W1 n2 + b1 and n2 = ELU(W2 a + W3 c + b2).
    """

    def __init__(self, hidden_size: int, dropout: float = 0.0, has_context: bool = False) -> None:
        super().__init__()
        self.input = nn.Linear(hidden_size, hidden_size)  # W2, b2
        self.context = nn.Linear(hidden_size, hidden_size, bias=False) if has_context else None
        self.hidden = nn.Linear(hidden_size, hidden_size)  # W1, b1
        self.skip = GatedSkip(hidden_size, dropout)

    def forward(self, a: Tensor, context: Tensor | None = None) -> Tensor:
        """Transform [..., hidden_size]; `context` must broadcast against it.

        Raises:
            ValueError: a context is given to a network built without one, or is missing.
        """
        if (context is None) != (self.context is None):
            raise ValueError("a GRN takes a context exactly when built with has_context=True")
        n2 = self.input(a)
        if self.context is not None:
            n2 = n2 + self.context(context)
        n1 = self.hidden(F.elu(n2))
        out: Tensor = self.skip(n1, a)
        return out
