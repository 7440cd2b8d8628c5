// `node run.mjs <scenario> <url of a herd>`: exit status 0 when it holds and the page stayed within
// its bounds: no error, nothing the policy forbids, no request to another host.
import { inBrowser } from "./open.mjs";
import { scenarios } from "./scenarios.mjs";

const [, , name, url] = process.argv;
const EXPECTED = {
  login: /401 \(Unauthorized\)/,
  models: /\((4|5)\d\d /,
  reconnect: /Failed to load resource|ERR_/,
  requests: /400 \(Bad Request\)/,
  settings: /400 \(Bad Request\)/,
};
const trouble = [];

await inBrowser(async (context) => {
  context.setDefaultTimeout(20_000);
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`),
    );
  });
  context.on("request", (request) => {
    if (!request.url().startsWith(url)) trouble.push(`request to ${request.url().slice(0, 200)}`);
  });
  context.on("page", (page) => {
    page.on("console", (line) => {
      const is_expected = EXPECTED[name]?.test(line.text());
      if (line.type() === "error" && !is_expected) trouble.push(line.text().slice(0, 500));
    });
    page.on("pageerror", (error) => trouble.push(String(error.stack ?? error)));
  });
  await scenarios[name](context, url, (line) => console.log(`> ${line}`));
});

if (trouble.length) {
  console.error(trouble.join("\n"));
  process.exit(1);
}
