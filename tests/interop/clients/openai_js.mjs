// The `openai` package of npm against `/v1`.
import OpenAI from "openai";
import { PIXEL, TOOL, URL, WEATHER, all, refused, run } from "./steps.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "ollama", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello to Paris" }];
const model = "llama3.1";
const ask = (more) => client.chat.completions.create({ model, messages, ...more });

await run({
  async chat() {
    const answer = await ask();
    return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage];
  },
  async chat_stream() {
    const stream_options = { include_usage: true };
    return all(await ask({ stream: true, stream_options, max_tokens: 6 }), (c) => [
      c.choices[0]?.delta.content,
      c.usage,
    ]);
  },
  async tools() {
    const first = (await ask({ tools: [TOOL] })).choices[0];
    const call = first.message.tool_calls[0];
    const result = { role: "tool", tool_call_id: call.id, content: "21 degrees" };
    const second = await ask({ messages: [...messages, first.message, result], tools: [TOOL] });
    return [call.function, first.finish_reason, second.choices[0].message.content];
  },
  async tools_stream() {
    const runner = client.chat.completions.stream({ model, messages, tools: [TOOL] });
    const message = (await runner.finalChatCompletion()).choices[0].message;
    return message.tool_calls.map((call) => call.function.arguments);
  },
  async structured() {
    const json_schema = { name: "weather", schema: WEATHER, strict: true };
    const answer = await ask({ response_format: { type: "json_schema", json_schema } });
    return JSON.parse(answer.choices[0].message.content);
  },
  async thinking() {
    const answer = await ask({ model: "gpt-oss:20b", reasoning_effort: "low" });
    return [answer.choices[0].message.reasoning, answer.choices[0].message.content];
  },
  async pictures() {
    const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${PIXEL}` } };
    const content = [{ type: "text", text: "What is this?" }, picture];
    return (await ask({ messages: [{ role: "user", content }] })).choices[0].message.content;
  },
  async responses() {
    const answer = await client.responses.create({ model, input: "Say hello" });
    const stream = await client.responses.create({ model, input: "Say hello", stream: true });
    return [answer.output_text, await all(stream, (event) => event.type)];
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "nomic-embed-text", input: ["one"] });
    return [answer.data[0].embedding.slice(0, 3), answer.usage];
  },
  async models() {
    return [(await all(client.models.list(), (m) => m.id)).sort(), await client.models.retrieve(model)];
  },
  async errors() {
    const calls = [
      () => ask({ model: "nope" }),
      () => ask({ model: "nope", stream: true }),
      () => ask({ messages: [] }),
      () => client.models.retrieve("nope"),
      () => client.embeddings.create({ model: "nope", input: "x" }),
    ];
    return Promise.all(calls.map((call) => refused(call, "status", "error")));
  },
  async cancelled() {
    const stream = await ask({ stream: true, max_tokens: 100000 });
    let count = 0;
    for await (const _ of stream) if (++count === 3) break;
    return count;
  },
});
