"""The Temporal Fusion Transformer of arXiv 1912.09363, in the order of the paper.

B batch, T context, P ticks of a patch, S = ceil(T / P) steps of the encoder, H horizon, L = T + H,
V variables, C channels of a variable, D hidden, M targets, Q quantiles. Needs torch alone. Inputs
are normalised: `tft.forecaster` takes raw units.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tft.attention import InterpretableMultiHeadAttention
from tft.layers import GatedResidualNetwork, GatedSkip
from tft.patches import attention_to_ticks, in_patches, weights_of_ticks
from tft.quantiles import QuantileHead
from tft.schema import DEFAULT_QUANTILES
from tft.selection import CHANNELS, RealEmbedding, VariableSelection


@dataclass(frozen=True)
class TFTConfig:
    """Sizes of the network."""

    num_past: int
    """Variables seen in the context: targets, observed metrics, known inputs."""
    num_future: int
    """Variables known over the horizon."""
    num_targets: int = 1
    """Metrics forecast."""
    num_static_reals: int = 0
    """Static numbers per window."""
    static_cardinalities: tuple[int, ...] = ()
    """Codes of each static category, the unknown code 0 included."""
    quantiles: tuple[float, ...] = DEFAULT_QUANTILES
    """Levels forecast, ascending, the median among them."""
    hidden_size: int = 32
    """Width of every layer after variable selection."""
    embedding_size: int = 8
    """Width of a variable's embedding and of its own GRN's hidden layer."""
    attention_heads: int = 8
    """Heads that share the attention's values."""
    dropout: float = 0.15
    """Share of activations dropped in training, before gates and after attention."""
    past_channels: int = CHANNELS
    """Numbers that make up a past variable at a tick: its value, and whether it was seen."""
    future_channels: int = CHANNELS
    """Numbers that make up a future variable at a step."""
    static_channels: int = CHANNELS
    """Numbers that make up a static real."""
    patch_length: int = 1
    """Ticks of the context that are one step of the encoder; 1 is the paper's encoder."""
    num_naive: int = 0
    """Naive forecasts the head may lean on; 0 is the paper's network."""

    def __post_init__(self) -> None:
        """Refuse sizes no network can have."""
        for name in (
            "num_past", "num_future", "num_targets", "hidden_size", "embedding_size",
            "past_channels", "future_channels", "static_channels", "patch_length",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.num_naive < 0:
            raise ValueError(f"num_naive {self.num_naive} must be at least 0")
        if self.attention_heads < 1 or self.hidden_size % self.attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of "
                f"attention_heads {self.attention_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be at least 0 and below 1")
        if self.num_static_reals + len(self.static_cardinalities) < 1:
            raise ValueError("the network needs at least one static input, real or category")


class TFTInputs(NamedTuple):
    """What the network reads: normalised, finite everywhere, missing values as (0, 0)."""

    past: Tensor  # [B, T, num_past, C]
    future: Tensor  # [B, H, num_future, C]
    static_reals: Tensor  # [B, num_static_reals, C]
    static_codes: Tensor  # [B, number of categories] int64
    past_seen: Tensor | None = (
        None  # [B, T] bool, attention may look at a patch with one; None: all
    )
    history_length: Tensor | None = None  # [B] int64 on the CPU, right-aligned; None: all T
    naive: Tensor | None = None  # [B, H, M, num_naive, Q], ascending in Q; None without any
    naive_seen: Tensor | None = None  # [B, M, num_naive] how much they rest on, 0 to 1; None: 1


class TFTOutput(NamedTuple):
    """Forecast quantiles and, when asked for, what the network looked at."""

    quantiles: Tensor  # [B, H, M, Q], ascending in Q
    attention: Tensor | None = None  # [B, H, L], averaged over heads; each row sums to 1
    even: Tensor | None = None  # [B, H, L] what it would be if a step looked everywhere alike
    past_weights: Tensor | None = None  # [B, T, num_past] variable selection
    future_weights: Tensor | None = None  # [B, H, num_future]
    static_weights: Tensor | None = None  # [B, static inputs], reals first
    naive_shares: Tensor | None = None  # [B, H, M, 1 + num_naive], the first left to the head alone


class TFT(nn.Module):
    """Temporal Fusion Transformer: past, known future and static inputs to quantiles."""

    def __init__(self, config: TFTConfig) -> None:
        super().__init__()
        self.config = config
        D, E, dropout = config.hidden_size, config.embedding_size, config.dropout
        num_static = config.num_static_reals + len(config.static_cardinalities)

        self.category_embeddings = nn.ModuleList(
            nn.Embedding(codes, E) for codes in config.static_cardinalities
        )
        self.static_embedding = RealEmbedding(config.num_static_reals, E, config.static_channels)
        self.past_embedding = RealEmbedding(
            config.num_past, E, config.patch_length * config.past_channels
        )
        self.future_embedding = RealEmbedding(config.num_future, E, config.future_channels)

        self.static_selection = VariableSelection(num_static, E, D, dropout)
        self.past_selection = VariableSelection(config.num_past, E, D, dropout, has_context=True)
        self.future_selection = VariableSelection(
            config.num_future, E, D, dropout, has_context=True
        )

        self.selection_context = GatedResidualNetwork(D, dropout)  # c_s
        self.enrichment_context = GatedResidualNetwork(D, dropout)  # c_e
        self.hidden_context = GatedResidualNetwork(D, dropout)  # c_h
        self.cell_context = GatedResidualNetwork(D, dropout)  # c_c

        self.encoder = nn.LSTM(D, D, batch_first=True)
        self.decoder = nn.LSTM(D, D, batch_first=True)
        self.lstm_skip = GatedSkip(D, dropout)
        self.enrichment = GatedResidualNetwork(D, dropout, has_context=True)
        self.attention = InterpretableMultiHeadAttention(D, config.attention_heads, dropout)
        self.attention_skip = GatedSkip(D, dropout)
        self.feed_forward = GatedResidualNetwork(D, dropout)
        self.output_skip = GatedSkip(D, dropout)
        self.head = QuantileHead(D, config.num_targets, config.quantiles, config.num_naive)

    def forward(self, inputs: TFTInputs, return_weights: bool = False) -> TFTOutput:
        """Forecast every horizon step of every target.

        Args:
            inputs: see `TFTInputs`.
            return_weights: also return attention and selection weights. It changes no forecast.

        Returns:
            Quantiles [B, H, M, Q]. Step h depends on the context and on horizon steps up to h only.
        """
        T, H, P = inputs.past.shape[1], inputs.future.shape[1], self.config.patch_length
        ticks, seen_ticks, length = self._crop(inputs)
        past, seen, length = in_patches(ticks, seen_ticks, length, P)

        # Static covariate encoders, section 4.3.
        static, static_weights = self._select_static(inputs)  # [B, D], [B, static inputs]
        c_s = self.selection_context(static)
        c_e = self.enrichment_context(static).unsqueeze(1)  # [B, 1, D]
        h_0, c_0 = self.hidden_context(static), self.cell_context(static)  # c_h, c_c

        # Variable selection, section 4.2.
        past_x, past_weights = self.past_selection(past, self.past_embedding, c_s)
        future_x, future_weights = self.future_selection(inputs.future, self.future_embedding, c_s)

        # Locality enhancement with a sequence-to-sequence layer, section 4.5.1.
        # In the weights' own precision: cuDNN's autocast is fp16 even where bf16 was asked for, and
        # gradients through many steps vanish in it; oneDNN has no fp16 LSTM at all.
        with torch.autocast(past_x.device.type, enabled=False):
            past_x, future_x, h_0, c_0 = self._as_weights(past_x, future_x, h_0, c_0)
            encoded, state = self._encode(past_x, (h_0, c_0), length)
            decoded, _ = self.decoder(future_x, state)
        lstm_in = torch.cat([past_x, future_x], dim=1)  # [B, S + H, D]
        lstm_out = torch.cat([encoded, decoded], dim=1)
        temporal = self.lstm_skip(lstm_out, lstm_in)  # equation 17

        # Static enrichment, section 4.5.2, equation 18.
        enriched = self.enrichment(temporal, c_e)

        # Temporal self-attention, section 4.5.3; only horizon steps ask.
        queries = enriched[:, -H:]  # [B, H, D]
        mask = _attention_mask(seen, H)  # [B, H, S + H]
        attended = self.attention(queries, enriched, mask)  # equation 19
        attended = self.attention_skip(attended, queries)  # equation 20

        # Position-wise feed-forward, section 4.5.4, and quantile outputs, section 4.6.
        transformed = self.feed_forward(attended)  # equation 21
        transformed = self.output_skip(transformed, temporal[:, -H:])  # equation 22
        naive_seen = None if inputs.naive_seen is None else inputs.naive_seen.unsqueeze(1)
        quantiles = self.head(transformed, inputs.naive, naive_seen)  # equation 23
        if not return_weights:
            return TFTOutput(quantiles)
        looks, alike = self.attention.weights(queries, enriched, mask), mask / mask.sum(-1, True)
        return TFTOutput(
            quantiles,
            attention_to_ticks(looks, seen_ticks, P, T),
            attention_to_ticks(alike, seen_ticks, P, T),
            weights_of_ticks(past_weights, P, T),
            future_weights,
            static_weights,
            None if inputs.naive is None else self.head.naive_shares(transformed, naive_seen),
        )

    def _select_static(self, inputs: TFTInputs) -> tuple[Tensor, Tensor]:
        """Embed static inputs and select among them: [B, D] and weights [B, inputs]."""
        embedded = [self.static_embedding(inputs.static_reals)]  # [B, reals, E]
        for column, table in enumerate(self.category_embeddings):
            embedded.append(table(inputs.static_codes[:, column]).unsqueeze(1))
        selected, weights = self.static_selection(torch.cat(embedded, dim=1).unsqueeze(1))
        return selected.squeeze(1), weights.squeeze(1)

    @staticmethod
    def _crop(inputs: TFTInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        """Drop ticks before every series began; keep lengths only where they still differ."""
        B, T = inputs.past.shape[:2]
        past, seen, length = inputs.past, inputs.past_seen, inputs.history_length
        if seen is None:
            seen = torch.ones(B, T, dtype=torch.bool, device=past.device)
        if length is None:
            return past, seen, None
        longest = int(length.max())
        past, seen = past[:, T - longest :], seen[:, T - longest :]
        return past, seen, length if bool((length < longest).any()) else None

    def _as_weights(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Cast what autocast made to the LSTMs' own precision."""
        weight = self.encoder.all_weights[0][0]
        return tuple(tensor.to(weight.dtype) for tensor in tensors)

    def _encode(
        self, past: Tensor, state: tuple[Tensor, Tensor], length: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the LSTM encoder from the static state; padding on the left is never stepped through.

        Args:
            past: [B, S, D].
            state: hidden and cell state, [B, D] each.
            length: [B] steps that are no padding; None: all S.

        Returns:
            Outputs [B, S, D] aligned with `past`, and the state after the last step.
        """
        start = (state[0].unsqueeze(0), state[1].unsqueeze(0))
        if length is None:
            outputs, end = self.encoder(past, start)
            return outputs, end
        S = past.shape[1]
        shift = (S - length).to(past.device).unsqueeze(1)
        step = torch.arange(S, device=past.device)
        left = ((step + shift) % S).unsqueeze(-1).expand_as(past)
        right = ((step - shift) % S).unsqueeze(-1)
        packed = pack_padded_sequence(past.gather(1, left), length, True, enforce_sorted=False)
        packed_outputs, end = self.encoder(packed, start)
        outputs, _ = pad_packed_sequence(packed_outputs, batch_first=True, total_length=S)
        return outputs.gather(1, right.expand_as(outputs)), end


def _attention_mask(seen: Tensor, horizon: int) -> Tensor:
    """Return [B, H, S + H]: seen steps of the context, and the horizon up to the asking step."""
    causal = torch.ones(horizon, horizon, dtype=torch.bool, device=seen.device).tril()
    context = seen.unsqueeze(1).expand(-1, horizon, -1)
    return torch.cat([context, causal.expand(seen.shape[0], -1, -1)], dim=-1)
