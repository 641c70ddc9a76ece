// `ollama` for JavaScript.

import { Ollama } from "ollama";
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

const options = { temperature: 0, num_predict: TOKENS };

await main((url, control) => {
  const client = new Ollama({ host: url });
  const chat = (given = {}) => client.chat({ model: CHAT_MODEL, messages: MESSAGES, options, ...given });
  return {
    list: async () => (await client.list()).models.map((model) => model.model).sort(),
    chat: () => chat(),
    stream: async () => collected(await chat({ stream: true })),
    tools: () => chat({ tools: [TOOL] }),
    embeddings: () => client.embed({ model: EMBED_MODEL, input: ["one text", "another"] }),
    error: () => chat({ model: EMBED_MODEL }),
    cancel: async () => {
      const stream = await chat({ stream: true, options: { num_predict: ENDLESS_TOKENS } });
      return cancelled(control, stream, () => stream.abort());
    },
    "model not found": () => chat({ model: MISSING_MODEL }),
  };
});
