import { describe, expect, it } from "vitest";
import { advice, badge, headline, pieces, movement, sorted } from "../src/lib/health";
import type { CheckState, Health, HealthChange, Severity } from "../src/lib/types";

const check = (title: string, severity: Severity, advised: string[] = []): CheckState => ({
  code: title,
  title,
  severity,
  seen: "",
  since_s: 0,
  meaning: "",
  advice: "",
  findings: advised.map((text, number) => ({
    severity,
    subject: String(number),
    name: "n",
    seen: "s",
    advice: text,
    since_s: 0,
    node_id: "",
    model: "",
  })),
});

const state = (critical: number, warning: number, info: number): Health => ({
  overall: "ok",
  time_s: 0,
  counts: { ok: 1, info, warning, critical },
  checks: [],
});

describe("health", () => {
  it("is one line that says whether to worry", () => {
    expect(headline(state(0, 0, 0))).toBe("All is well");
    expect(headline(state(0, 0, 1))).toBe("All is well; one thing worth knowing");
    expect(headline(state(0, 1, 3))).toBe("One thing to look at");
    expect(headline(state(1, 0, 0))).toBe("One thing to look at, and it is critical");
    expect(headline(state(2, 1, 0))).toBe("3 things to look at, 2 of them critical");
  });

  it("counts what needs somebody", () => {
    expect(badge(state(2, 1, 5))).toBe(3);
    expect(badge(null)).toBe(0);
  });

  it("keeps the herd's order of what was found, and names the rest by title", () => {
    const { loud, quiet } = sorted([
      check("z", "critical"),
      check("a", "info"),
      check("c", "ok"),
      check("b", "ok"),
    ]);
    expect(loud.map((one) => one.title)).toEqual(["z", "a"]);
    expect(quiet.map((one) => one.title)).toEqual(["b", "c"]);
  });

  it("gives the same advice once", () => {
    expect(advice(check("a", "info", ["do", "do"]))).toEqual({ shared: "do", own: false });
    expect(advice(check("a", "info", ["do", "or"]))).toEqual({ shared: "", own: true });
  });

  it("says which way a change went", () => {
    const moved = (before: Severity, after: Severity) =>
      movement({ before, after } as unknown as HealthChange);
    expect(moved("ok", "info")).toBe("began");
    expect(moved("warning", "ok")).toBe("over");
    expect(moved("warning", "critical")).toBe("got worse");
    expect(moved("info", "warning")).toBe("got worse");
    expect(moved("critical", "warning")).toBe("got better");
  });
});

describe("advice", () => {
  it("shows what is to be typed as such", () => {
    expect(pieces("Run `ollama stop M` there")).toEqual([
      { text: "Run ", typed: false },
      { text: "ollama stop M", typed: true },
      { text: " there", typed: false },
    ]);
    expect(pieces("a ` alone")).toEqual([{ text: "a ` alone", typed: false }]);
    expect(pieces("plain")).toEqual([{ text: "plain", typed: false }]);
  });
});
