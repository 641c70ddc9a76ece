// What every driver of a JavaScript client does; the same contract as contract.py, which tells it.

export const CHAT_MODEL = "talker";
export const EMBED_MODEL = "embedder";
export const MISSING_MODEL = "ghost";
export const MESSAGES = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "Tell me <something>." },
];
export const TOOL = {
  type: "function",
  function: {
    name: "get_weather",
    description: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
export const TOKENS = 6;
export const ENDLESS_TOKENS = 100000;
const NOTICE_MS = 10000;
const OWN = /^(created(_at)?|modified_at|expires_at|\w+_durations?|id|_request_id)$/;

function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Float32Array) return [...value];
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([key]) => !OWN.test(key));
  return Object.fromEntries(kept.map(([key, item]) => [key, plain(item)]));
}

async function disconnects(control) {
  return (await (await fetch(`${control}/_sim/state`)).json()).disconnects;
}

export async function collected(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// Take one piece of an endless stream and leave; whether the server noticed.
export async function cancelled(control, stream, close) {
  const before = await disconnects(control);
  for await (const _ of stream) {
    close();
    break;
  }
  const deadline = Date.now() + NOTICE_MS;
  while ((await disconnects(control)) === before && Date.now() < deadline) await new Promise((r) => setTimeout(r, 20));
  return { "the server noticed": (await disconnects(control)) > before };
}

async function outcome(call, url) {
  try {
    return { ok: plain(await call()) };
  } catch (error) {
    const says = String(error.message).replaceAll(url, "SERVER").replaceAll(url.slice(7), "SERVER");
    return { raised: error.constructor.name, says };
  }
}

export async function main(callsTo) {
  let text = "";
  for await (const piece of process.stdin) text += piece;
  const given = JSON.parse(text);
  const outcomes = {};
  for (const side of ["direct", "proxied"]) {
    outcomes[side] = {};
    for (const [name, call] of Object.entries(callsTo(given[side], given.control))) {
      outcomes[side][name] = await outcome(call, given[side]);
    }
  }
  process.stdout.write(JSON.stringify(outcomes));
}
