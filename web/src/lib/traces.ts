// Pages of traces, as the herd has them.
import { ask } from "./api";
import type { TracePage, TraceRow } from "./types";

export async function traces(
  query: Record<string, string | number>,
  signal?: AbortSignal,
): Promise<TracePage> {
  const page = await ask<TracePage>("/dashboard/api/traces", query, signal);
  return { ...page, traces: joined(page.traces) };
}

/** Lists one behind the other, each request once: what was kept twice, or has moved to the next
 *  page meanwhile, would break every table whose rows are found by it. */
export function joined(...lists: (readonly TraceRow[])[]): TraceRow[] {
  const rows = new Map<string, TraceRow>();
  for (const row of lists.flat()) if (!rows.has(row.request_id)) rows.set(row.request_id, row);
  return [...rows.values()];
}
