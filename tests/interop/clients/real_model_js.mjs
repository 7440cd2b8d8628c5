// The three vendors' packages of npm ask a real small model: whole, streamed, left in mid-stream.
// A step ends with `true` for what holds of any right answer, whatever its words are.
import Anthropic from "@anthropic-ai/sdk";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { URL, all, refused, run } from "./steps.mjs";

const model = "smollm2";
const messages = [
  { role: "user", content: "What is the capital of France? Answer in one word." },
];
const endless = [{ role: "user", content: "Count from one to one thousand in words." }];
const options = { temperature: 0, num_predict: 24 };
const cold = { model, messages, temperature: 0, max_tokens: 24 };
const long = { model, messages: endless, temperature: 0, max_tokens: 1500, stream: true };
const IDLE_WITHIN_MS = 3000;

const plain = new Ollama({ host: URL });
const gpt = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "ollama", maxRetries: 0 });
const claude = new Anthropic({ baseURL: URL, apiKey: "ollama", maxRetries: 0 });

/** Reads three pieces, leaves, and waits until the herd has nothing in flight any more. */
async function left(stream, leave) {
  let pieces = 0;
  try {
    for await (const _ of stream) if (++pieces === 3) leave();
  } catch (error) {
    if (!/abort/i.test(`${error.name} ${error.message}`)) throw error;
  }
  const ends = Date.now() + IDLE_WITHIN_MS;
  let inFlight;
  do {
    inFlight = (await (await fetch(`${URL}/fleet/status`)).json()).queue.in_flight;
  } while (inFlight !== 0 && Date.now() < ends);
  return [pieces >= 3, pieces < 200, inFlight === 0];
}

await run({
  async ollama_chat() {
    const whole = await plain.chat({ model, messages, options });
    const pieces = await all(await plain.chat({ model, messages, options, stream: true }));
    const text = pieces.map((piece) => piece.message.content).join("");
    return [text === whole.message.content, text.includes("Paris"), pieces.at(-1).done];
  },
  async ollama_left() {
    const options = { temperature: 0, num_predict: 1500 };
    const stream = await plain.chat({ model, messages: endless, options, stream: true });
    return left(stream, () => stream.abort());
  },
  async ollama_schema() {
    const format = {
      type: "object",
      properties: { colour: { enum: ["red", "green"] } },
      required: ["colour"],
    };
    const answer = await plain.chat({ model, messages, format, options });
    return [["red", "green"].includes(JSON.parse(answer.message.content).colour)];
  },
  async ollama_embed() {
    const { embeddings } = await plain.embed({ model, input: ["one", "two"] });
    return [embeddings.length === 2, embeddings[0].length === embeddings[1].length];
  },
  async ollama_lists() {
    const [listed, loaded] = [await plain.list(), await plain.ps()];
    return [
      listed.models.some((one) => one.name.startsWith(model)),
      loaded.models[0].details.format === "gguf",
      loaded.models[0].details.quantization_level !== "",
    ];
  },
  async ollama_unknown() {
    const [, status] = await refused(() => plain.chat({ model: "nowhere", messages }), "status_code");
    return [status === 404];
  },
  async openai_chat() {
    const whole = await gpt.chat.completions.create(cold);
    const pieces = await all(await gpt.chat.completions.create({ ...cold, stream: true }));
    const text = pieces.map((piece) => piece.choices[0]?.delta.content ?? "").join("");
    return [text === whole.choices[0].message.content, text.includes("Paris")];
  },
  async openai_left() {
    const stream = await gpt.chat.completions.create(long);
    return left(stream, () => stream.controller.abort());
  },
  async openai_embeddings() {
    const { data } = await gpt.embeddings.create({ model, input: ["one", "two"] });
    return [data.length === 2, data[0].embedding.length > 10];
  },
  async openai_unknown() {
    const work = () => gpt.chat.completions.create({ ...cold, model: "nowhere" });
    const [name, status] = await refused(work, "status");
    return [name === "NotFoundError", status === 404];
  },
  async anthropic_message() {
    const whole = await claude.messages.create(cold);
    const streamed = await claude.messages.stream(cold).finalMessage();
    const text = whole.content[0].text;
    return [streamed.content[0].text === text, text.includes("Paris")];
  },
  async anthropic_left() {
    const stream = await claude.messages.create(long);
    return left(stream, () => stream.controller.abort());
  },
  async anthropic_unknown() {
    const work = () => claude.messages.create({ ...cold, model: "nowhere" });
    const [name, status] = await refused(work, "status");
    return [name === "NotFoundError", status === 404];
  },
});
