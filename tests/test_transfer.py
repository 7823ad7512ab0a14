"""The benchmark's worlds take away what they say, and nothing of what came after."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.transfer import as_text, epochs_saved
from benchmarks.worlds import (
    MODEL,
    SHARES,
    World,
    begun_before,
    held_out,
    missing_rows,
    score,
    split_table,
    study_fleet,
)
from data.reading import TableSpec, read_fleet
from data.windows import WindowStore
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tft.forecaster import Forecaster, TrainingFacts

SERVERS = tuple(f"server{number}" for number in range(4))


def trained() -> Forecaster:
    forecaster = tiny_forecaster()
    forecaster.facts = TrainingFacts(SERVERS[:2], 1060)
    return forecaster


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("blocks", [False, True])
def test_so_many_ticks_go_missing(share: float, blocks: bool) -> None:
    fleet = small_fleet((30_000, 30_000))
    gone = missing_rows(fleet, share, blocks, 300, seed=0)
    assert gone.mean() == pytest.approx(share, rel=0.15)
    assert np.array_equal(gone, missing_rows(fleet, share, blocks, 300, seed=0))


def test_gaps_in_blocks_last_from_one_to_six_hours() -> None:
    """A gap may meet the next one, or the series' end, so most are looked at, not all."""
    gone = missing_rows(small_fleet((30_000,)), 0.1, True, 300, seed=0)
    edges = np.flatnonzero(np.diff(gone.astype(int), prepend=0, append=0))
    lengths = edges[1::2] - edges[::2]
    assert np.mean((lengths >= 12) & (lengths <= 72)) > 0.9
    assert lengths.max() > 60 and lengths[1:-1].min() < 20


def test_a_server_just_begun_has_the_same_future_and_less_of_a_past() -> None:
    fleet = small_fleet((60, 80, 50))
    server, origin = np.array([0, 1]), np.array([1040, 1050])
    world = begun_before(World(fleet, server, origin), 5, SCHEMA.prediction_horizon)
    before = WindowStore(fleet, SCHEMA).gather(server, origin)
    after = WindowStore(world.fleet, SCHEMA).gather(world.server, world.origin)
    assert torch.equal(before.future, after.future)
    assert torch.equal(before.past[:, -5:], after.past[:, -5:])
    assert after.past[:, :-5].isnan().all() and after.history_length.tolist() == [5, 5]
    assert torch.equal(before.known, after.known)


def test_all_worlds_are_scored_on_the_same_ticks_and_differ() -> None:
    """Less history, hidden profiles and gaps change a forecast, and none makes it NaN."""
    scores = study_fleet(trained(), small_fleet((120, 120, 120, 120)), seed=0, windows=12)
    assert list(scores["history"]) == ["1 h", "6 h", "24 h"]
    assert list(scores["profile"]) == ["known", "hidden"]
    assert len(scores["missing"]) == 1 + 2 * len(SHARES)
    for worlds in scores.values():
        losses = [world[MODEL]["mean"] for world in worlds.values()]
        assert None not in losses and len(set(losses)) == len(losses)


def test_a_table_without_profiles_has_no_such_part() -> None:
    forecaster = tiny_forecaster(schema=replace(SCHEMA, profiles=()))
    forecaster.facts = TrainingFacts(SERVERS[:2], 1060)
    assert "profile" not in study_fleet(forecaster, small_fleet((120, 120, 120)), 0, 8)


def test_a_forecast_that_is_not_finite_is_told() -> None:
    forecaster, fleet = trained(), small_fleet()
    with torch.no_grad():
        forecaster.network.head.linear.bias[0] = torch.nan
    world = World(fleet, np.array([0]), np.array([1040]))
    assert score(forecaster, world, {"as it is": world})["as it is"][MODEL]["mean"] is None


def test_every_profile_keeps_servers_to_learn_from() -> None:
    fleet = small_fleet((50,) * 7)
    chosen = [held_out(fleet, seed) for seed in (1, 2, 3)]
    assert len(set(chosen)) == 3, "other seeds, other servers"
    for names in chosen:
        left = set(fleet.servers) - set(names)
        profiles = {p for n, p in zip(fleet.servers, fleet.profiles, strict=True) if n in left}
        assert profiles == {"database", "web_api"} and 2 <= len(names) <= 3
    assert held_out(small_fleet((50, 50)), 1) == (), "one of a kind is never held out"


def test_a_table_is_split_into_two_that_can_be_read(tmp_path: Path) -> None:
    fleet = small_fleet((50,) * 7)
    fleet = replace(fleet, first_tick=fleet.first_tick + 490_000)  # hours: of our days
    source, small = split_table(fleet, 3, tmp_path)
    spec = TableSpec(targets=SCHEMA.target_names, static=("cores",), step_seconds=3600)
    read = [read_fleet(path, spec).fleet for path in (source, small)]
    assert sorted(read[0].servers + read[1].servers) == list(fleet.servers)
    assert len(read[1].servers) == 3
    number = fleet.servers.index(read[1].servers[1])
    np.testing.assert_array_equal(read[1].series(1), fleet.series(number))
    assert read[1].profiles[1] == fleet.profiles[number]
    with pytest.raises(ValueError, match="the table has 7 servers; 8 are needed"):
        split_table(fleet, 4, tmp_path)


def test_epochs_are_counted_to_the_best_loss_from_scratch() -> None:
    saved = epochs_saved(scratch=[3.0, 1.0, 2.0], init=[1.5, 0.9, 0.8])
    assert (saved["goal"], saved["scratch_epochs"], saved["init_epochs"]) == (1.0, 1, 1)
    assert epochs_saved(scratch=[3.0, 1.0], init=[1.0, 1.1])["init_epochs"] == 0
    assert epochs_saved(scratch=[1.0, 1.1], init=[2.0, 1.2])["init_epochs"] is None


def test_the_tables_hold_every_world() -> None:
    scores = study_fleet(trained(), small_fleet((120, 120, 120, 120)), seed=0, windows=8)
    saved = {"init": epochs_saved(scratch=[3.0, 1.0], init=[2.0, 1.5])}
    text = as_text([{"seed": seed, **scores, **saved} for seed in (1, 2)])
    for world in (*scores["history"], *scores["missing"], "known", "hidden", "never"):
        assert f"\n{world}" in text or f" {world}" in text
    assert "gain of the profile" in text
