// The fleet: how likely trouble is, by server and hours ahead, the soonest first.

import { get } from "../api.js";
import { h } from "../dom.js";
import { ahead, chance, labelOf, moment, NONE, plural, seconds } from "../format.js";

const EDGES = [0.01, 0.05, 0.2, 0.5, 0.8]; // from one shade to the next
const PAGE = 100; // rows drawn before somebody asks for more
const REASONS = { forecast: "not watched", cold_start: "warming up", refused: "no forecast", waiting: "waiting" };

const asked = { text: "", profile: "", rows: PAGE };

export const title = () => "Fleet";
export const load = () => get("/fleet");

export function render(content) {
  const { servers } = content;
  if (!servers.length) return empty();
  const profiles = [...new Set(servers.map((one) => one.profile).filter(Boolean))].sort();
  const chosen = servers.filter(
    (one) => one.name.toLowerCase().includes(asked.text.toLowerCase()) && (!asked.profile || one.profile === asked.profile),
  );
  const rows = chosen.slice(0, asked.rows);
  return [
    h("div", { class: "lead" }, h("h1", {}, headline(servers, content.hours.at(-1))), h("p", { class: "soft" }, rest(content))),
    h("div", { class: "tools" },
      h("input", { id: "filter", type: "search", value: asked.text, placeholder: "Filter by name", "aria-label": "Filter by name" }),
      profiles.length > 1 && h("select", { id: "profile", "aria-label": "Profile" },
        h("option", { value: "" }, "all profiles"),
        profiles.map((name) => h("option", { value: name, selected: name === asked.profile }, name))),
      legend()),
    h("div", { class: "card heat" },
      h("table", {},
        h("caption", { class: "unseen" }, "Probability of reaching a threshold within so many hours, by server"),
        h("thead", {}, h("tr", {},
          h("th", { scope: "col" }, "Server"),
          content.hours.map((hour) => h("th", { scope: "col", class: "cell" }, h("span", { class: "unseen" }, "within "), `${hour} h`)),
          h("th", { scope: "col", class: "first" }, "First breach expected"))),
        h("tbody", {}, rows.map((one) => row(one, content))))),
    !rows.length && h("p", { class: "state soft" }, "No server matches."),
    chosen.length > rows.length && h("p", { class: "more" },
      h("button", { type: "button", id: "more" }, `Show more of ${plural(chosen.length, "server")}`)),
  ];
}

export function happened(kind, event, draw) {
  const { id, value } = event.target;
  if (kind === "input" && id === "filter") Object.assign(asked, { text: value, rows: PAGE });
  else if (kind === "input" && id === "profile") Object.assign(asked, { profile: value, rows: PAGE });
  else if (kind === "click" && id === "more") asked.rows += 5 * PAGE;
  else if (kind === "keydown") return move(event);
  else return;
  draw();
}

// Up and down go from server to server.
function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const links = [...document.querySelectorAll(".heat a")];
  const here = links.indexOf(document.activeElement);
  if (!step || here < 0) return;
  event.preventDefault();
  links[here + step]?.focus();
}

function row(one, content) {
  const now = seconds(content.now);
  return h("tr", { "data-key": one.name, class: one.stale ? "stale" : null },
    h("th", { scope: "row" },
      h("a", { href: `#/servers/${encodeURIComponent(one.name)}` }, one.name),
      h("span", { class: "soft" }, one.profile ?? ""),
      one.stale && h("span", { class: "mark" }, "stale")),
    one.chance_by_hour
      ? one.chance_by_hour.map((p) => h("td", { class: `cell p${shade(p)}` }, digits(p)))
      : h("td", { colspan: content.hours.length, class: "none" },
          h("span", { class: "mark" }, REASONS[one.status] ?? one.status), ` ${one.reason ?? ""}`),
    one.over.length
      ? h("td", { class: "first" }, h("strong", {}, one.over.map(labelOf).join(", ")), ` over ${one.over.length > 1 ? "their thresholds" : "its threshold"}`)
      : one.first_breach
      ? h("td", { class: "first" }, breach(one, now))
      : h("td", { class: "first calm" }, one.chance_by_hour ? `none in ${content.hours.at(-1)} h` : NONE));
}

function breach({ first_breach: first, stale }, now) {
  const at = seconds(first.at);
  return [
    h("strong", {}, labelOf(first.metric)),
    ` ${stale && at < now ? "was expected" : ahead(at - now)}`,
    h("span", { class: "soft" }, `${moment(at, now)}, ${chance(first.probability)} likely`),
  ];
}

const shade = (p) => EDGES.filter((edge) => p >= edge).length;

// A cell says its number, so that no one has to tell shades apart; what is next to nothing is a dot.
function digits(p) {
  if (p < EDGES[0]) return h("span", { "aria-label": "under 1 %" }, "\u00b7");
  return p > 0.995 ? ">99" : `${Math.round(100 * p)}`;
}

function legend() {
  const names = ["<1", "1", "5", "20", "50", "80"];
  return h("div", { class: "legend", "aria-hidden": "true" },
    h("span", {}, "chance of trouble, %"),
    names.map((name, number) => h("span", { class: `cell p${number}` }, number ? `${name}+` : name)));
}

function headline(servers, hours) {
  const over = servers.filter((one) => one.over.length && !one.stale).length;
  const soon = servers.filter((one) => one.first_breach && !one.over.length && !one.stale).length;
  const now = `${over} of ${plural(servers.length, "server")} ${are(over)} over a threshold`;
  const forecast = servers.filter((one) => one.status === "forecast");
  if (!forecast.length) return over ? now : "No forecast yet";
  if (forecast.every((one) => one.stale)) return "The data have stopped: no forecast is of now";
  const ahead = `expected to reach ${over ? "one" : "a threshold"} in the next ${hours} hours`;
  if (over) return `${now}, ${soon || "no"} more ${are(soon)} ${ahead}`;
  if (!soon) return `Nothing is expected to run out in the next ${hours} hours`;
  return `${soon} of ${plural(servers.length, "server")} ${are(soon)} ${ahead}`;
}

const are = (count) => (count === 1 ? "is" : "are");

function rest(content) {
  const { servers } = content;
  const count = (test) => servers.filter(test).length;
  const parts = [
    [count((one) => one.status === "forecast"), "with a forecast"],
    [count((one) => one.status === "cold_start"), "warming up: too little history for a number"],
    [count((one) => one.status === "waiting"), "waiting for a first forecast"],
    [count((one) => one.status === "refused"), "without a forecast"],
    [count((one) => one.stale), "stale"],
  ];
  return `${parts.filter(([number]) => number).map(([number, what]) => `${number} ${what}`).join(", ")}.`;
}

function empty() {
  return h("section", { class: "state" },
    h("h1", {}, "No server has reported yet"),
    h("p", {}, "The service is up and waits for ticks. Send some:"),
    h("pre", {}, `curl -X POST ${location.origin}/api/v1/feed -H 'Content-Type: application/json' \\\n  -d '{"ticks": [{"timestamp": "2026-01-05T12:00:00Z", "server_name": "web-01",\n       "values": {"cpu_percent": 12.5}}]}'`),
    h("p", { class: "soft" }, "A forecast needs some hours of history; until then a server is said to be warming up."));
}
