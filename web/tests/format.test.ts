import { describe, expect, it } from "vitest";
import {
  bytes,
  context,
  count,
  expiry,
  memory,
  ms,
  percent,
  rate,
  safe,
  seconds,
} from "../src/lib/format";

describe("durations", () => {
  it.each([
    [0.01, "0 ms"],
    [0.42, "0.4 ms"],
    [82.4, "82 ms"],
    [999.6, "1.00 s"],
    [1234, "1.23 s"],
    [45_600, "45.6 s"],
    [200_000, "3 m 20 s"],
    [-310, "−310 ms"],
    [NaN, "–"],
    [null, "–"],
  ])("%s ms is %s", (value, text) => expect(ms(value)).toBe(text));

  it.each([
    [45, "45 s"],
    [60, "1 m"],
    [7500, "2 h 5 m"],
    [86400 * 4, "4 d"],
    [-3, "0 s"],
  ])("%s s is %s", (value, text) => expect(seconds(value)).toBe(text));
});

describe("amounts", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [999_600, "1 MB"],
    [5_200_000_000, "5.2 GB"],
    [42_500_000_000, "42.5 GB"],
    [2e12, "2 TB"],
  ])("%s bytes are %s", (value, text) => expect(bytes(value)).toBe(text));

  it("memory counts in 1024", () => {
    expect(memory(24 * 2 ** 30)).toBe("24 GB");
    expect(memory(512 * 2 ** 20)).toBe("512 MB");
  });

  it("counts stay short", () => {
    expect(count(7)).toBe("7");
    expect(count(12345)).toBe("12\u202f345");
    expect(count(1_234_567)).toBe("1.2 M");
    expect(count(null)).toBe("–");
  });

  it("contexts are powers of two where they can be", () => {
    expect(context(131072)).toBe("128K");
    expect(context(40_000)).toBe("40k");
    expect(context(0)).toBe("–");
  });

  it("small shares are not nothing", () => {
    expect(percent(0.002)).toBe("<1 %");
    expect(percent(0)).toBe("0 %");
    expect(percent(0 / 0)).toBe("–");
  });
});

describe("foreign text", () => {
  it("shows what hides", () => {
    expect(safe("a\u0000b\u001b[31m\n")).toBe("a\u2400b\u241b[31m\u240a");
    expect(safe("abc\u202egnp.exe")).toBe("abc\ufffdgnp.exe");
    expect(safe("\ud800x")).toBe("\ufffdx");
  });

  it("ends", () => {
    expect(safe("x".repeat(10_000)).length).toBeLessThan(200);
    expect(safe("🦙".repeat(500), 10)).toBe("🦙".repeat(10) + "…");
  });

  it("is otherwise left alone", () => {
    expect(safe("<b>qwen3:8b</b> 模型")).toBe("<b>qwen3:8b</b> 模型");
    expect(safe(undefined)).toBe("");
  });
});

describe("answers", () => {
  it("have a speed when an engine told one, or the times do", () => {
    const row = { output_tokens: 100, decode_ms: 2000, ttft_ms: 100, total_ms: 2100 };
    expect(rate(row)).toBe(50);
    expect(rate({ ...row, decode_ms: null })).toBe(50);
    expect(rate({ ...row, output_tokens: null })).toBeNull();
    expect(rate({ ...row, decode_ms: null, ttft_ms: -1 })).toBeNull();
  });

  it("leave memory some time", () => {
    expect(expiry("2318-01-01T00:00:00Z", 1.8e9)).toBe("stays");
    expect(expiry("2027-01-15T08:04:00Z", Date.parse("2027-01-15T08:00:00Z") / 1000)).toBe(
      "4 m left",
    );
    expect(expiry("nonsense", 0)).toBe("");
  });
});
