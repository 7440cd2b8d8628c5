// The stretches of one request's life, for the waterfall. Pure.
import type { TraceView } from "./types";

export interface Bar {
  from: number; // ms since arrival
  to: number;
  kind: "wait" | "head" | "body" | "failed" | "load" | "prefill" | "decode";
  title: string;
}

export interface Lane {
  label: string;
  node_id: string;
  note: string;
  failed: boolean;
  bars: Bar[];
}

const GOOD = new Set(["completed", "cancelled", "client_error"]);

/** One lane for waiting, one an attempt, one for what the engine told. */
export function lanes(trace: TraceView): Lane[] {
  const { row } = trace;
  const found: Lane[] = [];
  const wait = trace.attempts.length ? row.queue_ms : row.total_ms;
  found.push({
    label: "Waiting",
    node_id: "",
    note: "",
    failed: false,
    bars: wait > 0 ? [{ from: 0, to: wait, kind: "wait", title: "waiting for a slot" }] : [],
  });
  trace.attempts.forEach((attempt, index) => {
    const start = Math.max(0, attempt.started_ms);
    const end = Math.max(start, attempt.ended_ms);
    const failed = !GOOD.has(attempt.outcome);
    const first = attempt.first_byte_ms;
    const bars: Bar[] = [];
    if (first >= start && first <= end) {
      bars.push({
        from: start,
        to: first,
        kind: failed ? "failed" : "head",
        title: "until the first byte",
      });
      bars.push({ from: first, to: end, kind: failed ? "failed" : "body", title: "answer" });
    } else {
      bars.push({ from: start, to: end, kind: failed ? "failed" : "head", title: "no byte came" });
    }
    found.push({
      label: `Attempt ${index + 1}`,
      node_id: attempt.node_id,
      note: attempt.outcome,
      failed,
      bars,
    });
  });
  const engine = engineLane(trace);
  if (engine) found.push(engine);
  return found;
}

function engineLane(trace: TraceView): Lane | null {
  const last = trace.attempts.at(-1);
  const spans: [Bar["kind"], number | null, string][] = [
    ["load", trace.load_ms, "load"],
    ["prefill", trace.prefill_ms, "prompt"],
    ["decode", trace.row.decode_ms, "answer"],
  ];
  if (!last || spans.every(([, span]) => !span)) return null;
  // The engine tells durations, not when: they end with the answer.
  const sum = spans.reduce((total, [, span]) => total + (span ?? 0), 0);
  let at = Math.max(0, last.ended_ms - sum);
  const bars: Bar[] = [];
  for (const [kind, span, title] of spans) {
    if (!span) continue;
    bars.push({ from: at, to: at + span, kind, title });
    at += span;
  }
  return { label: "Engine", node_id: "", note: "as it tells", failed: false, bars };
}

/** Round marks on an axis from 0 to `end`, at most six. */
export function marks(end: number): number[] {
  if (!(end > 0)) return [0];
  const raw = end / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw) ?? raw;
  const found: number[] = [];
  for (let at = 0; at <= end * 1.0001; at += step) found.push(at);
  return found;
}
