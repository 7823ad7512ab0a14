// Alerts: what is expected to be reached, when, how much time is left, and how good such alerts were.

import { get } from "../api.js";
import { h } from "../dom.js";
import { ahead, chance, duration, labelOf, limit, moment, NONE, number, plural, quantity, seconds, share } from "../format.js";

const STATES = {
  pending: "seen, but not yet for long enough to be sure",
  firing: "active: expected to be reached",
  clearing: "no longer seen, about to be lifted",
};

export const title = () => "Alerts";
export const load = () => get("/alerts");

export function render(content) {
  const { alerts, measured, not_watched: unwatched } = content;
  const firing = alerts.filter((one) => one.state === "firing").length;
  return [
    h("div", { class: "lead" },
      h("h1", {}, firing ? plural(firing, "active alert") : "No active alert"),
      h("p", { class: "soft" }, alerts.length > firing
        ? `${alerts.length - firing} more ${alerts.length - firing === 1 ? "is" : "are"} pending or clearing.`
        : "Raised where a forecast reaches a threshold and keeps doing so.")),
    alerts.length > 0 && h("section", { class: "card" }, alertTable(alerts, content.now, true)),
    h("section", { class: "card" },
      h("h2", {}, "How good such alerts were"),
      measured ? measuredTable(measured, content.how_measured) : h("p", { class: "soft" },
        "Not measured: this model's run has no evaluation. `python cli.py evaluate RUN` makes one.")),
    unwatched.length > 0 && h("p", { class: "soft" },
      `Not watched, as no threshold is set: ${unwatched.map(labelOf).join(", ")}.`),
  ];
}

export function alertTable(alerts, time, withServer) {
  const now = seconds(time);
  return h("div", { class: "scroll" }, h("table", { class: "plain stack" },
    h("thead", {}, h("tr", {},
      ["State", withServer && "Server", "Metric", "Expected at", "Time left", "Likely", "Likely peak", "Since"]
        .filter(Boolean).map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, alerts.map((one) => h("tr", { "data-key": `${one.server} ${one.metric}`, "data-alert": one.state },
      cell("State", h("span", { class: `chip ${one.state}`, title: STATES[one.state] }, one.state)),
      withServer && cell("Server", h("a", { href: `#/servers/${encodeURIComponent(one.server)}` }, one.server)),
      cell("Metric", `${labelOf(one.metric)} \u2265\u202f${limit(one.threshold, one.metric)}`),
      cell("Expected at", moment(seconds(one.first_breach), now)),
      cell("Time left", one.first_breach === null ? NONE : ahead(seconds(one.first_breach) - now).replace("in ", "")),
      cell("Likely", chance(one.probability)),
      cell("Likely peak", quantity(one.peak, one.metric)),
      cell("Since", moment(seconds(one.since), now)))))));
}

const cell = (name, ...content) => h("td", { "data-name": name }, ...content);

function measuredTable(measured, how) {
  return [
    h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {},
        ["Metric", "Alarm from", "Breaches", "Warned of", "Alarms that came true", "Median time left", "False, per server and week"]
          .map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, Object.entries(measured).map(([metric, one]) => h("tr", {},
        h("th", { scope: "row" }, labelOf(metric), one.threshold !== null && ` \u2265\u202f${limit(one.threshold, metric)}`),
        h("td", {}, share(one.alarm_at)),
        h("td", {}, one.breaches.toLocaleString("en")),
        h("td", {}, share(one.recall)),
        h("td", {}, share(one.precision)),
        h("td", {}, duration(one.median_lead_seconds)),
        h("td", {}, number(one.false_per_server_week))))))),
    how && h("p", { class: "soft" }, how),
  ];
}
