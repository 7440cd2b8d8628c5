import { describe, expect, it } from "vitest";
import { plot } from "../src/lib/prediction";
import type { TraceRow } from "../src/lib/types";

const row = (predicted: number | null, actual: number, status = 200) =>
  ({
    request_id: `${predicted}-${actual}-${status}`,
    status,
    ttft_ms: actual,
    predicted_ttft_ms: predicted,
    total_ms: 10 * actual,
    predicted_total_ms: predicted === null ? null : 10 * predicted,
  }) as TraceRow;

describe("predictions", () => {
  it("lie on the diagonal when they come true", () => {
    const { points, ticks, close } = plot([row(20, 20), row(500, 500)], "ttft");
    expect(points.every((point) => point.x === point.y)).toBe(true);
    expect(ticks.map((tick) => tick.ms)).toEqual([10, 100, 1000]);
    expect(close).toBe(1);
  });

  it("lie above it when the answer took longer, and are close within a factor", () => {
    const { points, close } = plot([row(10, 100), row(100, 250)], "total");
    expect(points.every((point) => point.y > point.x)).toBe(true);
    expect(points.every(({ x, y }) => x >= 0 && x <= 1 && y >= 0 && y <= 1)).toBe(true);
    expect(close).toBe(0.5);
  });

  it("are those of answered requests that were predicted", () => {
    expect(plot([row(null, 10), row(10, -1), row(10, 10, 503)], "ttft").points).toEqual([]);
    expect(plot([], "total").ticks).toEqual([]);
  });
});
