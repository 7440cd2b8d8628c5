// A person at Open WebUI: picks a model, has a tool used, gets an answer, comes back to the chat,
// adds a document.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { URL, run } from "./steps.mjs";

const SHOT = process.argv[3];
const FLAGS = [
  "--no-sandbox",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const profile = mkdtempSync(join(tmpdir(), "interop-browser-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  headless: true,
  viewport: { width: 1280, height: 800 },
  args: FLAGS,
});
context.setDefaultTimeout(60_000);
const page = await context.newPage();
const elsewhere = [];
page.on("request", (request) => {
  const url = request.url();
  if (!url.startsWith(URL) && !/^(ws:\/\/127\.0\.0\.1|data:|blob:)/.test(url)) elsewhere.push(url);
});

const messages = page.locator("#messages-container .chat-assistant");
const says = (text) => messages.getByText(text).first().waitFor();

async function ask(prompt) {
  await page.locator("#chat-input").click();
  await page.keyboard.insertText(prompt);
  await page.keyboard.press("Enter");
}

await run({
  async models() {
    await page.goto(URL);
    await page.getByRole("button", { name: "Okay, Let's Go!" }).click();
    await page.locator("#model-selector-model-button").click();
    const options = page.getByRole("option");
    await options.first().waitFor();
    return (await options.allInnerTexts()).map((text) => text.split("\n")[0]).sort();
  },
  async tool() {
    await page.getByRole("option", { name: "gpt-oss:20b" }).click();
    await ask("What time is it? CALL<<get_current_timestamp {}>>");
    await says('The tool says: {"current_timestamp":');
    return await page.getByText("get_current_timestamp").count() > 1;
  },
  async answer() {
    await ask("Say hello to Paris. SAY<<**Bonjour** from the herd, Paris!>>");
    await says(/^Bonjour from the herd, Paris!$/);
    return messages.locator("strong", { hasText: "Bonjour" }).innerText();
  },
  async kept() {
    await page.waitForURL(/\/c\//);
    await page.reload();
    await says("from the herd, Paris!");
    if (SHOT) await page.screenshot({ path: SHOT });
    return messages.locator("strong", { hasText: "Bonjour" }).innerText();
  },
  async document() {
    const buffer = Buffer.from("The herd grazes in Paris.");
    const read = page.waitForResponse(/files\/[^/]+\/process\/status/);
    const input = page.locator("input[type=file]:not([accept])").first();
    await input.setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer });
    return /"completed"/.test(await (await read).text());
  },
  async stayed_here() {
    return elsewhere;
  },
});

await context.close();
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
