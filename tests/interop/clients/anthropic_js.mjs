// The `@anthropic-ai/sdk` package of npm against `/v1/messages`.
import Anthropic from "@anthropic-ai/sdk";
import { PIXEL, URL, WEATHER, all, refused, run } from "./steps.mjs";

const client = new Anthropic({ baseURL: URL, apiKey: "ollama", maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello to Paris" }];
const model = "llama3.1";
const tools = [{ name: "weather", description: "Weather of a city", input_schema: WEATHER }];
const ask = (more) => client.messages.create({ model, max_tokens: 100, messages, ...more });

await run({
  async message() {
    const answer = await ask({ system: "Be kind.", max_tokens: 7 });
    return [answer.content, answer.stop_reason, answer.usage];
  },
  async message_stream() {
    const stream = client.messages.stream({ model, max_tokens: 7, messages });
    const final = await stream.finalMessage();
    return [final.content, final.stop_reason];
  },
  async events() {
    return all(await ask({ stream: true, max_tokens: 4 }), (event) => event.type);
  },
  async tools() {
    const first = await ask({ tools });
    const call = first.content.find((block) => block.type === "tool_use");
    const result = { type: "tool_result", tool_use_id: call.id, content: "21 degrees" };
    const history = [
      ...messages,
      { role: "assistant", content: first.content },
      { role: "user", content: [result] },
    ];
    return [call.input, first.stop_reason, (await ask({ messages: history, tools })).content];
  },
  async tools_stream() {
    const stream = client.messages.stream({ model, max_tokens: 100, messages, tools });
    return (await stream.finalMessage()).content;
  },
  async thinking() {
    const thinking = { type: "enabled", budget_tokens: 1024 };
    const more = { model: "gpt-oss:20b", max_tokens: 2000, thinking };
    const stream = client.messages.stream({ messages, ...more });
    return [(await ask(more)).content, (await stream.finalMessage()).content];
  },
  async pictures() {
    const source = { type: "base64", media_type: "image/png", data: PIXEL };
    const content = [{ type: "image", source }, { type: "text", text: "What is this?" }];
    return (await ask({ messages: [{ role: "user", content }] })).content;
  },
  async errors() {
    const calls = [
      () => ask({ model: "nope" }),
      () => ask({ model: "nope", stream: true }),
      () => ask({ max_tokens: 0 }),
    ];
    return Promise.all(calls.map((call) => refused(call, "status", "error")));
  },
  async count_tokens() {
    return (await client.messages.countTokens({ model, messages })).input_tokens > 0;
  },
  async cancelled() {
    const stream = await ask({ stream: true, max_tokens: 100000 });
    let count = 0;
    for await (const _ of stream) if (++count === 4) break;
    return count;
  },
});
