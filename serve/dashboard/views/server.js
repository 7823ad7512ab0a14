// One server: a day of history, hours of forecast, when and how sure, and what the model looked at.

import { get } from "../api.js";
import { fan, lags } from "../charts.js";
import { h, svg } from "../dom.js";
import {
  ahead, chance, clock, duration, labelOf, limit, moment, NONE, number, quantity, seconds, share, unitOf,
  variableOf,
} from "../format.js";
import { alertTable } from "./alerts.js";

const MOST = 8; // variables of a group that are drawn
const GROUPS = [["past", "What was seen"], ["future", "Known ahead"], ["static", "The server itself"]];

export const title = (name) => name;

export async function load(name) {
  const path = encodeURIComponent(name);
  const content = await get(`/servers/${path}`);
  return { ...content, looked: content.server.status === "forecast" ? await explanation(path) : null };
}

async function explanation(path) {
  try {
    return await get(`/explain/${path}`);
  } catch (error) {
    if (error.status === 409 || error.status === 503) return null; // its data have ended, or it is busy
    throw error;
  }
}

export function render(content) {
  const { server } = content;
  return [
    h("p", { class: "back" }, h("a", { href: "#/" }, "\u2190 Fleet")),
    h("div", { class: "lead" },
      h("p", { class: "over" }, h("strong", {}, server.name), server.profile && ` \u00b7 ${server.profile}`),
      h("h1", {}, headline(content)),
      h("p", { class: "soft" }, basis(content))),
    server.alerts.length > 0 && h("section", { class: "card" }, alertTable(server.alerts, content.now, false)),
    h("div", { class: "charts" }, metricsOf(server).map((metric) => card(metric, content))),
    content.looked && looked(content.looked),
    server.metrics.length > 0 && numbers(server),
  ];
}

export function drawn(root, content) {
  const { server } = content;
  for (const element of root.querySelectorAll("[data-fan]")) {
    fan(element, fanOf(server, element.dataset.fan));
  }
  const element = root.querySelector("[data-lags]");
  if (element) lags(element, content.looked.attention);
}

function fanOf(server, metric) {
  const forecast = server.metrics.find((one) => one.metric === metric);
  const breach = server.breaches.find((one) => one.metric === metric);
  const begin = seconds(server.history.first_tick);
  const step = server.history.step_seconds;
  return {
    metric,
    step,
    history: server.history.values[metric].map((value, i) => [begin + i * step, value])
      .filter(([time]) => server.first_tick === null || time < seconds(server.first_tick)), // newer than it
    first: seconds(server.first_tick),
    quantiles: forecast?.quantiles ?? null,
    threshold: forecast?.threshold ?? null,
    breach: seconds(breach?.first_breach),
    bounds: unitOf(metric) === "%" ? [0, 100] : null,
  };
}

// Those with a forecast; without one, all that was received.
function metricsOf(server) {
  const forecast = server.metrics.map((one) => one.metric);
  return forecast.length ? forecast : Object.keys(server.history.values);
}

function headline({ server, now }) {
  if (server.status === "cold_start") return "Warming up: too little history for a forecast";
  if (server.status === "waiting") return "The first forecast is being made";
  if (server.status !== "forecast") return "No forecast";
  const over = server.metrics.find((one) => one.threshold !== null && lastSeen(server, one.metric) >= one.threshold);
  if (over) return `${labelOf(over.metric)} is at ${quantity(lastSeen(server, over.metric), over.metric)}, over its ${limit(over.threshold, over.metric)}`;
  const coming = server.breaches.filter((one) => one.first_breach !== null);
  coming.sort((a, b) => seconds(a.first_breach) - seconds(b.first_breach));
  if (!coming.length) return "No threshold is expected to be reached";
  const [first] = coming;
  const at = seconds(first.first_breach);
  const left = at - seconds(now);
  if (server.stale && left < 0) return `No data: ${labelOf(first.metric)} was expected to reach ${limit(first.threshold, first.metric)} at ${moment(at, seconds(now))}`;
  const when = left > 30 ? `at about ${moment(at, seconds(now))}, ${ahead(left)}` : "now";
  return `${labelOf(first.metric)} is expected to reach ${limit(first.threshold, first.metric)} ${when}`;
}

const lastSeen = (server, metric) => server.history.values[metric]?.at(-1) ?? null;

function basis({ server, now }) {
  const last = seconds(server.last_tick);
  const parts = [server.reason && `${server.reason}.`, last !== null && `Last tick ${moment(last, seconds(now))}.`];
  if (server.stale) parts.push("Its data are stale: the forecast starts where they end.");
  return parts.filter(Boolean).join(" ");
}

function card(metric, { server, now }) {
  const values = server.history.values[metric];
  const forecast = server.metrics.find((one) => one.metric === metric);
  const breach = server.breaches.find((one) => one.metric === metric);
  const peak = (level) => Math.max(...forecast.quantiles[level]);
  return h("section", { class: "card metric", "data-key": metric },
    h("h2", { title: metric }, labelOf(metric), h("span", { class: "soft" }, unitOf(metric))),
    h("dl", { class: "facts" },
      fact("now", quantity(values.at(-1), metric)),
      forecast && fact("highest median", quantity(peak("0.5"), metric)),
      forecast && fact("highest 0.9 quantile", quantity(peak("0.9"), metric)),
      breach && fact(`chance of ${limit(breach.threshold, metric)}`, chance(breach.probability), breach.probability >= 0.5),
      breach?.first_breach && fact("expected at", moment(seconds(breach.first_breach), seconds(now)), breach.probability >= 0.5)),
    h("p", { class: "under-pointer", "data-keep": true, "aria-hidden": "true" }),
    h("div", { class: "chart", role: "img", "aria-label": described(metric, values, forecast, breach), "data-keep": true, "data-fan": metric }),
    forecast && forecast.threshold === null && h("p", { class: "soft" }, "No threshold is set, so it is not watched."));
}

const fact = (name, value, strong = false) => h("div", {}, h("dt", {}, name), h("dd", { class: strong ? "bad" : null }, value));

function described(metric, values, forecast, breach) {
  const parts = [`${labelOf(metric)}: now ${quantity(values.at(-1), metric)}`];
  if (forecast) parts.push(`median ahead up to ${quantity(Math.max(...forecast.quantiles["0.5"]), metric)}`);
  if (breach) parts.push(`${chance(breach.probability)} chance of reaching ${limit(breach.threshold, metric)}`);
  return parts.join(", ");
}

function looked(content) {
  return h("section", { class: "card looked" },
    h("h2", {}, "What the model looked at"),
    h("div", { class: "groups" },
      GROUPS.filter(([key]) => content[key].length).map(([key, name]) => h("div", {}, h("h3", {}, name), bars(content[key]))),
      h("div", { class: "wide" },
        h("h3", {}, "Attention by how long before"),
        h("div", { class: "chart", "data-keep": true, "data-lags": true, role: "img", "aria-label": "Attention by lag" }))),
    h("p", { class: "soft" }, content.what_this_is));
}

function bars(weights) {
  const largest = [...weights].sort((a, b) => b.weight - a.weight).slice(0, MOST);
  const top = Math.max(...largest.map((one) => one.weight), 1e-9);
  return h("ul", { class: "bars" }, largest.map((one) => h("li", { "data-key": one.variable },
    h("span", { title: one.variable }, variableOf(one.variable)),
    svg("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width: (100 * one.weight) / top, height: 8, rx: 1 })),
    h("span", { class: "number" }, share(one.weight)))));
}

// The chart in numbers, an hour apart.
function numbers(server) {
  const first = seconds(server.first_tick);
  const step = server.history.step_seconds;
  const every = Math.max(1, Math.round(3600 / step));
  const steps = server.metrics[0].quantiles["0.5"].map((_, i) => i).filter((i) => (i + 1) % every === 0);
  return h("details", { class: "card", "data-key": "numbers" },
    h("summary", {}, "The forecast in numbers"),
    h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "UTC"),
        server.metrics.map((one) => h("th", { scope: "col" }, `${labelOf(one.metric)} ${unitOf(one.metric)}`)))),
      h("tbody", {}, steps.map((i) => h("tr", {},
        h("th", { scope: "row" }, `${clock(first + i * step)}`),
        server.metrics.map((one) => h("td", {}, number(one.quantiles["0.5"][i]),
          h("span", { class: "soft" }, ` ${number(one.quantiles["0.1"][i])} to ${number(one.quantiles["0.9"][i])}`)))))))),
    h("p", { class: "soft" }, "Median, and the interval that holds four values in five."));
}
