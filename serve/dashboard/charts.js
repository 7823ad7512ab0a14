// Charts by uPlot: forecasts as fans, and attention over time. Colours come from the style sheet.

import { clock, dayAndClock, number, unitOf } from "./format.js";

const uPlot = window.uPlot;
const HEIGHT = 230;
const INNER = ["0.25", "0.75"];
const drawn = new Map(); // element: { plot, make, data }

const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const one = drawn.get(target);
    const width = Math.floor(contentRect.width);
    if (one && width > 0 && width !== one.plot.width) one.plot.setSize({ width, height: one.plot.height });
  }
});

// A canvas has no style sheet: after a change of theme everything is drawn with new colours.
export function redraw() {
  for (const [element, { make, data }] of [...drawn]) place(element, make, data, true);
}

// Draw the forecast of a metric into an element.
// spec: { metric, step, history: [[time, value]], first, quantiles: {level: [value]}, threshold,
//         breach: time or null, bounds: [low, high], other: quantiles drawn in grey, or absent }
export function fan(element, spec) {
  const ahead = Object.values(spec.quantiles ?? {})[0]?.length ?? 0;
  const times = [
    ...spec.history.map(([time]) => time),
    ...Array.from({ length: ahead }, (_, i) => spec.first + i * spec.step),
  ];
  const last = spec.history.at(-1)?.[1] ?? null;
  const rows = [spec.quantiles, spec.other].filter(Boolean).flatMap((quantiles) =>
    levelsOf(quantiles).map((level) => [
      // the fan opens at the last value seen
      ...spec.history.map((_, i) => (i === spec.history.length - 1 ? last : null)),
      ...quantiles[level],
    ]),
  );
  const data = [times, [...spec.history.map(([, value]) => value), ...Array(ahead).fill(null)], ...rows];
  // What the hooks read; a later forecast of the same metric only changes this and the data.
  element.spec = spec;
  place(element, (width) => fanOptions(element, width), data, element.series !== data.length);
  element.series = data.length;
}

// Draw weights by lag. points: [{ lag_minutes, weight }]
export function lags(element, points) {
  const sorted = [...points].sort((a, b) => b.lag_minutes - a.lag_minutes);
  const data = [sorted.map((one) => -one.lag_minutes / 60), sorted.map((one) => one.weight)];
  place(element, (width) => lagOptions(width), data, false);
}

function place(element, make, data, anew) {
  forget();
  const one = drawn.get(element);
  if (one && !anew) {
    one.data = data;
    one.plot.setData(data);
    return;
  }
  one?.plot.destroy();
  const plot = new uPlot(make(element.clientWidth || 300), data, element);
  drawn.set(element, { plot, make, data });
  resized.observe(element);
}

function forget() {
  for (const [element, { plot }] of [...drawn]) {
    if (element.isConnected) continue;
    resized.unobserve(element);
    plot.destroy();
    drawn.delete(element);
  }
}

const levelsOf = (quantiles) => Object.keys(quantiles).sort((a, b) => a - b);

// The colour a style sheet's variable has now; it may be a light-dark() pair.
function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function fanOptions(element, width) {
  const { spec } = element;
  const series = [{}, { stroke: colour("seen"), width: 1.5, points: { show: false } }];
  const bands = [];
  for (const [quantiles, ink, dash] of [[spec.quantiles, "ahead", null], [spec.other, "soft", [5, 4]]]) {
    if (!quantiles) continue;
    const levels = levelsOf(quantiles);
    const begin = series.length;
    for (const level of levels) {
      const median = level === "0.5";
      series.push({ stroke: median ? colour(ink) : null, width: median ? 2 : 0, dash, points: { show: false } });
    }
    for (let i = 0; i < levels.length / 2 - 1; i++) {
      const top = levels.length - 1 - i;
      bands.push({ series: [begin + top, begin + i], fill: colour(`${ink}-band`) });
    }
  }
  return {
    width,
    height: HEIGHT,
    tzDate: (time) => uPlot.tzDate(new Date(time * 1000), "Etc/UTC"),
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    scales: { y: { range: () => yRange(element.spec) } },
    axes: [timeAxis(), valueAxis()],
    series,
    bands,
    hooks: {
      drawAxes: [(plot) => lines(plot, element.spec)],
      draw: [(plot) => breachMark(plot, element.spec)],
      setCursor: [(plot) => readOut(plot, element)],
    },
  };
}

// A percentage is seen whole; others from zero to what matters.
function yRange(spec) {
  const [low, high] = spec.bounds ?? [null, null];
  if (low === 0 && high === 100) return [0, 100];
  const values = [
    ...spec.history.map(([, value]) => value),
    ...Object.values(spec.quantiles ?? {}).flat(),
    ...Object.values(spec.other ?? {}).flat(),
  ].filter((value) => value !== null);
  const top = values.length ? Math.max(...values) : 1;
  const bottom = Math.min(0, ...values);
  const limit = spec.threshold !== null && spec.threshold < 2.5 * top ? spec.threshold : 0;
  return [bottom, 1.08 * Math.max(top, limit, 1e-9)];
}

function lines(plot, spec) {
  const { ctx } = plot;
  const { left, top, width, height } = plot.bbox;
  ctx.save();
  ctx.lineWidth = devicePixelRatio;
  if (spec.first !== null && spec.history.length) {
    const x = Math.round(plot.valToPos(spec.first - spec.step, "x", true));
    stroke(ctx, colour("line-strong"), [], [x, top, x, top + height]);
  }
  if (spec.threshold !== null) {
    const y = Math.round(plot.valToPos(spec.threshold, "y", true));
    if (y >= top) stroke(ctx, colour("bad"), [5, 4], [left, y, left + width, y]);
  }
  ctx.restore();
}

function stroke(ctx, ink, dash, [x0, y0, x1, y1]) {
  ctx.strokeStyle = ink;
  ctx.setLineDash(dash.map((length) => length * devicePixelRatio));
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

function breachMark(plot, spec) {
  if (spec.breach === null || spec.threshold === null) return;
  const { ctx } = plot;
  ctx.save();
  ctx.fillStyle = colour("bad");
  ctx.strokeStyle = colour("card");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.beginPath();
  const x = plot.valToPos(spec.breach, "x", true);
  ctx.arc(x, plot.valToPos(spec.threshold, "y", true), 5 * devicePixelRatio, 0, 2 * Math.PI);
  ctx.fill();
  ctx.stroke();
  ctx.restore();
}

// What is under the pointer is said in the line above the chart.
function readOut(plot, element) {
  const line = element.parentElement?.querySelector(".under-pointer");
  if (!line) return;
  const { idx } = plot.cursor;
  if (idx === null || idx === undefined) {
    line.textContent = "";
    return;
  }
  const { spec } = element;
  const at = idx - spec.history.length;
  const unit = unitOf(spec.metric);
  const levels = levelsOf(spec.quantiles ?? {});
  const value = (level) => number(spec.quantiles[level][at]);
  const text = at < 0
    ? number(spec.history[idx][1])
    : `${value("0.5")} (${value(levels[0])} to ${value(levels.at(-1))})`;
  line.textContent = `${clock(plot.data[0][idx])}  ${text} ${unit}`;
}

function axis(more) {
  return {
    stroke: colour("soft"),
    font: `12px ${getComputedStyle(document.body).fontFamily}`,
    grid: { stroke: colour("line"), width: 1 },
    ticks: { show: false },
    ...more,
  };
}

function timeAxis() {
  return axis({
    space: 64,
    size: 24,
    grid: { show: false },
    values: (_, times) => times.map((time) => (time % 86400 ? clock(time) : dayAndClock(time).split(",")[0])),
  });
}

const valueAxis = () => axis({ size: 44, values: (_, values) => values.map((value) => value.toLocaleString("en")) });

function lagOptions(width) {
  return {
    width,
    height: 170,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, 1.1 * (high || 1)] } },
    axes: [
      axis({ size: 24, grid: { show: false }, values: (_, hours) => hours.map((hour) => (hour ? `${hour} h` : "now").replace("-", "\u2212")) }),
      axis({ size: 44 }),
    ],
    series: [{}, { stroke: colour("ahead"), fill: colour("ahead-band"), width: 1.5, points: { show: false } }],
  };
}
