"""What the HTTP API answers, on a clock that stands still."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="serving needs: pip install 'fleet-tft[serve]'")

from serve import schemas
from serve.api import create_app
from serve.service import Service
from tests.asgi import HOST, JSON, Client, ask
from tests.builders import SCHEMA, tiny_forecaster
from tests.reports import NAIVES, make_report
from tests.services import START, STEP, Clock, small_service, tick, ticks, with_steps_of
from tests.test_measured import evaluation
from tft.bundle import save_forecaster

V1 = "/api/v1"
H = SCHEMA.prediction_horizon
NOW = START + 40 * STEP + 60  # a minute after the end of tick 39
ANSWERS = {
    f"{V1}/fleet": schemas.FleetAnswer,
    f"{V1}/forecasts": schemas.ForecastsAnswer,
    f"{V1}/forecasts?server=web-1&metric=load_average": schemas.ForecastsAnswer,
    f"{V1}/servers/web-1": schemas.ServerAnswer,
    f"{V1}/servers/new": schemas.ServerAnswer,
    f"{V1}/alerts": schemas.AlertsAnswer,
    f"{V1}/explain/web-1": schemas.ExplainAnswer,
    f"{V1}/model": schemas.ModelAnswer,
    "/readyz": schemas.Ready,
    "/healthz": schemas.Alive,
}


class Serving:
    """A service, its clock and its client."""

    def __init__(self, folder: Path, **files: Path) -> None:
        self.folder, self.clock = folder, Clock(NOW)
        self.service: Service = small_service(folder, self.clock, **files)
        self.app = create_app(self.service)
        self.client = Client(self.app)

    def feed(self, *rows: list[dict[str, Any]]) -> Any:
        answer = self.client.post(f"{V1}/feed", {"ticks": [row for part in rows for row in part]})
        assert answer.status == 200, answer.body
        return schemas.FeedAnswer.model_validate_json(answer.body, strict=True).model_dump()

    def look(self) -> None:
        """Have an outlook made of the newest tick, whoever has not reported it."""
        if not self.service.turn():
            self.clock.now += 0.1 * STEP  # so long are the others waited for
            assert self.service.turn()

    def get(self, target: str) -> Any:
        answer = self.client.get(V1 + target)
        assert answer.status == 200, answer.body
        return answer.json()


def with_history(folder: Path) -> Serving:
    """Serve two servers with a day and a half of history, and one that is new."""
    rules = folder / "rules.toml"
    rules.write_text("[ceilings]\ncpu_percent = 50\n")
    serving = Serving(folder, rules=rules)
    serving.feed(ticks(["web-1", "web-2"], range(40)), ticks(["new"], range(38, 40)))
    assert serving.service.turn()
    return serving


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """One's own."""
    return with_history(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """For those that only read."""
    return with_history(tmp_path_factory.mktemp("served"))


@pytest.mark.parametrize("target", ANSWERS)
def test_answers_are_as_the_openapi_document_says(served: Serving, target: str) -> None:
    answer = served.client.get(target)
    assert answer.status == 200, answer.body
    ANSWERS[target].model_validate_json(answer.body, strict=True)


@pytest.mark.parametrize("target", [t for t in ANSWERS if t.startswith(V1)])
def test_before_anything_was_received_answers_hold_nothing(tmp_path: Path, target: str) -> None:
    answer = Client(create_app(small_service(tmp_path, Clock(NOW)))).get(target)
    if "1" in target.removeprefix(V1) or "new" in target:
        assert answer.status == 404 and "has never reported" in answer.detail
    else:
        content = ANSWERS[target].model_validate_json(answer.body, strict=True).model_dump()
        assert content["data"] == {"newest_tick": None, "age_seconds": None, "stale": True}
        assert not content.get("servers") and not content.get("alerts")


def test_the_head_names_the_model_and_the_age_of_the_data(served: Serving) -> None:
    head = served.get("/fleet")
    assert head["now"] == "2026-01-06T16:01:00Z"
    assert head["model"]["hash"] == served.service.identity.hash
    assert head["data"]["newest_tick"] == "2026-01-06T15:00:00Z"
    assert head["data"]["age_seconds"] == 60.0, "since the end of the newest tick's step"
    assert not head["data"]["stale"]


def test_the_first_tick_forecast_is_the_one_after_the_last_received(served: Serving) -> None:
    content = served.get("/forecasts")
    assert content["made_at"] == "2026-01-06T16:01:00Z" and content["step_seconds"] == STEP
    (web,) = [server for server in content["servers"] if server["name"] == "web-1"]
    assert web["last_tick"] == "2026-01-06T15:00:00Z"
    assert web["first_tick"] == "2026-01-06T16:00:00Z"
    outlook = served.service.shown.rendering.outlook
    row = outlook.servers.index("web-1")
    for column, metric in enumerate(web["metrics"]):
        assert metric["metric"] == SCHEMA.target_names[column]
        told = np.array([metric["quantiles"][level] for level in ("0.1", "0.5", "0.9")])
        assert pytest.approx(outlook.quantiles[row, :, column], rel=1e-5, abs=1e-30) == told.T


def test_forecasts_of_what_is_asked_for(served: Serving) -> None:
    every = served.get("/forecasts")["servers"]
    assert [server["name"] for server in every] == ["new", "web-1", "web-2"]
    asked = "?server=web-2&server=web-1&metric=load_average&quantile=0.9&horizon_minutes=150"
    some = served.get("/forecasts" + asked)["servers"]
    assert [server["name"] for server in some] == ["web-2", "web-1"]
    (metric,) = some[1]["metrics"]
    whole = every[1]["metrics"][1]
    assert metric["metric"] == whole["metric"] == "load_average"
    assert metric["quantiles"] == {"0.9": whole["quantiles"]["0.9"][:3]}, "rounded up to 3 steps"
    longer = served.get("/forecasts?server=web-1&horizon_minutes=1e6")["servers"]
    assert longer == [every[1]], "no more than the model's horizon"


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("/forecasts?server=web-9", 404, "server 'web-9' has never reported"),
        ("/forecasts?metric=cpu", 404, "metric 'cpu' is not forecast; expected cpu_percent"),
        ("/forecasts?metric=temperature", 404, "'temperature' is not forecast"),
        ("/forecasts?quantile=0.3", 404, "quantile '0.3' is not forecast; expected 0.1, 0.5, 0.9"),
        ("/forecasts?quantile=1", 422, "query/quantile"),
        ("/forecasts?horizon_minutes=0", 422, "query/horizon_minutes"),
        ("/forecasts?horizon_minutes=nan", 422, "query/horizon_minutes"),
        ("/forecasts?server=..%2F..%2Fetc", 422, "query/server"),
        ("/servers/web-9", 404, "has never reported"),
        ("/servers/%3Cscript%3E", 422, "path/name"),
        ("/servers/web-1%0A", 422, "path/name"),
        ("/explain/web-9", 404, "has never reported"),
        ("/explain/new", 409, "cold start: 2 ticks since its first, a forecast needs 4"),
        ("/servers/a/b", 404, "Not Found"),
        ("/demo/scenario", 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_that_says_why(
    served: Serving, target: str, status: int, says: str
) -> None:
    answer = served.client.get(V1 + target)
    assert answer.status == status and says in answer.detail
    document = schemas.ProblemDocument.model_validate_json(answer.body, strict=True)
    assert document.instance.startswith(V1 + target[:8]) and document.type == "about:blank"


def test_a_cold_start_has_a_reason_and_no_number(served: Serving) -> None:
    server = served.get("/servers/new")["server"]
    assert server["status"] == "cold_start" and "a forecast needs 4" in server["reason"]
    assert server["metrics"] == server["breaches"] == [] and server["first_tick"] is None
    (line,) = [each for each in served.get("/fleet")["servers"] if each["name"] == "new"]
    assert line["chance_by_hour"] is line["first_breach"] is line["origin"] is None


def test_old_data_are_called_stale_without_a_new_outlook(serving: Serving) -> None:
    """What is cached is a fact of the tick; its age is one of the moment."""
    end = START + 40 * STEP
    for now, stale in ((end + 900, False), (end + 901, True)):
        serving.clock.now = now
        content = serving.get("/fleet")
        assert content["data"]["stale"] is stale
        assert {server["stale"] for server in content["servers"]} == {stale}
        assert serving.get("/servers/web-1")["server"]["stale"] is stale


def test_one_silent_server_is_stale_beside_others(serving: Serving) -> None:
    serving.clock.now = NOW + STEP
    serving.feed(ticks(["web-1"], [40]))
    serving.look()
    content = serving.get("/fleet")
    assert not content["data"]["stale"]
    stale = {server["name"]: server["stale"] for server in content["servers"]}
    assert stale == {"new": True, "web-1": False, "web-2": True}
    asked = {"servers": [*stale], "metrics": {"cpu_percent": {"scale": 2}}, "hours": 2}
    response = serving.client.post(f"{V1}/scenario", asked).json()
    assert {server["name"]: server["stale"] for server in response["servers"]} == stale
    assert not response["data"]["stale"]
    for name in ("web-1", "web-2"):
        assert serving.get(f"/explain/{name}")["stale"] is stale[name]


def test_the_fleet_is_sorted_by_what_comes_first(serving: Serving) -> None:
    """A server near its ceiling of 50 stands before the others."""
    hot = {"cpu_percent": 95.0, "load_average": 2.0, "temperature": 40.0}
    serving.feed(ticks(["zz-hot"], range(40), values=hot))
    assert [server["status"] for server in serving.get("/fleet")["servers"]][-1] == "waiting"
    serving.clock.now = NOW + STEP
    serving.feed(ticks(["web-1", "web-2"], [40]), ticks(["zz-hot"], [40], values=hot))
    serving.look()
    content = serving.get("/fleet")
    first, *others = content["servers"]
    assert first["name"] == "zz-hot" and first["worst_metric"] == "cpu_percent"
    breach = first["first_breach"]
    assert breach["metric"] == "cpu_percent" and breach["at"] == "2026-01-06T17:00:00Z"
    assert breach["probability"] == first["chance_by_hour"][-1] > 0.5
    assert content["hours"] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    for server in content["servers"]:
        chance = server["chance_by_hour"]
        assert chance is None or chance == sorted(chance), "within one hour, then two, ..."
    assert others[-1]["name"] == "new"
    assert [each["over"] for each in (first, *others)] == [["cpu_percent"], [], [], []]
    detail = serving.get("/servers/zz-hot")["server"]
    assert detail["breaches"][0]["first_breach"] == breach["at"]
    assert detail["breaches"][0]["lead_seconds"] == STEP


def test_history_is_the_last_day_as_received_with_its_gaps(serving: Serving) -> None:
    serving.clock.now = NOW + 2 * STEP
    partly = {"cpu_percent": 12.345678, "load_average": None}
    serving.feed([tick("web-1", 41, values=partly)])
    history = serving.get("/servers/web-1")["server"]["history"]
    assert history["first_tick"] == "2026-01-05T18:00:00Z" and history["step_seconds"] == STEP
    assert len(history["values"]["cpu_percent"]) == 24
    assert history["values"]["cpu_percent"][-2:] == [None, 12.3457]
    assert history["values"]["load_average"][-3:] == [2.0, None, None]


def test_a_server_that_just_reported_waits_for_its_forecast(serving: Serving) -> None:
    serving.feed(ticks(["late-1"], range(30, 40)))
    server = serving.get("/servers/late-1")["server"]
    assert (server["status"], server["metrics"]) == ("waiting", [])
    assert server["profile"] == "database" and server["last_tick"] == "2026-01-06T15:00:00Z"
    assert len(server["history"]["values"]["cpu_percent"]) == 10
    assert "late-1" in [each["name"] for each in serving.get("/forecasts")["servers"]]
    assert not serving.service.turn(), "it is no new tick"


def test_a_feed_is_taken_row_by_row(serving: Serving) -> None:
    """One bad row does not take the others with it, and each is told by its place."""
    rows: list[Any] = [
        tick("web-1", 40),
        tick("web 1", 40),
        tick("web-1", 40),
        tick("web-2", 40, values={"cpu": 1.0}),
        "row",
        tick("web-2", 40, values={"cpu_percent": "12"}),
        tick("web-2", 400),
        tick("web-2", 39),
        tick("web-2", 40, timestamp="2026-01-06T16:00:00"),
        tick("web-2", 40, timestamp=START + 40 * STEP),
        tick("../x", 40),
        tick("web-2", 40, extra=1),
        tick("web-2", -1000),
    ]
    serving.clock.now = NOW + STEP
    answer = serving.feed(rows)
    assert (answer["accepted"], answer["duplicates"], answer["late"]) == (2, 2, 0)
    reasons = {each["index"]: each["reason"] for each in answer["rejected"]}
    says = {
        1: "server_name 'web 1'",
        3: "unknown metric 'cpu'",
        4: "'row' is no object",
        5: "'cpu_percent' is '12': expected a number or null",
        6: "ahead of the service's clock",
        8: "timestamp '2026-01-06T16:00:00': expected an RFC 3339 time with its offset",
        10: "server_name '../x'",
        11: "unknown key 'extra'",
        12: "older than",
    }
    assert reasons.keys() == says.keys()
    assert all(text in reasons[index] for index, text in says.items()), reasons
    assert serving.feed(rows)["accepted"] == 0, "sent again, all is held already"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "not JSON"),
        (b'{"ticks": [NaN]}', 400, "NaN is no JSON number"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b"9" * 5000, 400, "not JSON"),
        (b"[]", 422, "no list of ticks"),
        (b'{"ticks": {}}', 422, "ticks is no list"),
        (b'{"ticks": [], "x": 1}', 422, "no list of ticks"),
        (b'{"ticks": [' + b"0," * 20_000 + b"0]}", 422, "send at most 20,000"),
    ],
)
def test_what_is_no_feed_is_refused_whole(
    served: Serving, body: bytes, status: int, says: str
) -> None:
    answer = ask(served.app, f"{V1}/feed", "POST", [body], {**HOST, **JSON})
    assert answer.status == status and says in answer.detail


def test_a_body_that_is_not_called_json_is_refused(served: Serving) -> None:
    """Such a one a page of another site may send without asking."""
    body = json.dumps({"ticks": []}).encode()
    for headers in (HOST, {**HOST, "content-type": "text/plain"}):
        assert ask(served.app, f"{V1}/feed", "POST", [body], headers).status == 415
    charset = {**HOST, "content-type": "application/json; charset=utf-8"}
    assert ask(served.app, f"{V1}/feed", "POST", [body], charset).status == 200


def test_a_disk_that_is_full_accepts_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(rows: object, replacing: bool) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serving.service.state, "accept", full)
    answer = serving.client.post(f"{V1}/feed", {"ticks": ticks(["web-1"], [40])})
    assert answer.status == 503 and "none is accepted" in answer.detail
    assert answer.headers["retry-after"] == "10"


def test_alerts_say_when_and_how_sure_and_outlive_a_restart(serving: Serving) -> None:
    hot = {"cpu_percent": 95.0, "load_average": 2.0, "temperature": 40.0}
    for number in (40, 41, 42):
        serving.clock.now = NOW + (number - 39) * STEP
        serving.feed(ticks(["hot"], range(0 if number == 40 else number, number + 1), values=hot))
        serving.look()
    content = serving.get("/alerts")
    (alert,) = content["alerts"]
    assert (alert["server"], alert["metric"], alert["state"]) == ("hot", "cpu_percent", "firing")
    assert alert["since"] == "2026-01-06T16:00:00Z", "the tick whose forecast began it"
    assert alert["threshold"] == 50.0 and alert["probability"] > 0.5 and alert["gate"] == 0.5
    assert content["not_watched"] == ["load_average"] and content["measured"] is None
    assert serving.get("/servers/hot")["server"]["alerts"] == [alert]
    serving.service.store.close()
    again = Serving(serving.folder, rules=serving.folder / "rules.toml")
    again.clock.now = serving.clock.now
    again.service.turn()
    assert again.get("/alerts")["alerts"] == [alert]


def test_alerts_and_metrics_are_not_of_now_once_the_data_are_stale(tmp_path: Path) -> None:
    """They are written down with an outlook; one is made for them at that moment."""
    step, rules = 300, tmp_path / "rules.toml"
    limits = "nearest_minutes = 5\nfarthest_minutes = 30\npending_ticks = 0\n"
    rules.write_text(limits + "[ceilings]\ncpu_percent = 50\n")
    save_forecaster(tiny_forecaster(schema=with_steps_of(step)), tmp_path / "run" / "model")
    serving = Serving(tmp_path, rules=rules)
    end = START + 40 * step
    hot = {"cpu_percent": 95.0, "load_average": 2.0, "temperature": 40.0}
    serving.clock.now = end + 1
    serving.feed([tick("hot", n, timestamp=START + n * step, values=hot) for n in range(40)])
    for now in (end + 1, end + 602, end + 900):  # the second time as two steps have passed
        serving.clock.now = now
        serving.service.turn()
        assert [alert["state"] for alert in serving.get("/alerts")["alerts"]] == ["firing"]
        assert b"fleet_tft_forecast_peak{" in serving.client.get("/metrics").body
    serving.clock.now = end + 901
    serving.service.turn()
    (alert,) = serving.get("/alerts")["alerts"]
    assert alert["state"] == "clearing" and alert["first_breach"] is alert["peak"] is None
    text = serving.client.get("/metrics").body
    assert b"fleet_tft_forecast_peak{" not in text and b"last_tick_timestamp_seconds{" in text


def test_a_scenario_stands_beside_the_unchanged_forecast(served: Serving) -> None:
    asked = {"servers": ["web-1", "new"], "metrics": {"cpu_percent": {"scale": 2}}, "hours": 6}
    answer = served.client.post(f"{V1}/scenario", asked)
    content = schemas.ScenarioAnswer.model_validate_json(answer.body, strict=True).model_dump()
    new, web = content["servers"]
    assert new["metrics"] == [] and "cold start" in new["reason"]
    assert web["outside_training_range"] == ["cpu_percent"], "of this model no range is known"
    told = served.get("/forecasts?server=web-1")["servers"][0]["metrics"][0]["quantiles"]
    cpu = web["metrics"][0]
    for level, values in told.items():  # forecast in another batch: equal but for rounding
        assert cpu["unchanged"][level] == pytest.approx(values, rel=1e-4)
    assert cpu["scenario"]["0.5"] != told["0.5"]
    assert "not what would happen" in content["what_this_is"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"servers": []}, "body/servers"),
        ({"servers": ["web-9"]}, "has never reported"),
        ({"servers": ["web-1"] * 101}, "body/servers"),
        ({"metrics": {}}, "body/metrics"),
        ({"metrics": {"cpu": {}}}, "no metric 'cpu'; the model sees cpu_percent"),
        ({"metrics": {"cpu_percent": {"scale": -1}}}, "body/metrics/cpu_percent/scale"),
        ({"metrics": {"cpu_percent": {"factor": 1}}}, "body/metrics/cpu_percent/factor"),
        ({"hours": 0}, "body/hours"),
        ({"hours": 25}, "body/hours"),
        ({"clock_hours": 169}, "body/clock_hours"),
        ({"path": "/etc/passwd"}, "body/path"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused(
    served: Serving, change: dict[str, Any], says: str
) -> None:
    asked = {"servers": ["web-1"], "metrics": {"cpu_percent": {"shift": 5}}, "hours": 2}
    answer = served.client.post(f"{V1}/scenario", asked | change)
    assert answer.status in (404, 422) and says in answer.detail


def test_a_model_is_loaded_by_name_and_taken_back(tmp_path: Path) -> None:
    models = tmp_path / "models"
    save_forecaster(tiny_forecaster(1), models / "better" / "model")
    serving = Serving(tmp_path, models=models)
    serving.feed(ticks(["web-1"], range(40)))
    serving.service.turn()
    before = serving.get("/forecasts")
    for name in ("..", "../run", "/etc", "none"):
        answer = serving.client.post(f"{V1}/model/reload", {"name": name})
        assert answer.status in (409, 422), name
    answer = serving.client.post(f"{V1}/model/reload", {"name": "better"})
    content = schemas.ModelAnswer.model_validate_json(answer.body, strict=True).model_dump()
    assert content["current"]["name"] == "better" and content["previous"]["name"] == "run"
    assert content["model"]["hash"] == content["current"]["hash"], "the head is of after the swap"
    assert serving.get("/forecasts") == before, "what was made by a model keeps its hash"
    assert serving.service.turn()
    after = serving.get("/forecasts")
    assert after["model"]["hash"] == content["current"]["hash"] != before["model"]["hash"]
    assert after["servers"] != before["servers"]
    assert serving.client.post(f"{V1}/model/rollback").json()["current"]["name"] == "run"
    assert serving.service.turn()
    assert serving.get("/forecasts")["servers"] == before["servers"]


def test_a_model_whose_evaluation_is_damaged_leaves_both_others_alone(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for seed, name in ((1, "better"), (2, "bad")):
        save_forecaster(tiny_forecaster(seed), models / name / "model")
    (models / "bad" / "evaluation").mkdir()
    (models / "bad" / "evaluation" / "evaluation.json").write_text("{")
    serving = Serving(tmp_path, models=models)
    assert serving.client.post(f"{V1}/model/reload", {"name": "better"}).status == 200
    answer = serving.client.post(f"{V1}/model/reload", {"name": "bad"})
    assert answer.status == 409 and "evaluation.json" in answer.detail
    content = serving.get("/model")
    assert content["current"]["name"] == "better" and content["previous"]["name"] == "run"


def test_what_an_evaluation_measured_is_told_figure_by_figure(tmp_path: Path) -> None:
    """Of the model, not of what it was compared with, and of alerts at the rules' probability."""
    names = SCHEMA.target_names
    measured = json.loads(json.dumps(make_report((0.2, 0.3), names).to_dict() | evaluation()))
    measured["forecasters"][0]["rows"][1]["coverage"] = 0.62
    measured["early_warning"]["forecasters"][0]["rows"][1]["points"][2]["caught"] = 7  # at 0.5
    save_forecaster(tiny_forecaster(), tmp_path / "run" / "model")
    (tmp_path / "run" / "evaluation").mkdir()
    (tmp_path / "run" / "evaluation" / "evaluation.json").write_text(json.dumps(measured))
    serving = Serving(tmp_path)
    answers = {}
    for path in ("alerts", "model"):
        answer = serving.client.get(f"{V1}/{path}")
        ANSWERS[f"{V1}/{path}"].model_validate_json(answer.body, strict=True)
        answers[path] = answer.json()

    alerts = {
        "alarm_at": 0.5, "breaches": 10, "precision": 0.5, "median_lead_seconds": 7200.0,
        "false_per_server_week": 1.0,
    }  # fmt: skip
    assert answers["alerts"]["measured"] == {
        "cpu_percent": alerts | {"recall": 0.4, "threshold": 90.0},
        "load_average": alerts | {"recall": 0.7, "threshold": None},
    }
    assert answers["alerts"]["not_watched"] == ["load_average"]
    assert answers["model"]["rules"]["ceilings"] == {"cpu_percent": 90.0}

    told = answers["model"]["measured"]
    assert (told["data"], told["windows"], told["servers_known"]) == ("fleet.parquet", 1000, 12)
    scores = {name: told["metrics"][name] for name in names}
    assert {n: (each["wql"], each["coverage"], each["mae"]) for n, each in scores.items()} == {
        "cpu_percent": (0.2, 0.8125, 2.5),
        "load_average": (0.3, 0.62, 2.5),
    }
    for place, name in enumerate(names):
        naive = {each: NAIVES[each][place] for each in NAIVES}
        assert scores[name]["naive_wql"] == naive
    text = serving.client.get("/metrics").body.decode()
    for bound, value in (("lowest", 0.52), ("highest", 0.72)):
        labels = f'metric="load_average",bound="{bound}"'
        assert f"fleet_tft_expected_coverage_ratio{{{labels}}} {value}\n" in text


def test_what_was_measured_since_is_read_by_a_reload(serving: Serving) -> None:
    assert serving.get("/model")["measured"] is None
    folder = serving.folder / "run" / "evaluation"
    folder.mkdir()
    (folder / "evaluation.json").write_text("{")
    answer = serving.client.post(f"{V1}/model/reload")
    assert answer.status == 409 and "evaluation.json: not what `evaluate` writes" in answer.detail
    assert serving.get("/model")["measured"] is None


def test_without_another_model_there_is_none_to_go_back_to(serving: Serving) -> None:
    answer = serving.client.post(f"{V1}/model/rollback")
    assert answer.status == 409 and "nothing to go back to" in answer.detail
    assert serving.client.post(f"{V1}/model/reload").status == 200, "the same weights again"
    answer = serving.client.post(f"{V1}/model/reload", {"name": "other"})
    assert answer.status == 409 and "without a models directory" in answer.detail


def test_readiness_tells_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving = Serving(tmp_path)
    answer = serving.client.get("/readyz")
    assert answer.status == 503 and answer.detail == "the first outlook is being made"
    serving.service.turn()
    assert serving.client.get("/readyz").status == 200

    def broken(*_: object) -> None:
        raise FloatingPointError("of the test")

    monkeypatch.setattr("serve.engine.make_outlook", broken)
    serving.feed(ticks(["web-1"], range(40)))
    assert not serving.service.turn()
    answer = serving.client.get("/readyz")
    assert answer.status == 503 and "FloatingPointError('of the test')" in answer.detail
    assert serving.client.get("/healthz").status == 200, "and yet it lives"


def test_metrics_are_for_prometheus(served: Serving) -> None:
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.body.decode()
    assert 'fleet_tft_forecast_peak{server="web-1",metric="cpu_percent"' in text
    assert "fleet_tft_ticks_accepted_total 82.0" in text


def test_a_mistake_of_ours_says_no_more_than_that(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("/home/secret")

    monkeypatch.setattr(served.service, "model", broken)
    with pytest.raises(RuntimeError):  # passed on to the server's log, once answered
        served.client.get(f"{V1}/model")
    monkeypatch.undo()
    assert served.client.get(f"{V1}/model").status == 200


def test_a_long_list_is_sent_in_parts_and_is_the_same(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {name: served.get(name) for name in ("/fleet", "/forecasts", "/forecasts?quantile=0.5")}
    monkeypatch.setattr("serve.routes.SENT_AT_ONCE", 2)
    for name, content in whole.items():
        assert served.get(name) == content


def test_the_document_names_every_operation_and_every_problem(served: Serving) -> None:
    document = served.client.get("/openapi.json").json()
    told = {(path, method) for path, each in document["paths"].items() for method in each}
    assert told == {
        *((f"{V1}{path}", "get") for path in ("/fleet", "/forecasts", "/alerts", "/model")),
        *((f"{V1}/{path}/{{name}}", "get") for path in ("servers", "explain")),
        *((f"{V1}{path}", "post") for path in ("/feed", "/scenario", "/model/reload")),
        (f"{V1}/model/rollback", "post"),
        *((path, "get") for path in ("/healthz", "/readyz", "/metrics")),
    }
    problem = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    for each in document["paths"].values():
        for operation in each.values():
            assert operation["description"]
            for status, answer in operation["responses"].items():
                if status != "200":
                    assert answer["content"] == {"application/problem+json": problem}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "Tick" in document["components"]["schemas"]
