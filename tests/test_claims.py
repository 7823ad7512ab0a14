"""Only what was measured is claimed: every rule, from the facts that trigger it."""

import math
import re
from dataclasses import replace

import pytest

from report.claims import derive_claims, loss_band
from tests.reports import make_group, make_report, make_run


def joined(lines):
    return "\n".join(lines)


def test_a_tested_run_supports_sentences_with_their_figures():
    claims = derive_claims(make_report(), make_run())
    assert claims.maturity == "trained to a plateau, tested on held-out windows"
    supported = joined(claims.supported)
    assert "On 1,000 held-out windows of 12 servers trained on" in supported
    assert "0.2500 (mean of 2 metrics), 23.1 % below the flat forecast (0.3250)" in supported
    assert "every naive forecast on every metric; the smallest margin is 20.0 %" in supported
    assert "80 % interval held 81.2 % of what came" in supported
    assert "71.2 % of cpu_percent ticks came within 10 points" in supported
    assert "988 windows a second" in supported and "4.2 ms" in supported


def test_one_epoch_is_a_proof_of_concept_without_an_accuracy_figure():
    claims = derive_claims(make_report(), make_run((0.4,), best_epoch=1))
    assert claims.maturity == "proof of concept: less than two whole epochs"
    supported = joined(claims.supported)
    assert "Proof of concept" in supported
    assert "quantile loss" not in supported and "within 10 points" not in supported
    assert claims.unsupported[0].startswith("An accuracy figure: less than two whole epochs")


def test_what_no_epoch_made_better_is_nothing_learnt():
    claims = derive_claims(make_report(), make_run((0.4, 0.5), best_epoch=0, first_loss=0.3))
    assert claims.maturity.startswith("nothing learnt")
    assert "none was better than what training started from" in joined(claims.facts)
    assert claims.unsupported[0].startswith("That it learnt from these data")
    assert "the network before training" in claims.unsupported[0]
    begun = derive_claims(make_report(), make_run((0.4, 0.5), best_epoch=0, init="before"))
    assert "than the weights of before it started from" in begun.unsupported[0]


def test_what_training_gained_is_told():
    facts = joined(derive_claims(make_report(), make_run(first_loss=0.5)).facts)
    assert "the best was number 3, validation loss 0.2500 (0.5000 before training)" in facts


def test_what_another_run_was_trained_on_may_not_be_held_out():
    unsupported = joined(derive_claims(make_report(), make_run(init="before")).unsupported)
    assert "began from the weights of before, which may have seen them" in unsupported
    assert "began from" not in joined(derive_claims(make_report(), make_run()).unsupported)


def test_an_epoch_the_clock_cut_short_is_no_whole_one():
    claims = derive_claims(make_report(), make_run((0.4, 0.3), whole_epochs=1))
    assert claims.maturity == "proof of concept: less than two whole epochs"
    assert "4,096 windows each, but for the last, cut short by the clock" in joined(claims.facts)


def test_validation_windows_that_chose_the_epoch_are_no_held_out_test():
    group = make_group(name="known servers, validation", validation=True)
    claims = derive_claims(make_report(groups=(group,)), make_run())
    assert claims.maturity.endswith("not tested")
    assert "which chose the best epoch and so flatter it" in claims.supported[0]
    assert "within 10 points" not in joined(claims.supported)
    assert claims.unsupported[0].startswith("An accuracy figure: all 1,000 windows are of the")
    assert "Held-out evaluation: none" in joined(claims.facts)


def test_claims_rest_on_the_held_out_part_of_mixed_windows():
    groups = (
        make_group((0.24, 0.39), windows=400),
        make_group((0.1, 0.1), windows=600, validation=True),
    )
    claims = derive_claims(make_report(groups=groups), make_run())
    supported = joined(claims.supported)
    assert "On 400 held-out windows" in supported and "600" not in supported
    assert "within 10 points" not in supported  # counted over all windows
    assert "600 of 1,000 windows are of the validation part" in joined(claims.unsupported)


def test_a_model_without_its_run_claims_no_accuracy():
    group = make_group(name="known servers", validation=None)
    claims = derive_claims(make_report(groups=(group,)), None)
    assert claims.maturity.startswith("unknown")
    assert "may have chosen the best epoch" in claims.supported[0]
    assert "there is no finished run around the model" in claims.unsupported[0]
    assert "Epochs" not in joined(claims.facts)


@pytest.mark.parametrize(("days", "said"), [(6.9, True), (7.0, False)])
def test_under_a_week_there_is_no_weekly_pattern(days, said):
    """Of days trained on: a table of eight days trains on six."""
    claims = derive_claims(make_report(), make_run(data_days=8.6, trained_days=days))
    assert ("A weekly pattern" in joined(claims.unsupported)) is said


def test_days_of_the_table_count_where_those_trained_on_are_not_known():
    claims = derive_claims(make_report(), make_run(data_days=5.0, trained_days=None))
    assert "A weekly pattern: it was trained on 5.0 days" in joined(claims.unsupported)


@pytest.mark.parametrize(
    ("losses", "patience_ran_out", "said"),
    [
        ((0.4, 0.3, 0.25), False, "too few epochs to tell"),
        ((0.4, 0.3, 0.25), True, "reached; patience ran out"),
        ((0.4, 0.38, 0.36, 0.34, 0.32, 0.30, 0.28, 0.26), False, "not reached"),
        ((0.4, 0.3, *[0.25] * 8), False, "reached; the last quarter of epochs lowered"),
    ],
)
def test_plateau(losses, patience_ran_out, said):
    run = make_run(losses, patience_ran_out=patience_ran_out)
    claims = derive_claims(make_report(), run)
    assert f"Plateau: {said}" in joined(claims.facts)
    assert ("best it can do" in joined(claims.unsupported)) is not run.plateau


def test_what_a_naive_forecast_does_better_is_named():
    group = make_group((0.2, 0.45))
    claims = derive_claims(make_report(groups=(group,)), make_run())
    assert "beats every naive forecast on cpu_percent" in joined(claims.supported)
    lost = [line for line in claims.unsupported if line.startswith("Better than")]
    assert lost == [
        "Better than the flat forecast on net_in_kbs (0.4500, that one's 0.4000); known servers, "
        "held out"
    ]


def test_a_metric_without_a_score_is_neither_won_nor_lost():
    group = make_group((0.2, math.nan))
    claims = derive_claims(make_report(groups=(group,)), make_run())
    assert "There it beats every naive forecast on cpu_percent" in claims.supported
    assert "Better than" not in joined(claims.unsupported)


@pytest.mark.parametrize(("coverage", "said"), [(0.78, False), (0.82, False), (0.7, True)])
def test_an_interval_that_does_not_hold_what_it_says_is_named(coverage, said):
    claims = derive_claims(make_report(groups=(make_group(coverage=coverage),)), make_run())
    assert ("An interval of 80 % of cpu_percent" in joined(claims.unsupported)) is said


def test_servers_never_trained_on_need_a_score_of_their_own():
    known = derive_claims(make_report(), make_run())
    assert "Forecasts of servers never trained on" in joined(known.unsupported)
    groups = (
        make_group(),
        make_group(name="new servers, held out", new=True, servers=3),
        make_group(name="new, 1 h", new=True, history_hours=1.0, cold_start=True),
    )
    both = derive_claims(make_report(groups=groups), make_run())
    assert "Forecasts of servers never trained on" not in joined(both.unsupported)
    assert "held-out windows of 3 servers never trained on" in joined(both.supported)
    assert "From 1 h of history, a cold start" in joined(both.supported)


def test_forecasts_that_are_no_numbers_are_counted():
    claims = derive_claims(replace(make_report(), not_finite=1234), make_run())
    assert "1,234 forecasts of observed ticks are no numbers" in joined(claims.unsupported)


def test_accuracy_is_never_a_bare_percentage():
    """A share stands with what it is a share of."""
    for run in (make_run(), make_run((0.4,)), None):
        claims = derive_claims(make_report(), run)
        said = joined((claims.maturity, *claims.facts, *claims.supported, *claims.unsupported))
        assert not re.search(r"accura\w+[^.\n]{0,20}\d+(\.\d+)? ?%|% accura", said)


def test_bands():
    assert [loss_band(loss) for loss in (0.05, 0.1, 0.2, 0.35)] == [
        "excellent", "good", "fair", "poor",
    ]  # fmt: skip
