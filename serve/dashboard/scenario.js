// The bar of the live demo: what happens to the simulated fleet. Absent where a fleet is real.

import { get, post } from "./api.js";
import { h, show } from "./dom.js";
import { clock, seconds } from "./format.js";

const NAMES = { fleet: "the whole fleet" };
const nameOf = (target) => NAMES[target] ?? target.slice(target.indexOf(":") + 1);

// Draw the bar into an element; `changed` is called when a person has switched.
export function scenarioBar(element, changed) {
  const bar = { everyMs: null };
  if (!("demo" in document.documentElement.dataset)) return bar;
  let demo = null;

  async function load() {
    try {
      demo = await get("/demo/scenario");
      bar.everyMs = Math.max(1000, demo.tick_seconds * 1000);
      draw();
    } catch {
      setTimeout(load, 2000); // the page itself says that nothing answers
    }
  }

  async function choose(scenario, target) {
    try {
      demo = { ...demo, ...(await post("/demo/scenario", { scenario, target })), problem: null };
    } catch (error) {
      demo = { ...demo, problem: error.message };
    }
    draw();
    changed();
  }

  const target = () => element.querySelector("select").value;

  function draw() {
    const chosen = demo.scenarios.find((one) => one.name === demo.scenario);
    show(element, h("div", { class: "scenario" }, h("div", { class: "wrap" },
      h("span", { class: "tag" }, "Simulated fleet"),
      h("div", { class: "choices", role: "group", "aria-label": "Scenario" },
        demo.scenarios.map((one) => h("button", {
          type: "button",
          "data-scenario": one.name,
          "aria-pressed": one.name === demo.scenario ? "true" : "false",
          title: one.what,
        }, one.name))),
      h("label", {}, "on ", h("select", { "aria-label": "Where" },
        demo.targets.map((one) => h("option", { value: one, selected: one === demo.target }, nameOf(one))))),
      h("span", { class: "soft what" }, demo.problem ??
        `${chosen.what} ${demo.scenario === "healthy" ? "" : `On ${nameOf(demo.target)} since ${clock(seconds(demo.since))}. `}`,
        h("span", { class: "pace" }, `${Math.round(demo.speed)}\u00d7 real time`)))));
  }

  element.addEventListener("click", (event) => {
    const name = event.target.dataset?.scenario;
    if (name) choose(name, target());
  });
  element.addEventListener("change", () => {
    if (demo.scenario !== "healthy") choose(demo.scenario, target());
  });
  load();
  return bar;
}
