// Numbers with units, times in UTC, durations, probabilities.

const UNITS = { percent: "%", mbs: "MB/s", kbs: "kB/s", bytes: "B", ms: "ms", seconds: "s" };
const WORDS = { cpu: "CPU", io: "I/O", gpu: "GPU", ram: "RAM" };
const MINUS = "\u2212";
const NARROW = "\u202f"; // a space that does not break, between number and unit
export const NONE = "\u2013";

export function unitOf(metric) {
  return UNITS[metric.slice(metric.lastIndexOf("_") + 1)] ?? "";
}

// memory_percent -> Memory; the unit is said beside the numbers
export function labelOf(metric) {
  const parts = metric.split("_");
  if (parts.length > 1 && parts.at(-1) in UNITS) parts.pop();
  const words = parts.map((part) => WORDS[part] ?? part);
  const label = words.join(" ");
  return label.charAt(0).toUpperCase() + label.slice(1);
}

// An input of the network: a metric, alone or with what is told of it.
export function variableOf(name) {
  const [metric, ...rest] = name.split(" ");
  return [labelOf(metric), ...rest].join(" ");
}

export function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 1 || size === 0 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", MINUS);
}

export function quantity(value, metric) {
  const unit = unitOf(metric);
  return value === null || value === undefined || !unit ? number(value) : `${number(value)}${NARROW}${unit}`;
}

// A threshold is a round number; 90.0 % would claim more.
export function limit(value, metric) {
  const unit = unitOf(metric);
  const plain = value.toLocaleString("en", { maximumFractionDigits: 2 });
  return unit ? `${plain}${NARROW}${unit}` : plain;
}

export function chance(probability) {
  if (probability === null || probability === undefined) return NONE;
  if (probability < 0.005) return `<1${NARROW}%`; // a forecast is never sure
  if (probability > 0.995) return `>99${NARROW}%`;
  return `${Math.round(100 * probability)}${NARROW}%`;
}

// Of things that were counted.
export function share(value) {
  return value === null || value === undefined ? NONE : `${Math.round(100 * value)}${NARROW}%`;
}

export const seconds = (time) => (time === null || time === undefined ? null : Date.parse(time) / 1000);

const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC" };
const DATE = { day: "numeric", month: "short", timeZone: "UTC" };

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en-GB", CLOCK);
}

export function dayAndClock(unix) {
  const date = new Date(unix * 1000);
  return `${date.toLocaleDateString("en-GB", DATE)}, ${date.toLocaleTimeString("en-GB", CLOCK)}`;
}

// 11:35 on the day of `now`, else 4 Feb, 11:35
export function moment(unix, now) {
  if (unix === null) return NONE;
  const sameDay = Math.floor(unix / 86400) === Math.floor(now / 86400);
  return sameDay ? clock(unix) : dayAndClock(unix);
}

export function duration(length) {
  if (length === null || length === undefined) return NONE;
  const minutes = Math.round(Math.abs(length) / 60);
  if (minutes < 1) return "under a minute";
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

export function ahead(length) {
  if (length === null) return NONE;
  return length < 30 ? "now" : `in ${duration(length)}`;
}

export function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}
