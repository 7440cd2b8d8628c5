// Views over the live state that several pages need. Pure.
import type { NodeInfo, State } from "./live";
import type { EnginePart, LoadedPart, ModelPart, ReplicaQueue } from "./types";

export interface Place {
  node: NodeInfo;
  engine: EnginePart;
  model: ModelPart;
  loaded: LoadedPart | null;
  load: ReplicaQueue | null;
}

export interface ModelRow {
  name: string;
  model: ModelPart;
  places: Place[];
  loaded: number;
  in_flight: number;
  waiting: number;
  has_conflict: boolean;
}

const key = (node: string, engine: string, model: string) => `${node}\u0000${engine}\u0000${model}`;

/** A name with its tag, lower-case: `Llama3` and `llama3:latest` are one model. */
export function tagged(name: string): string {
  const lower = name.toLowerCase();
  return lower.lastIndexOf(":") > lower.lastIndexOf("/") ? lower : `${lower}:latest`;
}

export function loads(state: State): Map<string, ReplicaQueue> {
  const found = new Map<string, ReplicaQueue>();
  for (const one of state.queue.replicas) {
    found.set(key(one.node_id, one.engine_id, tagged(one.model)), one);
  }
  return found;
}

/** Every model of the fleet with the places it lives at; offline nodes count too. */
export function modelRows(state: State): ModelRow[] {
  const load = loads(state);
  const rows = new Map<string, ModelRow>();
  for (const node of state.nodes) {
    for (const engine of node.engines) {
      const loaded = new Map(engine.loaded.map((one) => [tagged(one.name), one]));
      const listed = new Set<string>(); // an engine may name one model twice
      for (const model of engine.models) {
        const name = tagged(model.name);
        if (listed.has(name)) continue;
        listed.add(name);
        let row = rows.get(name);
        if (!row) {
          row = {
            name: model.name,
            model,
            places: [],
            loaded: 0,
            in_flight: 0,
            waiting: 0,
            has_conflict: false,
          };
          rows.set(name, row);
        }
        const place = {
          node,
          engine,
          model,
          loaded: (node.status !== "offline" && loaded.get(name)) || null,
          load: load.get(key(node.node_id, engine.engine_id, name)) ?? null,
        };
        row.places.push(place);
        row.loaded += place.loaded ? 1 : 0;
        row.in_flight += place.load?.in_flight ?? 0;
        row.waiting += place.load?.waiting ?? 0;
        if (model.digest && row.model.digest && model.digest !== row.model.digest) {
          row.has_conflict = true;
        }
      }
    }
  }
  // Where it is in memory comes first; the order is else that of the nodes.
  for (const row of rows.values()) row.places.sort((a, b) => Number(!a.loaded) - Number(!b.loaded));
  return [...rows.values()].sort((a, b) =>
    a.name.localeCompare(b.name, undefined, { numeric: true }),
  );
}

export interface Running {
  engine: EnginePart;
  name: string;
  loaded: LoadedPart | null;
  load: ReplicaQueue | null;
  slots: number | null;
}

/** What is in a node's memory or on its way there. */
export function runningOn(node: NodeInfo, load: Map<string, ReplicaQueue>): Running[] {
  const rows: Running[] = [];
  for (const engine of node.engines) {
    const seen = new Set<string>();
    for (const loaded of engine.loaded) {
      const name = tagged(loaded.name);
      seen.add(name);
      const own = load.get(key(node.node_id, engine.engine_id, name)) ?? null;
      rows.push({
        engine,
        name: loaded.name,
        loaded,
        load: own,
        slots: own?.slots ?? engine.slots,
      });
    }
    for (const one of load.values()) {
      if (one.node_id !== node.node_id || one.engine_id !== engine.engine_id) continue;
      if (!seen.has(tagged(one.model))) {
        rows.push({ engine, name: one.model, loaded: null, load: one, slots: one.slots });
      }
    }
  }
  return rows;
}

export interface NodeLoad {
  in_flight: number;
  waiting: number;
}

export function nodeLoads(state: State): Map<string, NodeLoad> {
  const found = new Map<string, NodeLoad>();
  for (const one of state.queue.replicas) {
    const sum = found.get(one.node_id) ?? { in_flight: 0, waiting: 0 };
    sum.in_flight += one.in_flight;
    sum.waiting += one.waiting;
    found.set(one.node_id, sum);
  }
  return found;
}

export interface VideoMemory {
  total: number;
  used: number;
  utilisation: number | null;
  count: number;
  name: string;
  unified: boolean;
}

/** All graphics cards of a node as one bar; null when none tells its memory. */
export function videoMemory(node: NodeInfo): VideoMemory | null {
  const gpus = (node.vitals.gpus ?? []).filter((gpu) => gpu.memory_total_bytes);
  const first = gpus[0];
  if (!first) return null;
  const total = gpus.reduce((sum, gpu) => sum + (gpu.memory_total_bytes ?? 0), 0);
  const free = gpus.reduce((sum, gpu) => sum + (gpu.memory_free_bytes ?? 0), 0);
  const busy = gpus.map((gpu) => gpu.utilisation_percent).filter((one) => typeof one === "number");
  return {
    total,
    used: Math.max(0, total - free),
    utilisation: busy.length ? busy.reduce((a, b) => a + b, 0) / busy.length : null,
    count: gpus.length,
    name: first.name,
    unified: Boolean(first.unified),
  };
}

const SYSTEMS: Record<string, string> = { darwin: "macOS", linux: "Linux", windows: "Windows" };

/** What a machine is, in one line. */
export function machineLine(node: NodeInfo): string[] {
  const { platform, vitals } = node;
  const line: string[] = [];
  if (node.has_agent === false) line.push("no agent", node.address);
  if (platform.chip) line.push(platform.chip);
  if (platform.system) line.push(SYSTEMS[platform.system] ?? platform.system);
  if (vitals.cpu_count) line.push(`${vitals.cpu_count} cores`);
  return line;
}
