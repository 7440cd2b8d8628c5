import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

// A running herd for `npm run dev`, which serves pages itself and asks the herd for the rest.
const herd = process.env.ROUTER_URL ?? "http://127.0.0.1:11435";

// The licences of all that is in the pages ask to be passed on with them.
function licences(): Plugin {
  return {
    name: "licences",
    apply: "build",
    generateBundle(_options, bundle) {
      const files = [...this.getModuleIds()];
      for (const made of Object.values(bundle)) {
        if (made.type === "asset")
          files.push(...made.originalFileNames.map((name) => resolve(name)));
      }
      const inside = /^.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//;
      const folders = new Map<string, string>();
      for (const file of files) {
        const found = inside.exec(file.replaceAll("\\", "/").replace(/^\0/, ""));
        if (found) folders.set(found[1], found[0]);
      }
      const texts = [...folders.keys()].sort().map((name) => {
        const folder = folders.get(name) ?? "";
        const file = readdirSync(folder).find((entry) => /^licen[sc]e(\.|$)/i.test(entry));
        if (!file) this.error(`${name} is in the pages and has no file with its licence`);
        return `${name}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
      });
      this.emitFile({ type: "asset", name: "licenses.txt", source: texts.join("\n---\n\n") });
    },
  };
}

export default defineConfig({
  base: "/dashboard/",
  plugins: [svelte(), licences()],
  build: {
    outDir: "../src/ollama_herd/dashboard/static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the policy allows no data: URLs
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 400,
    rollupOptions: { input: ["index.html", "login.html"] },
  },
  server: {
    proxy: {
      "/dashboard/api": herd,
      "/dashboard/events": herd,
      "/api": herd,
    },
  },
});
