import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// A running herd for `npm run dev`, which serves pages itself and asks the herd for the rest.
const herd = process.env.ROUTER_URL ?? "http://127.0.0.1:11435";

export default defineConfig({
  base: "/dashboard/",
  plugins: [svelte()],
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
