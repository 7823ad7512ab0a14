// The model: what it is, what was measured of it, and how it does now.

import { get } from "../api.js";
import { h } from "../dom.js";
import { dayAndClock, duration, labelOf, NONE, number, plural, seconds, share, unitOf } from "../format.js";

export const title = () => "Model";
export const load = () => get("/model");

export function render(content) {
  const { current, previous, measured, live, drift } = content;
  const trained = seconds(current.trained_until);
  const targets = current.metrics.filter((one) => one.role === "target");
  return [
    h("div", { class: "lead" },
      h("h1", {}, `Model ${current.hash}`),
      h("p", { class: "soft" }, `A Temporal Fusion Transformer that forecasts ${targets.map((one) => labelOf(one.name)).join(", ")} ${duration(current.horizon * current.step_seconds)} ahead, as quantiles.`)),
    drift.length > 0 && h("div", { class: "card notice-card" },
      h("h2", {}, "It is not as good as when it was measured"),
      h("ul", {}, drift.map((line) => h("li", {}, line)))),
    h("div", { class: "columns" },
      h("section", { class: "card" },
        h("h2", {}, "What it is"),
        facts([
          ["Parameters", current.parameters.toLocaleString("en")],
          ["Trained on", plural(current.trained_servers, "server")],
          ["Data before", trained === null ? "not recorded" : dayAndClock(trained)],
          ["Sees", duration(current.context * current.step_seconds)],
          ["Forecasts", `${current.horizon} ticks of ${duration(current.step_seconds)}`],
          ["Quantiles", current.quantiles.join(", ")],
          ["Before it", previous ? previous.hash : "none kept"],
        ])),
      h("section", { class: "card" },
        h("h2", {}, "Its metrics"),
        table(["Metric", "Unit", "From", "To", "Role"], current.metrics.map((one) => [
          labelOf(one.name), unitOf(one.name) || NONE, one.lower ?? NONE, one.upper ?? NONE,
          one.role === "target" ? "forecast" : "seen only",
        ])))),
    h("section", { class: "card" },
      h("h2", {}, "How it does now"),
      liveTable(live),
      h("p", { class: "soft" }, "Past forecasts, judged once their future has come. Of the values, 80 % belong between the 0.1 and 0.9 quantiles; loss is weighted over 0.1, 0.5 and 0.9, lower is better.")),
    h("section", { class: "card" },
      h("h2", {}, "What was measured before"),
      measured ? measuredOf(measured) : h("p", { class: "soft" }, "Nothing: its run has no evaluation. `python cli.py evaluate RUN` makes one.")),
    h("section", { class: "card" }, h("h2", {}, "When alerts are raised"), tree(content.rules)),
  ];
}

function liveTable(live) {
  const rows = Object.entries(live).filter(([, one]) => one.day || one.week);
  if (!rows.length) return h("p", {}, "Nothing to judge yet: the first forecasts must come of age.");
  const cells = (one) => one ? [share(one.coverage), number(one.quantile_loss), one.forecasts.toLocaleString("en")] : [NONE, NONE, NONE];
  return table(
    ["Metric", "Inside, last day", "Loss", "Forecasts", "Inside, last week", "Loss", "Forecasts"],
    rows.map(([metric, one]) => [labelOf(metric), ...cells(one.day), ...cells(one.week)]),
  );
}

function measuredOf(measured) {
  return tree(measured);
}

// Whatever a summary holds, by name.
function tree(value) {
  if (Array.isArray(value)) {
    return value.length ? h("ul", { class: "tree" }, value.map((one) => h("li", {}, tree(one)))) : NONE;
  }
  if (value !== null && typeof value === "object") {
    return facts(Object.entries(value).map(([name, one]) => [name.replaceAll("_", " "), tree(one)]));
  }
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 3 }) : String(value ?? NONE);
}

const facts = (rows) => h("dl", { class: "list" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

const table = (names, rows) => h("div", { class: "scroll" }, h("table", { class: "plain" },
  h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
  h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {},
    h("th", { scope: "row" }, name), cells.map((one) => h("td", {}, one)))))));
