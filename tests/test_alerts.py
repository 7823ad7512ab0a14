"""Alerts rise late, live through wobbles, and are one per server and metric."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.early_warning.crossing import crossing_probability
from serve.ahead import gate_peaks, look_ahead
from serve.alert_rules import AlertRules
from serve.alerts import Alert, AlertBook, State
from serve.outlook import Outlook, Status
from tests.outlooks import CALM, ORIGIN, SCHEMA, STEP, H, make_outlook, spike

RULES = AlertRules(pending_ticks=2, clear_ticks=3)
# Medians of the one tick that may breach a ceiling of 90. An alert is raised at a probability of
# 0.5 and cleared below 0.375.
OVER, EDGE, WOBBLE, UNDER = 90.5, 90.0, 89.7, 89.0
CHANCE = {OVER: 0.625, EDGE: 0.5, WOBBLE: 0.425, UNDER: 0.25}


def follow(medians: Sequence[float], rules: AlertRules = RULES) -> list[str | None]:
    """Return the state at each tick of one server's alert, None where there is none."""
    book, states = AlertBook(rules), []
    for tick, median in enumerate(medians):
        alerts = book.update(make_outlook([spike(median)], tick))
        assert len(alerts) <= 1
        states.append(alerts[0].state.value if alerts else None)
    return states


@pytest.mark.parametrize("median", CHANCE)
def test_the_probability_is_that_of_the_backtest(median: float) -> None:
    outlook = make_outlook([spike(median)])
    ahead = look_ahead(outlook, RULES)
    assert ahead.probability[0, 0] == pytest.approx(CHANCE[median], rel=1e-5)
    long = make_outlook([np.full(H, median)])
    warned = long.quantiles[:, 5:96]  # 30 min to 8 h: the sixth tick is the first one warned of
    expected = crossing_probability(warned, SCHEMA.quantiles, long.thresholds[0], STEP)
    np.testing.assert_allclose(look_ahead(long, RULES).probability, expected, rtol=1e-5)


def test_an_alert_lives_from_pending_to_clearing() -> None:
    medians = [UNDER, OVER, OVER, OVER, WOBBLE, UNDER, UNDER, OVER, UNDER, UNDER, UNDER, OVER]
    assert follow(medians) == [
        None, "pending", "pending", "firing", "firing", "clearing", "clearing", "firing",
        "clearing", "clearing", None, "pending",
    ]  # fmt: skip


def test_a_forecast_that_wavers_before_the_alert_fires_takes_it_back() -> None:
    assert follow([OVER, EDGE, WOBBLE, OVER, EDGE, OVER]) == [
        "pending", "pending", None, "pending", "pending", "firing",
    ]  # fmt: skip


def test_an_alert_says_what_comes_when_how_surely_and_since_when() -> None:
    book = AlertBook(AlertRules(pending_ticks=0))
    (alert,) = book.update(make_outlook([spike(OVER), spike(CALM)], servers=("web-1", "web-2")))
    assert alert == Alert(
        server="web-1",
        metric="cpu_percent",
        state=State.FIRING,
        since=(ORIGIN - 1) * STEP,
        threshold=90.0,
        gate=0.5,
        first_breach=(ORIGIN - 1 + 24) * STEP,
        lead_seconds=24 * STEP,
        probability=pytest.approx(0.625, rel=1e-5),
        peak=pytest.approx(90.5, rel=1e-5),
    )
    (later,) = book.update(make_outlook([spike(91.0, ahead=20)], 4, servers=("web-1",)))
    assert (later.since, later.first_breach) == (alert.since, alert.first_breach)
    assert (later.lead_seconds, later.peak) == (20 * STEP, pytest.approx(91.0, rel=1e-5))


def test_hours_that_may_breach_are_likelier_to_than_any_tick_of_them() -> None:
    """No median reaches the ceiling, but one of eight hours' ticks more likely does than not.

    Each hour does with 0.25, so half of those that come have after 1.8 of the hours: half of the
    0.9 that come at all.
    """
    (alert,) = AlertBook(RULES).update(make_outlook([np.full(H, UNDER)]))
    assert alert.probability == pytest.approx(1 - 0.75 ** (91 / 12), rel=1e-5)
    assert alert.peak is not None and alert.peak > 90.0
    by = [1 - 0.75 ** (ticks / 12) for ticks in range(1, H + 1)]
    assert alert.lead_seconds == (1 + next(k for k in range(H) if by[k] >= by[-1] / 2)) * STEP


def test_a_ceiling_is_shown_as_it_was_written() -> None:
    """Forecasts are float32: 85.3 is 85.30000305 there."""
    (alert,) = AlertBook(RULES).update(make_outlook([spike(OVER)], ceiling=85.3))
    assert alert.threshold == 85.3


@pytest.mark.parametrize(("ahead", "raised"), [(1, 0), (5, 0), (6, 1), (96, 1)])
def test_nothing_begins_with_a_breach_nearer_than_half_an_hour(ahead: int, raised: int) -> None:
    assert len(AlertBook(RULES).update(make_outlook([spike(OVER, ahead)]))) == raised


def test_nothing_begins_in_a_breach_that_lasts() -> None:
    """The hours warned of are over the ceiling too, but that is no news; unless one asks for it."""
    outlook = make_outlook([np.full(H, 95.0)])
    assert AlertBook(RULES).update(outlook) == ()
    (alert,) = AlertBook(AlertRules(nearest_minutes=0)).update(outlook)
    assert alert.lead_seconds == STEP


def test_nothing_begins_with_a_breach_farther_than_the_rules_look() -> None:
    hour = AlertRules(farthest_minutes=60)
    assert AlertBook(hour).update(make_outlook([spike(OVER, 13)])) == ()
    book = AlertBook(hour)
    assert len(book.update(make_outlook([spike(OVER, 12)]))) == 1
    assert book.update(make_outlook([spike(OVER, 13)], 1)) == ()  # nor does one go on with it


def test_an_alert_goes_on_as_its_breach_comes_and_through_it() -> None:
    """Also one that is pending when the breach comes nearer than half an hour."""
    book = AlertBook(RULES)
    alerts = [book.update(make_outlook([spike(OVER, max(7 - t, 1))], t)) for t in range(12)]
    assert [each[0].state for each in alerts] == ["pending"] * 2 + ["firing"] * 10
    assert {each[0].since for each in alerts} == {(ORIGIN - 1) * STEP}


def test_an_upper_gate_warns_of_what_the_median_does_not_reach() -> None:
    outlook = make_outlook([spike(UNDER)])
    assert AlertBook(AlertRules(gate=0.5)).update(outlook) == ()
    (alert,) = AlertBook(AlertRules(gate=0.75)).update(outlook)  # a quantile is 1 above the median
    assert (alert.gate, alert.peak) == (0.75, pytest.approx(90.0))


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([CALM, 86.0, 88.0, UNDER, WOBBLE, EDGE, OVER, 95.0]), min_size=96,
             max_size=96),
    st.sampled_from([0.2, 0.5, 0.75, 0.9]),
)  # fmt: skip
def test_the_peaks_gate_quantile_is_over_the_ceiling_where_the_alarm_is(
    medians: list[float], gate: float
) -> None:
    outlook, rules = make_outlook([np.array(medians)]), AlertRules(gate=gate)
    zero = np.zeros(1, dtype=np.int64)
    (peak,) = gate_peaks(outlook, zero, zero, rules)
    chance = float(look_ahead(outlook, rules).probability[0, 0])
    assert peak <= outlook.quantiles[..., -1].max()
    if abs(chance - rules.alarm_at) > 1e-5:
        assert (peak >= 90.0) == (chance > rules.alarm_at)


def test_a_peak_and_its_probability_agree_where_lines_between_quantiles_would_not() -> None:
    """Straight from 0.55 at 91 to 0.14 at 92, the median of the peak would be 91.12."""
    (alert,) = AlertBook(RULES).update(make_outlook([np.full(H, UNDER)], ceiling=91.14))
    assert alert.probability is not None and 0.5 < alert.probability < 0.51
    assert alert.peak is not None and 91.14 <= alert.peak < 91.16


@pytest.mark.parametrize("status", [Status.COLD_START, Status.REFUSED])
def test_nothing_begins_without_a_forecast(status: Status) -> None:
    book = AlertBook(AlertRules(pending_ticks=0))
    assert book.update(make_outlook([spike(OVER)], status=[status])) == ()


@pytest.mark.parametrize(("behind", "raised"), [(0, 1), (3, 1), (4, 0)])
def test_nothing_begins_on_data_older_than_a_quarter_of_an_hour(behind: int, raised: int) -> None:
    outlook = make_outlook([spike(OVER)], behind=[behind])
    assert len(AlertBook(RULES).update(outlook)) == raised


def test_a_forecast_is_no_second_one_because_others_move_on() -> None:
    """Time is a server's own ticks: one that is late is not confirmed by its old forecast."""
    book = AlertBook(RULES)
    for tick in range(3):
        (alert,) = book.update(make_outlook([spike(OVER)], tick, behind=[tick]))
        assert alert.state == State.PENDING
    (alert,) = book.update(make_outlook([spike(OVER)], 3))
    assert alert.state == State.FIRING


def fires() -> AlertBook:
    """Return a book in which the alert of one server fires, since ticks 0 to 2."""
    book = AlertBook(RULES)
    for tick in range(3):
        book.update(make_outlook([spike(OVER)], tick))
    return book


def test_an_alert_of_a_refused_server_clears_and_says_no_number() -> None:
    """It is not known any more: neither that it holds nor that it does not."""
    book = fires()
    for tick in (3, 4):
        (alert,) = book.update(make_outlook([spike(OVER)], tick, status=[Status.REFUSED]))
        assert alert.state == State.CLEARING and alert.since == (ORIGIN - 1) * STEP
        assert {alert.first_breach, alert.lead_seconds, alert.probability, alert.peak} == {None}
    assert book.update(make_outlook([spike(OVER)], 5, status=[Status.REFUSED])) == ()


def test_an_alert_of_a_silent_server_ends_when_its_forecast_is_stale() -> None:
    book = fires()
    for tick in (3, 4, 5):
        (alert,) = book.update(make_outlook([spike(OVER)], tick, behind=[tick - 2]))
        assert alert.state == State.FIRING
    assert book.update(make_outlook([spike(OVER)], 6, behind=[4])) == ()
    patient = AlertBook.from_dict(fires().to_dict(), AlertRules(clear_ticks=6))
    states = [
        [each.state for each in patient.update(make_outlook([spike(OVER)], t, behind=[t - 2]))]
        for t in range(3, 9)
    ]
    assert states == [["firing"]] * 3 + [["clearing"]] * 2 + [[]]


def test_an_alert_is_over_when_its_server_is_gone_or_not_watched_any_more() -> None:
    pair = [spike(OVER), spike(OVER)]
    book = AlertBook(AlertRules(pending_ticks=0))
    assert [each.server for each in book.update(make_outlook(pair))] == ["a", "b"]
    (alert,) = book.update(make_outlook(pair[:1], 1, servers=["b"]))
    assert alert.server == "b" and alert.since == (ORIGIN - 1) * STEP
    assert book.update(make_outlook(pair[:1], 2, servers=["b"], ceiling=np.nan)) == ()


def test_an_alert_outlives_an_outage_of_the_service_if_it_still_holds() -> None:
    (alert,) = fires().update(make_outlook([spike(OVER)], 40))
    assert (alert.state, alert.since) == (State.FIRING, (ORIGIN - 1) * STEP)
    assert fires().update(make_outlook([spike(UNDER)], 40)) == ()


def test_firing_alerts_come_first_and_the_soonest_of_them() -> None:
    book = AlertBook(AlertRules(pending_ticks=1))
    book.update(make_outlook([spike(OVER, 30), spike(OVER, 20), spike(CALM)]))
    alerts = book.update(make_outlook([spike(OVER, 30), spike(OVER, 20), spike(OVER, 10)], 1))
    assert [each.server for each in alerts] == ["b", "a", "c"]


def test_two_metrics_of_a_server_have_an_alert_each() -> None:
    """The load, 1 all the time, is at its ceiling from the next tick on."""
    outlook = make_outlook([spike(OVER)], load_ceiling=1.0)
    alerts = AlertBook(AlertRules(nearest_minutes=0)).update(outlook)
    assert [each.metric for each in alerts] == ["load_average", "cpu_percent"]


# What one server's forecast may be: its median, how far ahead, whether it is there, how late it is.
moments = st.tuples(
    st.sampled_from([OVER, OVER, OVER, EDGE, WOBBLE, UNDER]),
    st.sampled_from([1, 5, 6, 24, 96]),
    st.sampled_from([Status.FORECAST] * 8 + [Status.REFUSED, Status.COLD_START]),
    st.integers(0, 5),
)
courses = st.lists(st.tuples(moments, moments), min_size=1, max_size=25)
any_rules = st.builds(
    AlertRules,
    pending_ticks=st.integers(0, 4),
    clear_ticks=st.integers(1, 5),
    clear_margin=st.sampled_from([0.0, 0.25]),
    gate=st.sampled_from([0.5, 0.9]),
    nearest_minutes=st.sampled_from([0, 30]),
)


def outlooks(course: list[tuple[tuple, tuple]]) -> list[Outlook]:
    """Return the outlooks of two servers, neither of which ever goes back in time."""
    made, newest = [], [0, 0]
    for tick, pair in enumerate(course):
        newest = [max(old, tick - each[3]) for old, each in zip(newest, pair, strict=True)]
        made.append(
            make_outlook(
                [spike(median, ahead) for median, ahead, _, _ in pair],
                tick,
                behind=[tick - each for each in newest],
                status=[each[2] for each in pair],
                load_ceiling=1.0,
            )
        )
    return made


@settings(max_examples=40)
@given(any_rules, courses)
def test_alerts_are_one_per_server_and_metric_and_never_early(
    rules: AlertRules, course: list[tuple[tuple, tuple]]
) -> None:
    book = AlertBook(rules)
    before: dict[tuple[str, str], Alert] = {}
    for outlook in outlooks(course):
        alerts = book.update(outlook)
        now = {(each.server, each.metric): each for each in alerts}
        assert len(now) == len(alerts)
        for key, alert in now.items():
            row = outlook.servers.index(alert.server)
            ticks = int(outlook.origin[row]) - 1 - alert.since / STEP
            old = before.get(key)
            raised = old is not None and old.state != State.PENDING
            if old is None or (alert.state == State.PENDING and alert.since != old.since):
                assert ticks == 0  # none begins in the past
                assert alert.lead_seconds is not None
                assert alert.lead_seconds >= max(rules.nearest_minutes * 60, STEP)
            if alert.state == State.PENDING:
                assert not raised or old.since != alert.since
                assert 0 <= ticks < rules.pending_ticks
            elif not raised:
                assert alert.state == State.FIRING and ticks >= rules.pending_ticks
                assert outlook.status[row] is Status.FORECAST
            if old is not None and alert.state != State.PENDING:
                assert alert.since == old.since
        before = now


@settings(max_examples=30)
@given(st.lists(st.sampled_from([OVER, EDGE, WOBBLE, 89.55]), max_size=20))
def test_an_alert_does_not_flap_within_the_hysteresis(medians: list[float]) -> None:
    states = follow([OVER] * 3 + medians)
    assert states == ["pending"] * 2 + ["firing"] * (1 + len(medians))


@settings(max_examples=30)
@given(st.lists(st.sampled_from([OVER, WOBBLE, UNDER]), min_size=1, max_size=25), st.integers(1, 5))
def test_an_alert_ends_only_after_so_many_ticks_below(medians: list[float], clear: int) -> None:
    medians = [OVER] * 3 + medians
    states = follow(medians, AlertRules(pending_ticks=2, clear_ticks=clear))
    alive = False
    for tick, state in enumerate(states):
        below = all(each == UNDER for each in medians[max(tick + 1 - clear, 0) : tick + 1])
        if alive:
            assert (state is None) == below
            assert state in ((None, "clearing") if medians[tick] == UNDER else ("firing",))
        alive = state in ("firing", "clearing")


@settings(max_examples=30)
@given(any_rules, courses)
def test_a_book_goes_on_as_before_after_a_restart(
    rules: AlertRules, course: list[tuple[tuple, tuple]]
) -> None:
    book, restarted = AlertBook(rules), AlertBook(rules)
    for outlook in outlooks(course):
        kept = json.loads(json.dumps(restarted.to_dict()))
        restarted = AlertBook.from_dict(kept, rules)
        assert restarted.to_dict() == book.to_dict()
        assert restarted.update(outlook) == book.update(outlook)


@pytest.mark.parametrize("plain", [{}, {"alerts": [{"server": "a"}]}, {"alerts": 7}, []])
def test_what_is_no_book_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="kept alerts are not what an AlertBook writes"):
        AlertBook.from_dict(plain, RULES)  # type: ignore[arg-type]
