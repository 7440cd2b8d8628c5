import { defineConfig } from "vitest/config";

export default defineConfig({
  // With its styles, whose contrasts are looked at.
  test: { include: ["tests/**/*.test.ts"], environment: "node", css: true },
});
