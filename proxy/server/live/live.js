// The live page: asks the admin port for its JSON and shows it. It keeps nothing beyond this tab, and fetches nothing else.

const EVERY_MS = 2000;
const MINUTES = 15; // of the tiles and of the line
const ROWS = 60;
const KEPT = 1000; // as many as /requests has
const SLOW_MS = 500; // the targets of a loaded model, and of one that has to be loaded
const COLD_MS = 2000;
const PARTS = ["queue", "load", "prompt", "proxy", "other"];
const SVG = "http://www.w3.org/2000/svg";
const KEY = "pilotlight-key";

const $ = (id) => document.getElementById(id);
const calls = new Map(); // request_id and time -> row, oldest first
let paused = false;
let timer = 0;
let first = true;

class Refused extends Error {}

async function ask(path) {
  const key = sessionStorage.getItem(KEY);
  const reply = await fetch(path, { headers: key ? { "X-API-Key": key } : {}, cache: "no-store" });
  if (reply.status === 401 || reply.status === 403) throw new Refused((await reply.json()).error);
  // /readyz says 503 while it is not ready, and why.
  if (!reply.ok && reply.status !== 503) throw new Error(`${path} answered ${reply.status}`);
  return reply.json();
}

async function update() {
  clearTimeout(timer);
  if (paused || document.hidden) return;
  try {
    const [ready, models, queue, requests] = await Promise.all([
      ask("readyz?verbose"),
      ask("models"),
      ask("queue"),
      ask(`requests?limit=${first ? KEPT : 200}`),
    ]);
    first = false;
    remember(requests.requests);
    show(ready, models.models, queue);
    trouble("");
    $("door").hidden = true;
    $("main").hidden = false;
    $("updated").textContent = new Date().toLocaleTimeString();
  } catch (error) {
    if (error instanceof Refused) {
      $("door").hidden = false;
      $("main").hidden = true;
      pill($("state"), "a key is needed", "warn");
      if (sessionStorage.getItem(KEY)) trouble(error.message);
    } else {
      pill($("state"), "no connection", "bad");
      trouble(`Pilotlight does not answer (${error.message}); what is shown is old.`);
    }
  }
  timer = setTimeout(update, EVERY_MS);
}

function remember(rows) {
  for (const row of rows.toReversed ? rows.toReversed() : [...rows].reverse()) {
    calls.set(`${row.request_id} ${row.finished_at}`, row);
  }
  for (const key of calls.keys()) {
    if (calls.size <= KEPT) break;
    calls.delete(key);
  }
}

function show(ready, models, queue) {
  pill($("state"), ready.status, ready.status === "ready" ? "good" : "warn");
  const recent = lately();
  showTiles(recent, models, queue);
  showHistory(recent);
  fill("models", models.map(modelCells), "no model is kept or loaded");
  fill("queue", queue.waiting.slice(0, 20).map(waitingCells), "nobody waits");
  showRequests();
}

function lately() {
  const since = Date.now() - MINUTES * 60000;
  return [...calls.values()].filter((row) => row.endpoint && Date.parse(row.finished_at) >= since);
}

// --- tiles

function showTiles(recent, models, queue) {
  const times = recent.map((row) => row.ttft_ms).filter((ms) => ms !== undefined);
  const cold = recent.filter((row) => row.start === "cold").length;
  const failed = recent.filter((row) => !["ok", "cancelled"].includes(row.outcome)).length;
  tile("p50", times.length ? milliseconds(quantile(times, 0.5)) : "–", judged(quantile(times, 0.5)));
  tile("p95", times.length ? milliseconds(quantile(times, 0.95)) : "–", judged(quantile(times, 0.95)));
  $("p50-note").textContent = $("p95-note").textContent = times.length
    ? `${counted(times.length, "call")} in ${MINUTES} minutes`
    : `no call in ${MINUTES} minutes`;
  tile("cold", String(cold), cold ? "warn" : "");
  $("cold-note").textContent = "calls that waited for a load";
  const lastMinute = recent.filter((row) => Date.parse(row.finished_at) >= Date.now() - 60000).length;
  tile("rate", String(lastMinute), "");
  $("rate-note").textContent = failed ? `${failed} failed in ${MINUTES} minutes` : "none failed";
  const running = Object.values(queue.running).reduce((sum, count) => sum + count, 0);
  tile("running", String(running), "");
  const loaded = models.filter((model) => model.state === "resident" || model.size_bytes).length;
  $("running-note").textContent = counted(loaded, "model") + " loaded";
  tile("waiting", String(queue.waiting.length), queue.waiting.length > 10 ? "warn" : "");
  const longest = Math.max(0, ...queue.waiting.map((each) => each.waited_s));
  $("waiting-note").textContent = queue.waiting.length ? `longest ${milliseconds(longest * 1000)}` : "in the queue";
}

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function tile(id, text, kind) {
  $(id).textContent = text;
  $(id).className = `figure ${kind}`;
}

function judged(ms) {
  if (Number.isNaN(ms)) return "";
  return ms <= SLOW_MS ? "good" : ms <= COLD_MS ? "warn" : "bad";
}

// Between the two nearest calls, as /stats has it.
function quantile(values, share) {
  if (!values.length) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)];
  return below + (sorted[Math.ceil(place)] - below) * (place - Math.floor(place));
}

// --- the line

function showHistory(recent) {
  const chart = $("history");
  const now = Math.floor(Date.now() / 60000);
  const minutes = Array.from({ length: MINUTES }, () => []);
  for (const row of recent) {
    const age = now - Math.floor(Date.parse(row.finished_at) / 60000);
    if (row.ttft_ms !== undefined && age >= 0 && age < MINUTES) minutes[MINUTES - 1 - age].push(row.ttft_ms);
  }
  const top = Math.max(2 * SLOW_MS, ...minutes.map((times) => (times.length ? quantile(times, 0.95) : 0)));
  const x = (place) => 20 + (place * 860) / (MINUTES - 1);
  const y = (ms) => 122 - (ms / top) * 114;
  const drawn = [svg("line", { x1: 0, x2: 900, y1: y(SLOW_MS), y2: y(SLOW_MS) })];
  for (const [name, share] of [["p95", 0.95], ["p50", 0.5]]) {
    const points = minutes.flatMap((times, place) => (times.length ? [[x(place), y(quantile(times, share))]] : []));
    if (points.length > 1) drawn.push(svg("path", { class: name, d: `M${points.map((p) => p.join(" ")).join("L")}` }));
    drawn.push(...points.map(([cx, cy]) => svg("circle", { class: name, cx, cy, r: 3 })));
  }
  chart.replaceChildren(...drawn);
  const seen = minutes.filter((times) => times.length).length;
  $("history-note").textContent = seen
    ? `${MINUTES} minutes, now at the right; the top is ${milliseconds(top)}`
    : `no call in ${MINUTES} minutes`;
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// --- tables

const STATES = { resident: "good", loading: "warn", lost: "warn", failed: "bad", absent: "warn", released: "" };

function modelCells(model) {
  const state = element("span", "pill");
  pill(state, model.state, STATES[model.state] ?? "");
  state.title = model.reason || model.loss || "";
  const share = model.size_bytes ? model.vram_bytes / model.size_bytes : 0;
  const bar = element("span", "vram");
  const inner = element("i", share < 0.995 ? "part" : "");
  inner.style.width = `${100 * share}%`;
  bar.append(inner);
  const memory = element("span");
  memory.append(...(model.size_bytes ? [bar, `${gigabytes(model.vram_bytes)} of ${gigabytes(model.size_bytes)}`] : ["–"]));
  const until = model.pinned ? "kept" : model.expires_in_s === null ? "–" : milliseconds(1000 * Math.max(0, model.expires_in_s));
  const name = element("span");
  name.textContent = model.name;
  name.title = model.names.join(", ");
  return [name, state, memory, number(model.num_ctx ?? "–"), until, number(model.in_flight), number(model.waiting)];
}

function waitingCells(each) {
  const lifted = each.priority === each.effective ? each.priority : `${each.priority} → ${each.effective}`;
  return [number(each.position), each.model, each.client, lifted, number(milliseconds(each.waited_s * 1000))];
}

function showRequests() {
  const only = $("calls-only").checked;
  const rows = [...calls.values()].reverse().filter((row) => !only || row.endpoint).slice(0, ROWS);
  const longest = Math.max(SLOW_MS, ...rows.map((row) => row.ttft_ms ?? 0));
  fill("requests", rows.map((row) => requestCells(row, longest)), "no call yet: point a client at Pilotlight's port");
}

const OUTCOMES = { ok: "good", cancelled: "" };

function requestCells(row, longest) {
  const came = element("span", OUTCOMES[row.outcome] ?? "bad");
  came.textContent = row.outcome === "ok" ? (row.reused ? `ok, ${row.reused}` : "ok") : `${row.status} ${row.error ?? row.outcome}`;
  came.title = row.request_id;
  const start = row.start === "cold" ? " (cold)" : "";
  return [
    new Date(row.finished_at).toLocaleTimeString(),
    row.model ?? "",
    `${row.method} ${row.route}`,
    came,
    bar(row, longest),
    number(row.ttft_ms === undefined ? "–" : milliseconds(row.ttft_ms) + start),
    number(row.total_ms === undefined ? "–" : milliseconds(row.total_ms)),
    number(row.tokens_out ?? "–"),
    number(row.tokens_per_s === undefined ? "–" : row.tokens_per_s.toFixed(1)),
  ];
}

function bar(row, longest) {
  if (row.ttft_ms === undefined) return "";
  const whole = element("span", "bar");
  whole.style.width = `${(100 * row.ttft_ms) / longest}%`;
  whole.title = PARTS.map((part) => `${part} ${milliseconds(row[`${part}_ms`])}`).join(", ");
  for (const part of PARTS) {
    const piece = element("i", part);
    piece.style.width = `${(100 * row[`${part}_ms`]) / row.ttft_ms}%`;
    whole.append(piece);
  }
  return whole;
}

function fill(id, rows, empty) {
  const body = $(id).tBodies[0];
  if (!rows.length) {
    const cell = element("td", "quiet");
    cell.colSpan = 99;
    cell.textContent = empty;
    rows = [[cell]];
  }
  body.replaceChildren(
    ...rows.map((cells) => {
      const line = element("tr");
      line.append(...cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : wrapped(cell))));
      return line;
    }),
  );
}

function wrapped(cell) {
  const made = element("td");
  made.append(cell);
  return made;
}

function number(text) {
  const made = element("td", "number");
  made.textContent = text;
  return made;
}

function element(name, kind = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  return made;
}

function pill(where, text, kind) {
  where.textContent = text;
  where.className = `pill ${kind}`;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

function milliseconds(ms) {
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120000) return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
  return ms < 7200000 ? `${Math.round(ms / 60000)} min` : `${Math.round(ms / 3600000)} h`;
}

function gigabytes(bytes) {
  return bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

// --- what the reader does

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
  update();
});
$("calls-only").addEventListener("change", showRequests);
$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  update();
});
document.addEventListener("visibilitychange", update);
update();
