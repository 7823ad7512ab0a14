// The model: what it is, what was measured of it, and how it does now.

import { get } from "../api.js";
import { h } from "../dom.js";
import { dayAndClock, duration, labelOf, limit, NONE, plural, quantity, seconds, share, unitOf } from "../format.js";

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
    h("section", { class: "card" }, h("h2", {}, "When alerts are raised"), rulesOf(content.rules)),
  ];
}

function liveTable(live) {
  const rows = Object.entries(live).filter(([, one]) => one.day || one.week);
  if (!rows.length) return h("p", {}, "Nothing to judge yet: the first forecasts must come of age.");
  const cells = (one) => one ? [share(one.coverage), fine(one.quantile_loss), one.forecasts.toLocaleString("en")] : [NONE, NONE, NONE];
  return table(
    ["Metric", "Inside, last day", "Loss", "Forecasts", "Inside, last week", "Loss", "Forecasts"],
    rows.map(([metric, one]) => [labelOf(metric), ...cells(one.day), ...cells(one.week)]),
  );
}

function measuredOf(measured) {
  const rows = Object.entries(measured.metrics).map(([metric, one]) => {
    const naive = Math.min(...Object.values(one.naive_wql));
    return [labelOf(metric), fine(one.wql), fine(naive), share(1 - one.wql / naive), share(one.coverage), quantity(one.mae, metric)];
  });
  const [first, last] = [measured.first_origin, measured.last_origin].map((time) => dayAndClock(seconds(time)));
  return [
    table(["Metric", "Loss", "Best naive forecast", "Below it", "Inside 80 %", "Mean error"], rows),
    h("p", { class: "soft" }, `On ${plural(measured.windows, "window")} of ${plural(measured.servers_known, "known server")} and ${measured.servers_new} new, from ${first} to ${last} (${measured.data}).`),
  ];
}

function rulesOf(rules) {
  const ceilings = [
    ...Object.entries(rules.ceilings).map(([metric, value]) => [labelOf(metric), "all", limit(value, metric), rules.sources[metric] ?? ""]),
    ...["profile_ceilings", "server_ceilings"].flatMap((kind) =>
      Object.entries(rules[kind]).flatMap(([name, of]) =>
        Object.entries(of).map(([metric, value]) => [labelOf(metric), name, limit(value, metric), "the rules"]))),
  ];
  return [
    facts([
      ["Looks", `${rules.nearest_minutes} min to ${duration(rules.farthest_minutes * 60)} ahead`],
      ["Raised when", `the ${rules.gate} quantile of the peak reaches the ceiling in ${plural(rules.pending_ticks + 1, "forecast")} running`],
      ["Lifted when", `it was clearly below in ${plural(rules.clear_ticks, "forecast")} running`],
      ["Never for", rules.exclude.length ? rules.exclude.map((one) => Object.values(one).filter(Boolean).join(" ")).join(", ") : "no exclusions"],
    ]),
    table(["Metric", "Of", "Ceiling", "From"], ceilings),
  ];
}

const fine = (value) => (value === null || !Number.isFinite(value) ? NONE : value.toFixed(3));

const facts = (rows) => h("dl", { class: "list" }, rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

const table = (names, rows) => h("div", { class: "scroll" }, h("table", { class: "plain" },
  h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
  h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {},
    h("th", { scope: "row" }, name), cells.map((one) => h("td", {}, one)))))));
