// The signals of a routing decision and what became of its attempts, in words. The words are those
// of the code: `make docs` writes meanings.json from the comments of core/decision.py and request.py.
import meanings from "./meanings.json";
import type { TraceRow } from "./types";

export interface Signal {
  field: string;
  name: string;
  meaning: string;
}

export const SIGNALS: readonly Signal[] = meanings.signals;
export const ELIMINATED: Readonly<Record<string, string>> = meanings.eliminated;
export const OUTCOMES: Readonly<Record<string, string>> = meanings.outcomes;

/** Colours that tell signals apart, as in app.css; of more signals some share one. */
export const COLOURS = 8;

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
