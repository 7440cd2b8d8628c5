// What a pull or a deletion tells while it is under way. Pure: lines in, state out.

export interface Layer {
  digest: string;
  completed: number;
  total: number;
}

/** One node's part of the work ("" where the herd chooses the node). */
export interface Part {
  node: string;
  status: string;
  layers: Layer[];
  state: "running" | "done" | "failed" | "stopped";
  error: string;
}

interface Line {
  status?: string;
  digest?: string;
  total?: number;
  completed?: number;
  error?: string;
}

export function begun(node: string): Part {
  return { node, status: "asking", layers: [], state: "running", error: "" };
}

/** The part after one more line; what is no line of progress changes nothing. */
export function after(part: Part, text: string): Part {
  let line: Line;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return part;
    line = value;
  } catch {
    return part;
  }
  if (typeof line.error === "string") return failed(part, line.error);
  const status = typeof line.status === "string" ? line.status : part.status;
  if (status === "success") return { ...part, status, state: "done" };
  if (typeof line.digest !== "string" || !Number(line.total)) return { ...part, status };
  const layer = {
    digest: line.digest,
    completed: Number(line.completed) || 0,
    total: Number(line.total),
  };
  const known = part.layers.some((one) => one.digest === layer.digest);
  const layers = known
    ? part.layers.map((one) => (one.digest === layer.digest ? layer : one))
    : [...part.layers, layer];
  return { ...part, status, layers };
}

export function failed(part: Part, error: string): Part {
  return { ...part, state: "failed", error };
}

/** Bytes of all layers that were named so far. */
export function sum(part: Part): { completed: number; total: number } {
  let completed = 0;
  let total = 0;
  for (const layer of part.layers) {
    completed += Math.min(layer.completed, layer.total);
    total += layer.total;
  }
  return { completed, total };
}

/** Lines out of text that is cut anywhere. */
export class TextLines {
  #rest = "";

  feed(text: string): string[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.filter((line) => line.trim());
  }
}
