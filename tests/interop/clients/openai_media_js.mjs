// The pictures and transcriptions of npm's `openai`; argv[3] is a recording.
import { createReadStream } from "node:fs";
import OpenAI, { toFile } from "openai";
import { URL, refused, run } from "./steps.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "ollama", maxRetries: 0 });
const [EAR, BRUSH] = ["pocketsphinx", "z-image-turbo"];
const paint = (more, options) =>
  client.images.generate({ model: BRUSH, prompt: "a red barn", size: "64x64", ...more }, options);
const hear = (more) =>
  client.audio.transcriptions.create({
    file: createReadStream(process.argv[3]),
    model: EAR,
    ...more,
  });
const kind = (data) => [Buffer.from(data).subarray(1, 4).toString(), data.length > 50];

await run({
  async picture() {
    const answer = await paint({ response_format: "b64_json", n: 2, seed: 5, steps: 2 });
    return answer.data.map((item) => kind(Buffer.from(item.b64_json, "base64")));
  },
  async picture_url() {
    const answer = await fetch((await paint({ response_format: "url" })).data[0].url);
    return [kind(new Uint8Array(await answer.arrayBuffer())), answer.headers.get("content-type")];
  },
  async picture_progress() {
    const events = [];
    for await (const event of await paint({ stream: true, steps: 2 })) events.push(event);
    const last = events.at(-1);
    const made = kind(Buffer.from(last.b64_json, "base64"));
    return [last.type, made, events[0].type, events[0].steps];
  },
  async picture_refused() {
    return [
      await refused(() => paint({ size: "1x1" }), "message"),
      await refused(() => paint({ n: 50 }), "message"),
      await refused(() => paint({ model: "nobody" }), "message"),
      await refused(() => paint({ model: EAR }), "message"),
    ];
  },
  async picture_given_up() {
    const giving = new AbortController();
    setTimeout(() => giving.abort(), 1500);
    return refused(() => paint({ steps: 200 }, { signal: giving.signal }));
  },
  async transcript() {
    return (await hear()).text;
  },
  async transcript_text() {
    return hear({ response_format: "text" });
  },
  async transcript_subtitles() {
    const srt = await hear({ response_format: "srt" });
    const vtt = await hear({ response_format: "vtt" });
    return [srt.split("-->").length - 1, vtt.split("\n")[0]];
  },
  async transcript_verbose() {
    const said = await hear({ response_format: "verbose_json", language: "en", temperature: 0 });
    return [said.text, said.duration > 1, said.segments[0].text, said.segments[0].id];
  },
  async transcript_refused() {
    const noise = await toFile(Buffer.from("no sound"), "a.wav");
    const nothing = await toFile(Buffer.alloc(0), "a.wav");
    return [
      await refused(() => hear({ file: noise }), "status"),
      await refused(() => hear({ file: nothing }), "message"),
      await refused(() => hear({ model: "x" }), "message"),
      await refused(() => hear({ model: BRUSH }), "message"),
    ];
  },
  async kinds() {
    const listed = (await client.models.list()).data;
    return listed.filter((m) => [EAR, BRUSH].includes(m.id)).map((m) => [m.id, m.kind]).sort();
  },
});
