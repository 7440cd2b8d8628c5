// Screenshots: `node shoot.mjs <url of a herd> '<JSON list of shots>'`.
// A shot: {file, hash, width, height, theme, click?, wait?, scale?}.
import { inBrowser } from "./open.mjs";

const [, , base, list] = process.argv;

await inBrowser(async (context) => {
  for (const shot of JSON.parse(list)) {
    const page = await context.newPage();
    await page.setViewportSize({ width: shot.width ?? 1440, height: shot.height ?? 900 });
    await page.emulateMedia({ colorScheme: shot.theme ?? "dark", reducedMotion: "reduce" });
    page.on("console", (line) => line.type() === "error" && console.error(shot.file, line.text()));
    page.on("pageerror", (error) => console.error(shot.file, error.message));
    await page.goto(`${base}/dashboard#/${shot.hash ?? "fleet"}`);
    await page.waitForSelector(shot.wait ?? "h1");
    for (const selector of [shot.click ?? []].flat()) await page.click(selector);
    for (const [selector, text] of Object.entries(shot.type ?? {})) await page.fill(selector, text);
    if (shot.press) await page.keyboard.press(shot.press);
    await page.waitForTimeout(shot.settle_ms ?? 900); // charts and live parts draw themselves
    await page.screenshot({ path: shot.file });
    await page.close();
  }
});
