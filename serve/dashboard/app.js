// The page as a whole: which view is shown, when it is asked for anew, and what stands around it.

import { get, Problem, useToken } from "./api.js";
import { redraw } from "./charts.js";
import { h, show } from "./dom.js";
import { clock, dayAndClock, duration, seconds } from "./format.js";
import { scenarioBar } from "./scenario.js";
import * as alerts from "./views/alerts.js";
import * as fleet from "./views/fleet.js";
import * as model from "./views/model.js";
import * as server from "./views/server.js";
import * as whatIf from "./views/what_if.js";

const ROUTES = [
  [/^#?\/?$/, fleet],
  [/^#\/servers\/(.+)$/, server],
  [/^#\/alerts$/, alerts],
  [/^#\/what-if$/, whatIf],
  [/^#\/model$/, model],
];
const EVERY_MS = 10_000; // forecasts change once a tick, and a tick is minutes
const place = (id) => document.getElementById(id);

let view = null; // the module shown
let argument = null; // of its route: a server's name
let shown = null; // what it was drawn from
let answered = null; // when the service last answered, by this machine's clock
let timer = 0;
let turn = 0; // answers to questions of an earlier turn are dropped
let known = null; // alerts that were firing

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const [content, warned] = await Promise.all([view.load(argument), get("/alerts")]);
    if (mine !== turn) return;
    shown = content;
    answered = Date.now();
    draw();
    around(content, warned);
    show(place("notices"), staleNotice(content));
  } catch (error) {
    if (mine !== turn) return;
    if (!(error instanceof Problem)) console.error(error);
    fail(error);
  }
  if (mine === turn && !document.hidden) timer = setTimeout(refresh, bar.everyMs ?? EVERY_MS);
}

function draw() {
  if (shown === null) return; // somebody went elsewhere meanwhile
  show(place("main"), view.render(shown, argument));
  view.drawn?.(place("main"), shown, argument);
}

function go() {
  const match = ROUTES.map(([pattern, module]) => [location.hash.match(pattern), module]);
  const [found, module] = match.find(([one]) => one) ?? [[], fleet];
  view = module;
  argument = found[1] === undefined ? null : decodeURIComponent(found[1]);
  shown = null;
  document.title = `${view.title(argument)} - fleet-tft`;
  for (const link of place("nav").children) {
    const here = link.getAttribute("href") === (view === server ? "#/" : location.hash || "#/");
    link.toggleAttribute("aria-current", here);
    if (here) link.setAttribute("aria-current", "page");
  }
  show(place("main"), h("p", { class: "waiting" }, "Loading"));
  place("main").focus({ preventScroll: true });
  scrollTo(0, 0);
  refresh();
}

// What every page says: the time, how old the data are, how many alerts stand, which model.
function around(content, warned) {
  const { newest_tick: newest, age_seconds: age, stale } = content.data;
  const now = seconds(content.now);
  const text = newest === null ? "no data yet" : `data ${duration(Math.max(age, 0))} old`;
  place("age").className = stale ? "age bad" : "age good";
  show(place("age"), h("span", { class: "dot" }), `${clock(now)} UTC, ${text}`);
  const firing = warned.alerts.filter((alert) => alert.state === "firing");
  place("firing").hidden = firing.length === 0;
  place("firing").textContent = firing.length;
  announce(firing);
  const until = content.model.trained_until;
  show(
    place("foot"),
    `Model ${content.model.hash}`,
    until ? `, trained on what came before ${dayAndClock(seconds(until))}` : "",
    ". Times are UTC.",
  );
}

// Say a new alert to who does not look at the count.
function announce(firing) {
  const names = new Set(firing.map((alert) => `${alert.server} ${alert.metric}`));
  const fresh = known === null ? [] : [...names].filter((name) => !known.has(name));
  if (fresh.length) place("said").textContent = `New alert: ${fresh.join(", ")}`;
  known = names;
}

function staleNotice(content) {
  const { newest_tick: newest, age_seconds: age, stale } = content.data;
  if (!stale || newest === null) return null;
  return h(
    "div",
    { class: "notice warn" },
    h("p", { class: "wrap" }, h("strong", {}, "Data are stale. "),
      `The newest tick is ${duration(age)} old. Forecasts start where the data end, so part of what they cover has passed.`),
  );
}

function fail(error) {
  if (error.status === 401) return askForToken();
  place("age").className = "age bad";
  show(place("age"), h("span", { class: "dot" }), error.status === 0 ? "no connection" : "problem");
  const since = answered === null ? "" : ` What is below is from ${duration((Date.now() - answered) / 1000)} ago.`;
  if (shown === null) {
    show(place("notices"));
    show(place("main"), h("section", { class: "state" },
      h("h1", {}, error.status === 404 ? "Not here" : "No answer"),
      h("p", {}, error.message),
      error.status === 404
        ? h("p", {}, h("a", { href: "#/" }, "Back to the fleet"))
        : h("p", { class: "soft" }, "Trying again every few seconds.")));
    return;
  }
  show(place("notices"), h("div", { class: "notice bad" },
    h("p", { class: "wrap" }, h("strong", {}, error.message), since)));
}

function askForToken() {
  show(place("notices"));
  show(place("main"), h("section", { class: "state" },
    h("h1", {}, "This service asks for a token"),
    h("form", { "data-form": "token", class: "row" },
      h("label", { for: "token" }, "Token"),
      h("input", { id: "token", type: "password", autocomplete: "off", required: true }),
      h("button", { class: "main" }, "Go on")),
    h("p", { class: "soft" }, "Its operator has it. It is kept until this tab is closed.")));
  place("token").focus();
}

const bar = scenarioBar(place("scenario"), refresh);

addEventListener("hashchange", go);
addEventListener("themechange", redraw);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
document.addEventListener("submit", (event) => {
  event.preventDefault(); // nothing is ever sent by the browser itself
  if (event.target.dataset.form === "token") {
    useToken(place("token").value);
    refresh();
  } else {
    view.submitted?.(event.target, draw);
  }
});
for (const kind of ["click", "input", "keydown"]) {
  place("main").addEventListener(kind, (event) => view.happened?.(kind, event, draw));
}
go();
