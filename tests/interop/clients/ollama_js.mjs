// The `ollama` package of npm.
import { Ollama } from "ollama";
import { PIXEL, TOOL, URL, WEATHER, all, refused, run } from "./steps.mjs";

const client = new Ollama({ host: URL });
const messages = [{ role: "user", content: "Say hello to Paris" }];
const model = "llama3.1";
const sorted = async () => (await client.list()).models.map((m) => m.name).sort();

await run({
  async chat() {
    const answer = await client.chat({ model, messages });
    return [answer.message.content, answer.done_reason, answer.eval_count, answer.model];
  },
  async chat_stream() {
    return all(await client.chat({ model, messages, stream: true }), (c) => [
      c.message.content,
      c.done,
    ]);
  },
  async generate() {
    const options = { num_predict: 5 };
    const answer = await client.generate({ model, prompt: "Say hello", options });
    const stream = await client.generate({ model, prompt: "Say hello", stream: true });
    return [answer.response, answer.done_reason, await all(stream, (c) => c.response)];
  },
  async tools() {
    const first = await client.chat({ model, messages, tools: [TOOL] });
    const call = first.message.tool_calls[0].function;
    const result = { role: "tool", tool_name: call.name, content: "21 degrees" };
    const history = [...messages, first.message, result];
    const second = await client.chat({ model, messages: history, tools: [TOOL] });
    return [call, second.message.content];
  },
  async thinking() {
    const answer = await client.chat({ model: "gpt-oss:20b", messages, think: "high" });
    return [answer.message.thinking, answer.message.content];
  },
  async structured() {
    const answer = await client.chat({ model, messages, format: WEATHER });
    return JSON.parse(answer.message.content);
  },
  async pictures() {
    const message = { role: "user", content: "What is this?", images: [PIXEL] };
    return (await client.chat({ model, messages: [message] })).message.content;
  },
  async embed() {
    const answer = await client.embed({ model: "nomic-embed-text", input: ["one", "two"] });
    const old = await client.embeddings({ model: "nomic-embed-text", prompt: "one" });
    return [answer.embeddings.map((e) => e.slice(0, 3)), old.embedding.length];
  },
  async errors() {
    const calls = [
      () => client.chat({ model: "nope", messages }),
      () => client.chat({ model: "nope", messages, stream: true }),
      () => client.embed({ model: "nope", input: "x" }),
      () => client.show({ model: "nope" }),
      () => client.pull({ model: "nope" }),
      () => client.chat({ model, messages, keep_alive: "300" }),
      () => client.chat({ model, messages, format: "yaml" }),
    ];
    return Promise.all(calls.map((call) => refused(call, "status_code", "message")));
  },
  async listing() {
    const listed = (await client.list()).models.map((m) => [m.name, m.size, m.digest, m.details]);
    return listed.sort();
  },
  async show() {
    const shown = await client.show({ model });
    return [shown.capabilities, shown.details, Object.keys(shown.model_info).sort()];
  },
  async version() {
    return client.version();
  },
  async load_is_seen() {
    await client.generate({ model, prompt: "" });
    return (await client.ps()).models.filter((m) => m.name === "llama3.1:latest").length;
  },
  async pull_copy_create_delete() {
    const lines = await all(await client.pull({ model: "fresh:1b", stream: true }), (p) => p.status);
    await client.copy({ source: "fresh:1b", destination: "mine" });
    const made = await client.create({ model: "pirate", from: "fresh:1b", system: "Talk so." });
    const here = await sorted();
    for (const name of ["fresh:1b", "mine", "pirate"]) await client.delete({ model: name });
    return [lines[0], lines.at(-1), made.status, here, await sorted()];
  },
  async cancelled() {
    const options = { num_predict: -1 };
    const stream = await client.chat({ model, messages, stream: true, options });
    let count = 0;
    try {
      for await (const _ of stream) if (++count === 3) stream.abort();
    } catch (error) {
      return [count >= 3, error.name];
    }
    return "the stream ended by itself";
  },
});
