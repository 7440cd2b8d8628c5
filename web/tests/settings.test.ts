import { describe, expect, it } from "vitest";
import { label, origin, recorded, typed, written } from "../src/lib/settings";
import type { Setting } from "../src/lib/types";

const setting = (source: string, where = ""): Setting => ({
  name: "hedge",
  value: true,
  configured: true,
  default: true,
  source,
  where,
  help: "",
  is_live: true,
  locked: "",
});

describe("settings", () => {
  it("say where they come from", () => {
    expect(origin(setting("dashboard"))).toBe("changed here");
    expect(origin(setting("default"))).toBe("default");
    expect(origin(setting("env", "HERD_HEDGE"))).toBe("HERD_HEDGE");
    expect(origin(setting("flag"))).toBe("flag");
  });

  it("are written for people", () => {
    expect([true, false, 5, "x", "", null, [], ["a", "b"]].map(written)).toEqual([
      "on",
      "off",
      "5",
      "x",
      "none",
      "none",
      "none",
      "a, b",
    ]);
    expect(label("queue_timeout_s")).toBe("Queue timeout (s)");
    expect(label("trace_max_bytes")).toBe("Trace max (bytes)");
  });

  it("take numbers and nothing else", () => {
    expect([" 12 ", "1.5", "-1", "1e3"].map(typed)).toEqual([12, 1.5, -1, 1000]);
    expect(["", " ", "x", "1,5", "Infinity", "NaN"].map(typed)).toEqual(Array(6).fill(null));
  });

  it("keep a record that can be read", () => {
    expect([recorded(""), recorded("true"), recorded("7"), recorded("{bad")]).toEqual([
      "as configured",
      "on",
      "7",
      "{bad",
    ]);
  });
});
