"""What the HTTP API says and is told, as its OpenAPI document describes it.

Times are RFC 3339 in UTC, numbers in each metric's own unit, and null is a value that is not known.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.feed import MOST_TICKS
from serve.names import NAME_PATTERN

Time = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$",
        examples=["2026-01-05T12:00:00Z"],
        description="RFC 3339, UTC",
    ),
]
Name = Annotated[str, Field(pattern=NAME_PATTERN, examples=["web-01"])]
Level = Annotated[float, Field(gt=0.0, lt=1.0, description="Quantile level")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Series = list[float | None]
ByLevel = dict[str, Series]


class Strict(BaseModel):
    """Nothing beside what is named."""

    model_config = ConfigDict(extra="forbid")


class ModelName(Strict):
    """Which model made the numbers."""

    hash: str
    trained_until: Time | None


class DataAge(Strict):
    """How old the newest tick of the fleet is."""

    newest_tick: Time | None
    age_seconds: float | None = Field(description="Since the end of the newest tick's step")
    stale: bool = Field(description="Older than 15 minutes, or nothing has been received")


class Head(Strict):
    """What stands atop every answer."""

    now: Time
    model: ModelName
    data: DataAge


class Tick(Strict):
    """What one server measured in one step."""

    timestamp: Time | float = Field(description="RFC 3339 with an offset, or Unix seconds")
    server_name: Name
    profile: Name | None = None
    values: dict[str, float | None] = Field(description="By metric; null is a missing value")
    static: dict[str, float | None] | None = Field(None, description="By static column")


class Feed(Strict):
    """What is sent. Ticks are taken or rejected one by one; what is no tick is rejected too."""

    ticks: list[Tick | Any] = Field(max_length=MOST_TICKS)


class Rejected(Strict):
    """A tick that was not taken in."""

    index: int = Field(ge=0, description="Its place in the request, from 0")
    reason: str


class FeedAnswer(Head):
    """What became of the ticks. An accepted tick is on disk."""

    accepted: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="Rows that are held already")
    late: int = Field(ge=0, description="Of the accepted, those before their server's last tick")
    rejected: list[Rejected]


ServerStatus = Literal["forecast", "cold_start", "refused", "waiting"]
STATUS_TEXT = (
    "forecast: there are numbers. cold_start: too little history for any. refused: nothing to "
    "forecast from, or a forecast that is not finite. waiting: its first forecast is being made."
)


class ServerHead(Strict):
    """A server, and what is known of it."""

    name: Name
    profile: str | None
    status: ServerStatus = Field(description=STATUS_TEXT)
    reason: str | None = Field(description="Why there is no forecast")
    stale: bool = Field(description="Its last tick is older than 15 minutes")
    last_tick: Time | None = Field(description="The last one the forecast has seen")


class FirstBreach(Strict):
    """The soonest breach whose probability is what raises an alert."""

    metric: str
    at: Time = Field(description="By then half of the first breaches that may come have")
    probability: Share = Field(description="Of reaching the threshold within the horizon")


class FleetServer(ServerHead):
    """A server's outlook in one line."""

    origin: Time | None = Field(description="First tick forecast")
    over: list[str] = Field(description="Metrics at or over their threshold in the last tick")
    worst_metric: str | None = Field(description="The one most likely to reach its threshold")
    chance_by_hour: list[Share] | None = Field(
        description="Of any metric reaching its threshold within so many hours: the highest of them"
    )
    first_breach: FirstBreach | None


class FleetAnswer(Head):
    """Every server, the ones in trouble first."""

    metrics: list[str]
    hours: list[float]
    servers: list[FleetServer]


class MetricForecast(Strict):
    """The forecast of one metric."""

    metric: str
    threshold: float | None = Field(description="null: not watched")
    quantiles: ByLevel = Field(description="One list by quantile level, a number for each tick")


class ServerForecast(ServerHead):
    """The forecast of one server."""

    first_tick: Time | None = Field(description="First tick forecast")
    metrics: list[MetricForecast] = Field(description="Empty without a forecast")


class ForecastsAnswer(Head):
    """Forecasts of the tick after the last received and those that follow."""

    made_at: Time | None
    step_seconds: int = Field(gt=0)
    servers: list[ServerForecast]


class History(Strict):
    """The last 24 hours as received."""

    first_tick: Time | None
    step_seconds: int = Field(gt=0)
    values: dict[str, Series] = Field(description="By metric; null is a missing tick")


class Breach(Strict):
    """Whether and when a metric's forecast reaches its threshold."""

    metric: str
    threshold: float
    probability: Share = Field(description="Of reaching it within the horizon")
    first_breach: Time | None = Field(description="null: improbable; as in the overview else")
    lead_seconds: float | None
    peak: dict[str, float] = Field(description="Highest value of the horizon, by quantile level")


class Alert(Strict):
    """A warning that is being considered, stands, or is about to be lifted."""

    server: Name
    metric: str
    state: Literal["pending", "firing", "clearing"]
    since: Time
    threshold: float
    gate: float = Field(description="Quantile of the peak that must reach the threshold")
    first_breach: Time | None = Field(description="As in the overview; null: nothing is known now")
    lead_seconds: float | None
    probability: Share | None = Field(description="Of a breach in the hours warned of")
    peak: float | None = Field(description="The gate's quantile of the highest value in them")


class ServerDetail(ServerForecast):
    """One server in full."""

    history: History
    breaches: list[Breach]
    alerts: list[Alert]


class ServerAnswer(Head):
    """One server in full."""

    server: ServerDetail


class MeasuredAlerts(Strict):
    """How alerts on a metric did in the evaluation of the model."""

    alarm_at: Share = Field(description="Probability from which an alarm was counted")
    threshold: float | None
    breaches: int = Field(description="How many the figures rest on")
    precision: Share | None
    recall: Share | None
    median_lead_seconds: float | None
    false_per_server_week: float | None


class AlertsAnswer(Head):
    """Warnings, the soonest breach first."""

    alerts: list[Alert]
    measured: dict[str, MeasuredAlerts] | None = Field(description="null: never evaluated")
    how_measured: str
    not_watched: list[str] = Field(description="Metrics without a threshold")


class Weight(Strict):
    """How much of its group a variable was given."""

    variable: str
    weight: float


class LagWeight(Strict):
    """How much attention what was so long ago got."""

    lag_minutes: float
    weight: float


class ExplainAnswer(Head):
    """What one server's forecast looks at now."""

    server: Name
    stale: bool = Field(description="The server's last tick is older than 15 minutes")
    origin: Time
    past: list[Weight]
    future: list[Weight]
    static: list[Weight]
    attention: list[LagWeight] = Field(
        description="1: as much as where all of history is looked at alike"
    )
    attention_on_history: Share = Field(description="The rest is on the steps forecast before")
    what_this_is: str


class MetricRole(Strict):
    """A metric of the model."""

    name: str
    lower: float | None
    upper: float | None
    role: Literal["target", "observed"]


class ModelFacts(Strict):
    """A model."""

    name: str = Field(description="Its folder")
    hash: str
    trained_until: Time | None
    trained_servers: int = Field(ge=0)
    parameters: int = Field(gt=0)
    metrics: list[MetricRole]
    quantiles: list[float]
    context: int = Field(gt=0, description="Ticks of history")
    horizon: int = Field(gt=0, description="Ticks forecast")
    step_seconds: int = Field(gt=0)


class LiveScore(Strict):
    """How past forecasts did, their future having come."""

    coverage: Share | None = Field(description="Share of values between quantiles 0.1 and 0.9")
    quantile_loss: float | None = Field(description="Weighted, over quantiles 0.1, 0.5 and 0.9")
    forecasts: int = Field(ge=0, description="Judged")


class LiveScores(Strict):
    """Of one metric."""

    day: LiveScore | None
    week: LiveScore | None


class ModelAnswer(Head):
    """What forecasts, and how well."""

    current: ModelFacts
    previous: ModelFacts | None = Field(description="What a rollback returns to")
    measured: dict[str, Any] | None = Field(description="Summary of the run's evaluation")
    live: dict[str, LiveScores]
    drift: list[str] = Field(description="Where live scores left what was evaluated, in words")
    rules: dict[str, Any] = Field(description="When alerts are raised")


class ReloadRequest(Strict):
    """Which model to load."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")] | None = Field(
        None, description="A folder of the models directory; null: the current one anew"
    )


class Shift(Strict):
    """What if a metric had been value * scale + shift."""

    scale: float = Field(1.0, ge=0.0, le=1e9)
    shift: float = Field(0.0, ge=-1e9, le=1e9)


class ScenarioRequest(Strict):
    """What if, for some servers."""

    servers: list[Name] = Field(min_length=1, max_length=100)
    metrics: dict[str, Shift] = Field(min_length=1)
    hours: float = Field(
        gt=0.0, le=24.0, description="The most recent are changed, rounded up to ticks"
    )
    clock_hours: float = Field(
        0.0, ge=-168.0, le=168.0, description="How far on hour and weekday are, rounded to ticks"
    )


class MetricScenario(Strict):
    """Of one metric, the forecast and what it would be."""

    metric: str
    unchanged: ByLevel
    scenario: ByLevel


class ServerScenario(Strict):
    """Of one server."""

    name: Name
    reason: str | None = Field(description="Why there is no forecast of either kind")
    stale: bool = Field(description="Its last tick is older than 15 minutes")
    origin: Time = Field(description="First tick forecast")
    outside_training_range: list[str] = Field(
        description="Metrics that leave what the model was trained on"
    )
    metrics: list[MetricScenario]


class ScenarioAnswer(Head):
    """The model's response, which is not what would happen."""

    what_this_is: str
    servers: list[ServerScenario]


class Alive(Strict):
    """The process answers."""

    status: Literal["alive"]


class Ready(Head):
    """The service has a model and a forecast that is not behind."""

    status: Literal["ready"]


class ProblemDocument(BaseModel):
    """RFC 9457: what is wrong with a request."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[dict[str, Any]] | None = None
