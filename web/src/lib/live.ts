// The herd's state as parts that change one by one; pure, so that tests need no browser.
import type { EnginePart, HealthPart, NodePart, QueuePart, TotalsPart, TracesPart } from "./types";

export type Parts = Readonly<Record<string, unknown>>;

export interface Delta {
  seq: number;
  time_s: number;
  set: Record<string, unknown>;
  gone: string[];
}

export interface Live {
  seq: number;
  parts: Parts;
}

export const NOTHING: Live = { seq: -1, parts: Object.freeze(Object.create(null)) };

export function fromSnapshot(snapshot: Delta): Live {
  return { seq: snapshot.seq, parts: Object.assign(Object.create(null), snapshot.set) };
}

/** The state after a delta; null when one before it is missing, and a snapshot is needed. */
export function applyDelta(live: Live, delta: Delta): Live | null {
  if (delta.seq <= live.seq) return live;
  if (delta.seq !== live.seq + 1) return null;
  const parts = Object.assign(Object.create(null), live.parts, delta.set) as Record<
    string,
    unknown
  >;
  for (const key of delta.gone) delete parts[key];
  return { seq: delta.seq, parts };
}

export interface NodeInfo extends NodePart {
  engines: EnginePart[];
}

export interface State {
  totals: TotalsPart;
  queue: QueuePart;
  traces: TracesPart | null;
  health: HealthPart | null;
  nodes: NodeInfo[];
}

const NO_QUEUE: QueuePart = { in_flight: 0, waiting: 0, replicas: [], requests: [] };
const NO_TOTALS: TotalsPart = {
  version: "",
  nodes: 0,
  nodes_usable: 0,
  models: 0,
  requests: 0,
};
const RANK: Record<string, number> = { online: 0, late: 0, restored: 0, offline: 1 };

/** Parts put together; nodes by name, those that are offline behind the others. */
export function stateOf(parts: Parts): State {
  const nodes: NodeInfo[] = [];
  for (const [key, value] of Object.entries(parts)) {
    if (!key.startsWith("node:")) continue;
    const engines = (parts[`engines:${key.slice(5)}`] ?? []) as EnginePart[];
    nodes.push({ ...(value as NodePart), engines });
  }
  nodes.sort(
    (a, b) =>
      (RANK[a.status] ?? 0) - (RANK[b.status] ?? 0) ||
      a.name.localeCompare(b.name, undefined, { numeric: true }) ||
      a.node_id.localeCompare(b.node_id),
  );
  return {
    totals: (parts.totals as TotalsPart | undefined) ?? NO_TOTALS,
    queue: (parts.queue as QueuePart | undefined) ?? NO_QUEUE,
    traces: (parts.traces as TracesPart | undefined) ?? null,
    health: (parts.health as HealthPart | undefined) ?? null,
    nodes,
  };
}
