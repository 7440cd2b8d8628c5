// Vercel's AI SDK against the herd, through each provider that reaches an Ollama: agents that call
// tools, answers in the form of a schema, streams.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, embedMany, generateObject, generateText, isStepCount, streamText, tool } from "ai";
import { createOllama as createOllamaSdk } from "ai-sdk-ollama";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { URL, all, refused, run } from "./steps.mjs";

const compatible = createOpenAICompatible({
  name: "herd",
  baseURL: `${URL}/v1`,
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const ollama = createOllama({ baseURL: `${URL}/api` });
const ollamaSdk = createOllamaSdk({ baseURL: URL });
const openai = createOpenAI({ baseURL: `${URL}/v1`, apiKey: "x" });
const anthropic = createAnthropic({ baseURL: `${URL}/v1`, apiKey: "x" });

const PROVIDERS = { compatible, ollama, ollamaSdk, openai, anthropic };
const prompt = "Say hello to Paris";
const schema = z.object({ city: z.string(), days: z.number().int() });
const weather = tool({
  description: "Weather of a city",
  inputSchema: schema,
  execute: async ({ city, days }) => `${city.length} letters, ${days} days, 21 degrees`,
});
const once = { maxRetries: 0, maxOutputTokens: 40 };

const steps = {};
for (const [name, provider] of Object.entries(PROVIDERS)) {
  const model = provider("llama3.1");
  steps[`${name}_text`] = async () => {
    const { text, finishReason, usage } = await generateText({ model, prompt, ...once });
    return [text, finishReason, usage.inputTokens, usage.outputTokens];
  };
  steps[`${name}_stream`] = async () => {
    const answer = streamText({ model, prompt, ...once, maxOutputTokens: 6 });
    const pieces = await all(answer.textStream);
    return [pieces.join(""), await answer.finishReason, (await answer.usage).outputTokens];
  };
  steps[`${name}_object`] = async () =>
    (await generateObject({ model, schema, prompt, ...once })).object;
  steps[`${name}_agent`] = async () => {
    const tools = { weather };
    const asked = { model, prompt, tools, stopWhen: isStepCount(3), ...once };
    const { text, steps } = await generateText(asked);
    return [text, steps.map((step) => step.toolResults.map((one) => one.output))];
  };
  steps[`${name}_agent_stream`] = async () => {
    const tools = { weather };
    const answer = streamText({ model, prompt, tools, stopWhen: isStepCount(3), ...once });
    const kinds = await all(answer.fullStream, (part) => part.type);
    return [await answer.text, kinds.filter((kind, at) => kind !== kinds[at - 1])];
  };
  steps[`${name}_unknown_model`] = async () =>
    refused(
      () => generateText({ model: provider("nope"), prompt, ...once }),
      "statusCode",
      "message",
    );
}

await run(steps);
