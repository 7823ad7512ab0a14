// What if: the model's answer to a changed past, beside its answer to the one that was.

import { get, post } from "../api.js";
import { fan } from "../charts.js";
import { h } from "../dom.js";
import { labelOf, plural, quantity, seconds, unitOf } from "../format.js";

const MOST = 100; // servers that the service answers for at once
const DRAWN = 3; // servers shown as charts; the table has all

let answer = null; // of the last question
let problem = null;
let asking = false;

export const title = () => "What if";

export async function load() {
  const [fleet, model] = await Promise.all([get("/fleet"), get("/model")]);
  return { ...fleet, facts: model.current };
}

export function render(content) {
  const { servers, facts } = content;
  const able = ableOf(servers);
  const profiles = [...new Set(able.map((one) => one.profile).filter(Boolean))].sort();
  return [
    h("div", { class: "lead" },
      h("h1", {}, "What if it had been otherwise?"),
      h("p", { class: "soft" }, "Change the last hours of some metrics, or the clock, and see the forecast beside the unchanged one. This is how the model responds, not what would happen.")),
    h("form", { class: "card form", "data-form": "what-if" },
      h("div", { class: "row" },
        h("label", {}, "Servers",
          h("select", { name: "servers" },
            able.map((one) => option(`server:${one.name}`, one.name)),
            profiles.map((name) => option(`profile:${name}`, `all of ${name}${upTo(able.filter((one) => one.profile === name))}`)),
            able.length > 1 && option("fleet", `all ${able.length}${upTo(able)}`))),
        h("label", {}, "Over the last",
          h("span", { class: "with-unit" }, h("input", { name: "hours", type: "number", min: 0.5, max: 24, step: 0.5, value: 2, required: true }), "h")),
        h("label", {}, "Clock on by",
          h("span", { class: "with-unit" }, h("input", { name: "clock", type: "number", min: -168, max: 168, step: 0.5, value: 0, required: true }), "h"))),
      h("div", { class: "changes" }, facts.metrics.map((one) => change(one.name))),
      h("div", { class: "row" },
        h("button", { class: "main", disabled: asking || !able.length }, asking ? "Asking" : "Show"),
        problem && h("p", { class: "bad", role: "alert" }, problem),
        !able.length && h("p", { class: "soft" }, "No server has a forecast yet."))),
    answer && results(answer),
  ];
}

// By name, and each known by its value: what is chosen stays chosen when servers come and go.
const ableOf = (servers) => servers.filter((one) => one.chance_by_hour).sort((a, b) => (a.name < b.name ? -1 : 1));
const option = (value, text) => h("option", { value, "data-key": value }, text);
const upTo = (servers) => (servers.length > MOST ? `, the first ${MOST}` : "");

function change(metric) {
  const label = labelOf(metric);
  const input = (kind, value, name) => h("input", { name: `${kind} ${metric}`, type: "number", step: "any", value, "aria-label": `${label} ${name}` });
  return h("div", { role: "group", "aria-label": label },
    h("span", { title: metric }, label), "\u00d7", input("scale", 1, "times"), "+", input("shift", 0, "plus"),
    h("span", { class: "soft" }, unitOf(metric)));
}

export async function submitted(form, draw) {
  const given = new FormData(form);
  let content;
  try {
    content = await get("/fleet");
  } catch (error) {
    problem = error.message;
    return draw();
  }
  const body = {
    servers: chosen(content.servers, given.get("servers")),
    hours: Number(given.get("hours")),
    metrics: changes(given),
  };
  if (Number(given.get("clock"))) {
    body.clock_hours = Number(given.get("clock"));
    if (!Object.keys(body.metrics).length) body.metrics[firstMetric(form)] = { scale: 1, shift: 0 };
  }
  problem = Object.keys(body.metrics).length ? null : "Change at least one metric, times or plus something, or the clock.";
  if (problem) return draw();
  asking = true;
  draw();
  try {
    const origins = Object.fromEntries(content.servers.map((one) => [one.name, seconds(one.origin)]));
    answer = { ...(await post("/scenario", body)), origins };
  } catch (error) {
    problem = [error.message, ...error.errors.map((one) => Object.values(one).join(": "))].join(" ");
  }
  asking = false;
  return draw();
}

function chosen(servers, where) {
  const able = ableOf(servers);
  const [kind, name] = [where.split(":")[0], where.slice(where.indexOf(":") + 1)];
  const test = { fleet: () => true, profile: (one) => one.profile === name, server: (one) => one.name === name }[kind];
  return able.filter(test).slice(0, MOST).map((one) => one.name);
}

const firstMetric = (form) => form.querySelector("[name^='scale ']").name.slice(6);

function changes(given) {
  const metrics = {};
  for (const [field, value] of given) {
    const [kind, metric] = [field.split(" ")[0], field.slice(6)];
    if (!["scale", "shift"].includes(kind) || value === "") continue;
    if (Number(value) !== { scale: 1, shift: 0 }[kind]) (metrics[metric] ??= { scale: 1, shift: 0 })[kind] = Number(value);
  }
  return metrics;
}

function results(content) {
  const outside = content.servers.filter((one) => one.outside_training_range.length);
  return h("section", { class: "card", "data-key": "results" },
    h("h2", {}, "The model's response"),
    h("p", { class: "soft" }, content.what_this_is),
    outside.length > 0 && h("p", { class: "bad" },
      `Outside what it was trained on, so take it with care: ${outside.map((one) => `${one.name} (${one.outside_training_range.map(labelOf).join(", ")})`).join(", ")}.`),
    h("p", { class: "key" }, h("span", { class: "swatch ahead" }), "changed", h("span", { class: "swatch soft" }), "unchanged"),
    content.servers.slice(0, DRAWN).map((one) => h("div", { "data-key": one.name },
      h("h3", {}, one.name, stale(one)),
      h("div", { class: "charts small" }, one.metrics.map((each) => h("div", { class: "metric", "data-key": each.metric },
        h("h4", {}, labelOf(each.metric), h("span", { class: "soft" }, unitOf(each.metric))),
        h("p", { class: "under-pointer", "data-keep": true, "aria-hidden": "true" }),
        h("div", { class: "chart", "data-keep": true, role: "img", "data-response": `${one.name} ${each.metric}`,
          "aria-label": `${labelOf(each.metric)}: highest median ${quantity(Math.max(...each.scenario["0.5"]), each.metric)}, unchanged ${quantity(Math.max(...each.unchanged["0.5"]), each.metric)}` })))))),
    h("div", { class: "scroll" }, h("table", { class: "plain" },
      h("thead", {}, h("tr", {}, ["Server", "Metric", "Likely peak, changed", "Unchanged"].map((name) => h("th", { scope: "col", class: name === "Metric" && "text" }, name)))),
      h("tbody", {}, content.servers.flatMap((one) => one.metrics.map((each) => h("tr", {},
        h("th", { scope: "row" }, one.name, stale(one)), h("td", { class: "text" }, labelOf(each.metric)),
        h("td", {}, quantity(Math.max(...each.scenario["0.5"]), each.metric)),
        h("td", {}, quantity(Math.max(...each.unchanged["0.5"]), each.metric)))))))),
    content.servers.length > DRAWN && h("p", { class: "soft" }, `${plural(content.servers.length, "server")}; the first ${DRAWN} are drawn.`));
}

const stale = (one) => one.stale && h("span", { class: "mark" }, "stale");

export function drawn(root, content) {
  if (!answer) return;
  for (const element of root.querySelectorAll("[data-response]")) {
    const { response } = element.dataset; // names of servers have no space, those of metrics may
    const [name, metric] = [response.split(" ")[0], response.slice(response.indexOf(" ") + 1)];
    const server = answer.servers.find((one) => one.name === name);
    const { scenario, unchanged } = server.metrics.find((one) => one.metric === metric);
    fan(element, {
      metric, step: content.facts.step_seconds, history: [], first: answer.origins[name],
      quantiles: scenario, other: unchanged, threshold: null, breach: null,
      bounds: unitOf(metric) === "%" ? [0, 100] : null,
    });
  }
}
