// `openai` for JavaScript.

import OpenAI from "openai";
import {
  CHAT_MODEL,
  EMBED_MODEL,
  ENDLESS_TOKENS,
  MESSAGES,
  MISSING_MODEL,
  TOKENS,
  TOOL,
  cancelled,
  collected,
  main,
} from "./contract.mjs";

await main((url, control) => {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const chat = (given = {}) =>
    client.chat.completions.create({
      model: CHAT_MODEL,
      messages: MESSAGES,
      temperature: 0,
      max_tokens: TOKENS,
      ...given,
    });
  return {
    list: async () => (await collected(client.models.list())).map((model) => model.id).sort(),
    chat: () => chat(),
    stream: async () => collected(await chat({ stream: true, stream_options: { include_usage: true } })),
    tools: async () => [await chat({ tools: [TOOL] }), await collected(await chat({ tools: [TOOL], stream: true }))],
    embeddings: () => client.embeddings.create({ model: EMBED_MODEL, input: ["one text", "another"] }),
    error: () => chat({ model: EMBED_MODEL }),
    cancel: async () => {
      const stream = await chat({ stream: true, max_tokens: ENDLESS_TOKENS });
      return cancelled(control, stream, () => stream.controller.abort());
    },
    "model not found": () => chat({ model: MISSING_MODEL }),
  };
});
