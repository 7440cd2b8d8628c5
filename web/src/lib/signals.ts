// The signals of a routing decision: what each term of a candidate's cost means.
import type { TraceRow } from "./types";

export interface Signal {
  field: string;
  name: string;
  meaning: string;
}

export const SIGNALS: readonly Signal[] = [
  { field: "loaded_state_ms", name: "Loading", meaning: "the model is not in memory there" },
  { field: "memory_fit_ms", name: "Memory fit", meaning: "other models would have to leave" },
  { field: "queue_depth_ms", name: "Queue", meaning: "work that is ahead of the request" },
  { field: "latency_history_ms", name: "Speed", meaning: "prompt and answer at the learned rates" },
  {
    field: "role_affinity_ms",
    name: "Role",
    meaning: "delay for others, a scarce machine kept free",
  },
  { field: "availability_trend_ms", name: "Trend", meaning: "slower or faster now than learned" },
  { field: "context_fit_ms", name: "Context", meaning: "a reload for another context length" },
  {
    field: "prefix_affinity_ms",
    name: "Prefix",
    meaning: "prompt already cached there, or cache lost",
  },
];

export interface Segment {
  signal: Signal;
  index: number;
  ms: number;
}

/** What makes up a cost, and what is taken off it; terms too small to matter are left out. */
export function terms(cost: Record<string, number>): { plus: Segment[]; minus: Segment[] } {
  const plus: Segment[] = [];
  const minus: Segment[] = [];
  SIGNALS.forEach((signal, index) => {
    const value = cost[signal.field] ?? 0;
    if (value > 0.05) plus.push({ signal, index, ms: value });
    else if (value < -0.05) minus.push({ signal, index, ms: value });
  });
  return { plus, minus };
}

/** The length of a candidate's bar before anything is taken off. */
export function reach(cost: Record<string, number>): number {
  return terms(cost).plus.reduce((sum, term) => sum + term.ms, 0);
}

export const ELIMINATED: Record<string, string> = {
  offline: "the node is silent or said goodbye",
  draining: "the node takes no new requests",
  quiet_hours: "the node takes no new requests at this time of the week",
  engine_error: "its agent cannot use the engine",
  does_not_fit: "the model is larger than the machine's memory",
  missing_capability: "the model there does something else than was asked",
  digest_conflict: "another model under the same name",
  cloud_model: "the prompt would leave the network",
  already_tried: "an attempt of this request failed there",
  unreachable: "a connection failed since its last report",
  failing: "failed in a row what others answered",
};

export const OUTCOMES: Record<string, string> = {
  completed: "whole answer",
  client_error: "engine refused the request",
  engine_error: "engine failed",
  engine_busy: "engine was busy",
  unreachable: "no connection",
  closed_early: "closed before the first byte",
  garbage: "not HTTP",
  silent: "nothing came in time",
  truncated: "broke off",
  cancelled: "client left",
};

/** What the route went through, "" where the first node answered. */
export function tries(row: Pick<TraceRow, "attempt_count" | "hedged" | "continued">): string {
  if (row.attempt_count < 2) return "";
  const told = [`${row.attempt_count} attempts`];
  if (row.hedged) told.push("two at once, as the first was silent");
  if (row.continued) told.push("the answer broke off and another node went on");
  return told.join("; ");
}

/** An enum value as words. */
export function words(value: string): string {
  return value.replaceAll("_", " ");
}
