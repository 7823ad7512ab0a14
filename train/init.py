"""Starting from another fleet's forecaster: what carries over, by name, and what starts fresh.

Most weights know nothing of a metric's name; those that do are rows of it, and go where the name
goes. Servers of the other fleet are strangers whatever they are called, so every server starts as
an unknown one. Statistics of the normaliser are not taken over: level and spread of another
fleet's servers are not these ones', and the loss is measured in them.
"""

from collections.abc import Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tft.forecaster import Forecaster, future_names, past_names, static_names
from tft.schema import FeatureSchema
from train.config import TrainConfig
from train.runs import open_run

# Keys whose weights have other shapes, or another meaning, with another value.
MUST_EQUAL = ("patch_length", "hidden_size", "embedding_size", "attention_heads", "quantiles")
Axis = Sequence[Hashable]  # what each row along one axis of a tensor belongs to


def load_source(config: TrainConfig) -> Forecaster | None:
    """Load the forecaster that `init` names, before any table is read; None where it names none.

    Raises:
        ValueError: there is none, or its network has other sizes than the configuration's.
    """
    if config.init is None:
        return None
    source = open_run(Path(config.init), "cpu").forecaster
    sizes = source.network.config
    for key in MUST_EQUAL:
        before, now = getattr(sizes, key), getattr(config, key)
        if before != now:
            raise ValueError(
                f"init {config.init} has {key} = {before}, this training {key} = {now}; train "
                "with the same, or without init"
            )
    return source


def start_from(source: Forecaster, forecaster: Forecaster) -> list[str]:
    """Copy a source's weights into a fresh forecaster; what has no namesake keeps its fresh ones.

    Args:
        source: of any device; not changed.
        forecaster: of the same sizes, whose normaliser is fitted on its own fleet; changed.

    Returns:
        Lines: what carried over and what is fresh; what makes validation doubtful, if anything.

    Raises:
        ValueError: their ticks have other lengths, or a weight fits nowhere.
    """
    ours, theirs = forecaster.schema, source.schema
    if ours.step_seconds != theirs.step_seconds:
        raise ValueError(
            f"init has step_seconds = {theirs.step_seconds}, this table {ours.step_seconds}; read "
            "it with the same, or train without init"
        )
    our_axes, their_axes = _named_axes(forecaster), _named_axes(source)
    weights = dict(source.network.named_parameters())
    with torch.no_grad():
        for name, weight in forecaster.network.named_parameters():
            if name not in weights:
                raise ValueError(f"init has no weight {name!r}; train it again, or without init")
            given = weights[name].to(weight.device)
            if name.startswith("category_embeddings"):
                weight.copy_(given[0])  # unknown, until a row of its own is copied over it
            _copy_rows(name, weight, our_axes.get(name, ()), given, their_axes.get(name, ()))
    return [_what_mapped(theirs, ours), *_overlap(source, forecaster)]


def _copy_rows(name: str, ours: Tensor, our_axes: Sequence[Axis], theirs: Tensor,
               their_axes: Sequence[Axis]) -> None:  # fmt: skip
    """Copy the entries that belong to the same on every axis; an axis without names, by place."""
    here, there = [], []
    for axis in range(ours.dim()):
        if axis < len(our_axes):
            place = {owner: row for row, owner in enumerate(their_axes[axis])}
            pairs = [(r, place[own]) for r, own in enumerate(our_axes[axis]) if own in place]
        else:
            if ours.shape[axis] != theirs.shape[axis]:
                raise ValueError(
                    f"init's weight {name!r} is {tuple(theirs.shape)}, expected "
                    f"{tuple(ours.shape)}; train it again, or without init"
                )
            pairs = [(row, row) for row in range(ours.shape[axis])]
        rows = torch.tensor(pairs, dtype=torch.int64, device=ours.device).view(-1, 2)
        here.append(rows[:, 0])
        there.append(rows[:, 1])
    ours[torch.meshgrid(here, indexing="ij")] = theirs[torch.meshgrid(there, indexing="ij")]


def _named_axes(forecaster: Forecaster) -> dict[str, tuple[Axis, ...]]:
    """Say of the weights that belong to variables, targets or codes to which, axis by axis."""
    schema, network = forecaster.schema, forecaster.network
    hidden, levels = range(network.config.hidden_size), schema.quantiles
    outputs = [(name, level) for name in schema.target_names for level in levels]
    naive = range(1 + network.config.num_naive)
    shares = [(name, number) for name in schema.target_names for number in naive]
    gaps = [(name, number) for name in schema.target_names for number in range(len(levels) - 1)]
    named: dict[str, tuple[Axis, ...]] = {
        "category_embeddings.0.weight": ([None],),  # code 0 alone: no server is the same one
        "category_embeddings.1.weight": ([None, *schema.profiles],),
        "head.linear.weight": (outputs,),
        "head.linear.bias": (outputs,),
        "head.shares.weight": (shares,),
        "head.shares.bias": (shares,),
        "head.stretch.weight": (gaps,),
        "head.stretch.bias": (gaps,),
    }
    parts = {"past": past_names(schema), "future": future_names(schema)}
    for part, names in {**parts, "static": static_names(schema)}.items():
        embedded = names[: len(getattr(network, f"{part}_embedding").bias)]  # without categories
        named |= dict.fromkeys((f"{part}_embedding.weight", f"{part}_embedding.bias"), (embedded,))
        selection = f"{part}_selection"
        for name, _ in getattr(network, selection).named_parameters():
            if name.startswith(("variable_", "selection_norm")):
                named[f"{selection}.{name}"] = (names,)
            elif name.startswith("selection_gate"):
                both = [(half, name) for half in ("value", "gate") for name in names]
                named[f"{selection}.{name}"] = (both,)
        outer = [*hidden, *names]  # the hidden layer, and the skip to the scores
        named[f"{selection}.selection_input"] = (names, range(network.config.embedding_size), outer)
        named[f"{selection}.selection_input_bias"] = (outer,)
    return named


def _what_mapped(theirs: FeatureSchema, ours: FeatureSchema) -> str:
    """Say in one line what has a namesake and what has not."""
    roles = {
        "past": (past_names(theirs), past_names(ours)),
        "future": (future_names(theirs), future_names(ours)),
        "static": (static_names(theirs), static_names(ours)),
        "forecast": (theirs.target_names, ours.target_names),
        "profiles": (theirs.profiles, ours.profiles),
    }
    parts = []
    for role, (before, now) in roles.items():
        fresh = [name for name in now if name not in before]
        new = f" ({', '.join(fresh)} new)" if fresh else ""
        parts.append(f"{role} {len(now) - len(fresh)} of {len(now)}{new}")
    return f"init carries over: {'; '.join(parts)}; every server starts as an unknown one"


def _overlap(source: Forecaster, forecaster: Forecaster) -> list[str]:
    """Warn where the source may have been trained on what this training validates with."""
    both = sorted(set(source.facts.servers) & set(forecaster.facts.servers))
    if not both or source.facts.end_tick <= forecaster.facts.end_tick:
        return []
    return [
        f"init: {len(both)} servers have names it knows, such as {both[0]}, and it was trained on "
        "later ticks than validation begins with; if they are the same, nothing is held out"
    ]
