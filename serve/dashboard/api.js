// The service's HTTP API: JSON in and out, problems as errors, the token where it is asked for.

const ROOT = "/api/v1";
const TIMEOUT_MS = 20_000;
const KEPT = "token"; // in this tab's session storage: gone when the tab is closed

export class Problem extends Error {
  // status 0: no answer came
  constructor(status, detail, errors = []) {
    super(detail);
    this.status = status;
    this.errors = errors;
  }
}

export const useToken = (token) => sessionStorage.setItem(KEPT, token);

export const get = (path) => ask(path, {});

export const post = (path, body) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

async function ask(path, options) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem(KEPT);
  if (token) headers.Authorization = `Bearer ${token}`;
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  let answer, content;
  try {
    answer = await fetch(ROOT + path, { ...options, headers, signal, cache: "no-store" });
    content = await answer.json();
  } catch (error) {
    if (error.name === "TimeoutError") throw new Problem(0, "The service did not answer in time.");
    if (answer) throw new Problem(answer.status, `${path}: the answer is not JSON.`);
    throw new Problem(0, "The service cannot be reached.");
  }
  if (answer.ok) return content;
  throw new Problem(answer.status, content.detail ?? answer.statusText, content.errors ?? []);
}
