"""The blocks of the network with random inputs of their own shapes, and what they must compute.

Operations are those of matrix products, 2 for each multiply-add, counted from the shapes;
elementwise work is not counted.

B batch, T context, S patches of it, H horizon, V variables, C channels, E embedding, D hidden,
N heads, d features of a head, M targets, Q quantiles, K naive forecasts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from benchmarks.inputs import random_inputs
from tft.model import TFT, TFTConfig, TFTInputs
from tft.patches import in_patches
from tft.quantiles import quantile_loss
from train.config import TrainConfig

# What the default schema makes: 4 targets, 3 observed metrics, 2 known inputs, 7 profiles.
CONFIG = TFTConfig(
    num_past=9,
    num_future=6,
    num_targets=4,
    num_static_reals=4,
    static_cardinalities=(64, 8),
    future_channels=33,
    static_channels=22,
    patch_length=TrainConfig.patch_length,
    num_naive=7,
)
CONTEXT, HORIZON = 288, 96


@dataclass(frozen=True)
class Block:
    """A part of the network with inputs of its shapes; those that need a gradient ask for it."""

    name: str
    parts: tuple[nn.Module, ...]
    inputs: tuple[Tensor, ...]
    run: Callable[[], tuple[Tensor, ...]]
    operations: int
    """Of one forward: 2 for each multiply-add of its matrix products."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of its parts."""
        return list(chain.from_iterable(part.parameters() for part in self.parts))

    def prefixes(self, device: torch.device) -> tuple[str, ...]:
        """Return what the names of its times begin with; on a GPU the readable path always runs."""
        twice = any(hasattr(m, "fast_path") for part in self.parts for m in part.modules())
        return ("readable_", "") if twice and device.type == "cpu" else ("",)

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, ...]:
        """Run it without gradients."""
        return self.run()

    def bytes_moved(self) -> int:
        """Count the bytes of inputs, outputs and parameters: the least one forward can move."""
        return sum(t.nbytes for t in (*self.inputs, *self.outputs(), *self.parameters))


def encoder_steps(config: TFTConfig) -> int:
    """Return the patches of a context."""
    return -(-CONTEXT // config.patch_length)


def product(rows: int, inputs: int, outputs: int) -> int:
    """Count the operations of [rows, inputs] x [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def grn_operations(rows: int, D: int, contexts: int = 0) -> int:
    """Count W2 a, W1 n2, the gate's W4 and W5, and W3 c of a gated residual network."""
    return 2 * product(rows, D, D) + product(rows, D, 2 * D) + product(contexts, D, D)


def selection_operations(rows: int, V: int, C: int, E: int, D: int, contexts: int = 0) -> int:
    """Count the variables' GRNs, the GRN of the weights, and the mixture of equation 8.

    Rows are batch x steps; embeddings are folded into the first layers, which read C channels.
    """
    variables = V * (product(rows, C, E + D) + product(rows, E, E) + product(rows, E, 2 * D))
    weights = product(rows, V * C, D + V) + product(rows, D, D) + product(rows, D, 2 * V)
    return variables + weights + product(contexts, D, D) + product(rows, V, D)


def attention_operations(B: int, H: int, L: int, D: int, N: int) -> int:
    """Count the projections of H queries, L keys and values, N heads' scores, sums and output."""
    d = D // N
    projections = product(B * H, D, D) + product(B * L, D, D) + product(B * L, D, d)
    heads = B * N * (product(H, d, L) + product(H, L, d))
    return projections + heads + product(B * H, d, D)


def all_blocks(network: TFT, batch: int) -> list[Block]:
    """Return the network's blocks in the order of `forward`, and the whole of it last."""
    config, device = network.config, next(network.parameters()).device
    inputs = random_inputs(config, batch, CONTEXT, HORIZON, device)
    target = torch.randn(batch, HORIZON, config.num_targets, device=device)
    blocks = [
        *selection_blocks(network, inputs),
        *sequence_blocks(network, batch, device),
        *horizon_blocks(network, target),
    ]
    levels = torch.tensor(config.quantiles, device=device)

    def whole() -> tuple[Tensor, ...]:
        return (quantile_loss(network(inputs).quantiles, target, levels).mean(),)

    operations = sum(block.operations for block in blocks)
    step = Block("whole network, loss", (network,), (*inputs[:4], target), whole, operations)
    return [*blocks, step]


def selection_blocks(network: TFT, inputs: TFTInputs) -> list[Block]:
    """Return static selection with the four contexts, and both selections over time."""
    n, config = network, network.config
    seen = torch.ones(inputs.past.shape[:2], dtype=torch.bool, device=inputs.past.device)
    past_x = in_patches(inputs.past, seen, None, config.patch_length).past
    B, S, num_past, C = past_x.shape
    H, num_future, C_future = inputs.future.shape[1:]
    E, D = config.embedding_size, config.hidden_size
    num_static = config.num_static_reals + len(config.static_cardinalities)
    contexts = (n.selection_context, n.enrichment_context, n.hidden_context, n.cell_context)
    static_parts = (n.static_selection, n.static_embedding, n.category_embeddings, *contexts)
    c_s = _leaf(inputs.past.device, B, D)

    def static() -> tuple[Tensor, ...]:
        selected, _ = n._select_static(inputs)
        return tuple(context(selected) for context in contexts)

    def past() -> tuple[Tensor, ...]:
        return n.past_selection(past_x, n.past_embedding, c_s)[:1]

    def future() -> tuple[Tensor, ...]:
        return n.future_selection(inputs.future, n.future_embedding, c_s)[:1]

    embedding = config.num_static_reals * product(
        B, config.static_channels, E
    )  # not folded, as there are few rows
    grns = len(contexts) * grn_operations(B, D)
    static_count = embedding + selection_operations(B, num_static, E, E, D) + grns
    past_count = selection_operations(B * S, num_past, C, E, D, contexts=B)
    future_count = selection_operations(B * H, num_future, C_future, E, D, contexts=B)
    static_inputs, past_inputs = inputs[2:4], (past_x, c_s)
    past_parts = (n.past_selection, n.past_embedding)
    future_parts, future_inputs = (n.future_selection, n.future_embedding), (inputs.future, c_s)
    return [
        Block("static selection, contexts", static_parts, static_inputs, static, static_count),
        Block("past variable selection", past_parts, past_inputs, past, past_count),
        Block("future variable selection", future_parts, future_inputs, future, future_count),
    ]


def sequence_blocks(network: TFT, B: int, device: torch.device) -> list[Block]:
    """Return the LSTMs, the gated skip after them, and static enrichment."""
    n, S, H, D = network, encoder_steps(network.config), HORIZON, network.config.hidden_size
    past_x, encoded = _leaf(device, B, S, D), _leaf(device, B, S, D)
    future_x, decoded = _leaf(device, B, H, D), _leaf(device, B, H, D)
    h, c = _leaf(device, 1, B, D), _leaf(device, 1, B, D)
    temporal, c_e = _leaf(device, B, S + H, D), _leaf(device, B, 1, D)

    def encode() -> tuple[Tensor, ...]:
        outputs, state = n.encoder(past_x, (h, c))
        return outputs, *state

    def decode() -> tuple[Tensor, ...]:
        return n.decoder(future_x, (h, c))[:1]

    def skip() -> tuple[Tensor, ...]:
        lstm_out = torch.cat([encoded, decoded], dim=1)
        return (n.lstm_skip(lstm_out, torch.cat([past_x, future_x], dim=1)),)

    def enrich() -> tuple[Tensor, ...]:
        return (n.enrichment(temporal, c_e),)

    rows, skipped = B * (S + H), (past_x, future_x, encoded, decoded)
    past_gates, future_gates = product(B * S, 2 * D, 4 * D), product(B * H, 2 * D, 4 * D)
    gate, grn = product(rows, D, 2 * D), grn_operations(rows, D, contexts=B)
    return [
        Block("LSTM encoder", (n.encoder,), (past_x, h, c), encode, past_gates),
        Block("LSTM decoder", (n.decoder,), (future_x, h, c), decode, future_gates),
        Block("gated skip after LSTM", (n.lstm_skip,), skipped, skip, gate),
        Block("static enrichment", (n.enrichment,), (temporal, c_e), enrich, grn),
    ]


def horizon_blocks(network: TFT, target: Tensor) -> list[Block]:
    """Return attention and what comes after it, all for the horizon only; target is [B, H, M]."""
    n, config, device = network, network.config, target.device
    (B, H, M), S, D = target.shape, encoder_steps(config), config.hidden_size
    enriched = _leaf(device, B, S + H, D)
    seen = torch.ones(H, S + H, dtype=torch.bool, device=device).tril(S)
    mask = seen.expand(B, -1, -1).contiguous()  # [B, H, S + H], as the network makes it
    attended, queries, temporal, transformed = (_leaf(device, B, H, D) for _ in range(4))
    levels = torch.tensor(config.quantiles, device=device)
    K, Q = config.num_naive, len(levels)
    naive = torch.randn(B, H, M, K, Q, device=device).sort(-1).values
    naive_seen = torch.rand(B, 1, M, K, device=device)

    def attend() -> tuple[Tensor, ...]:
        return (n.attention(enriched[:, -H:], enriched, mask),)

    def skip() -> tuple[Tensor, ...]:
        return (n.output_skip(n.feed_forward(n.attention_skip(attended, queries)), temporal),)

    def loss() -> tuple[Tensor, ...]:
        return (quantile_loss(n.head(transformed, naive, naive_seen), target, levels).mean(),)

    attention = attention_operations(B, H, S + H, D, config.attention_heads)
    skips = 2 * product(B * H, D, 2 * D) + grn_operations(B * H, D)
    head = product(B * H, D, M * (Q + 1 + K + Q - 1))
    skip_parts = (n.attention_skip, n.feed_forward, n.output_skip)
    return [
        Block("attention", (n.attention,), (enriched, mask), attend, attention),
        Block("skip, feed-forward, skip", skip_parts, (attended, queries, temporal), skip, skips),
        Block("quantile head, loss", (n.head,), (transformed, naive, target), loss, head),
    ]


def _leaf(device: torch.device, *shape: int) -> Tensor:
    """Draw what an earlier block would hand on, gradient wanted."""
    return torch.randn(*shape, device=device).requires_grad_()
