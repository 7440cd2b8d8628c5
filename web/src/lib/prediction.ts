// Predicted against actual times of requests, as points of a square whose axes are logarithmic.

import type { TraceRow } from "./types";

export interface Point {
  row: TraceRow;
  predicted_ms: number;
  actual_ms: number;
  x: number; // predicted, 0 to 1
  y: number; // actual, 0 to 1
}

export interface Plot {
  points: Point[];
  ticks: { at: number; ms: number }[];
  close: number; // share within FACTOR
}

/** Lengths of answers cannot be known, so within this factor a prediction is good. */
export const FACTOR = 3;

type Which = "ttft" | "total";

/** The answered requests of `rows`; both axes span the same powers of ten. */
export function plot(rows: readonly TraceRow[], which: Which): Plot {
  const seen = rows
    .map((row) => ({
      row,
      predicted_ms: row[`predicted_${which}_ms`] ?? 0,
      actual_ms: row[`${which}_ms`],
    }))
    .filter((one) => one.row.status === 200 && one.predicted_ms > 0 && one.actual_ms > 0);
  if (!seen.length) return { points: [], ticks: [], close: 0 };
  const all = seen.flatMap((one) => [one.predicted_ms, one.actual_ms]);
  const low = Math.floor(Math.log10(Math.min(...all)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...all))));
  const at = (value: number) => (Math.log10(value) - low) / (high - low);
  const isClose = (one: { predicted_ms: number; actual_ms: number }) =>
    Math.abs(Math.log(one.actual_ms / one.predicted_ms)) <= Math.log(FACTOR);
  return {
    points: seen.map((one) => ({ ...one, x: at(one.predicted_ms), y: at(one.actual_ms) })),
    ticks: Array.from({ length: high - low + 1 }, (_, index) => ({
      at: index / (high - low),
      ms: 10 ** (low + index),
    })),
    close: seen.filter(isClose).length / seen.length,
  };
}
