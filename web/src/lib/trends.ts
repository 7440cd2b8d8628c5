// Trend points as columns for charts, quiet buckets filled in. Pure.
import type { TrendAnswer, TrendPoint } from "./types";

export interface Series {
  times: number[];
  requests: number[];
  failed: number[];
  cancelled: number[];
  prompt: number[];
  output: number[];
  p50: (number | null)[];
  p90: (number | null)[];
  p99: (number | null)[];
  queue: (number | null)[];
  total: (number | null)[];
}

const MOST = 3000;

export function series(answer: TrendAnswer): Series {
  const { step_s, from_s, until_s } = answer;
  const points = new Map(answer.points.map((point) => [point.bucket_s, point]));
  const out: Series = {
    times: [],
    requests: [],
    failed: [],
    cancelled: [],
    prompt: [],
    output: [],
    p50: [],
    p90: [],
    p99: [],
    queue: [],
    total: [],
  };
  const first = Math.ceil(from_s / step_s) * step_s;
  for (let at = first; at < until_s && out.times.length < MOST; at += step_s) {
    const point = points.get(at);
    out.times.push(at);
    out.requests.push(point?.requests ?? 0);
    out.failed.push(point?.failed ?? 0);
    out.cancelled.push(point?.cancelled ?? 0);
    out.prompt.push(point?.prompt_tokens ?? 0);
    out.output.push(point?.output_tokens ?? 0);
    out.p50.push(point?.ttft_p50_ms ?? null);
    out.p90.push(point?.ttft_p90_ms ?? null);
    out.p99.push(point?.ttft_p99_ms ?? null);
    out.queue.push(point?.mean_queue_ms ?? null);
    out.total.push(point?.mean_total_ms ?? null);
  }
  return out;
}

/** Where a line has a value and none on either side: it would be drawn as nothing. */
export function isolated(values: readonly (number | null | undefined)[]): number[] {
  const is = (at: number) => values[at] !== null && values[at] !== undefined;
  return values.flatMap((_, at) => (is(at) && !is(at - 1) && !is(at + 1) ? [at] : []));
}

type Sum = "requests" | "failed" | "cancelled" | "retried" | "prompt_tokens" | "output_tokens";

export function sums(points: readonly TrendPoint[]): Record<Sum, number> {
  const total = {
    requests: 0,
    failed: 0,
    cancelled: 0,
    retried: 0,
    prompt_tokens: 0,
    output_tokens: 0,
  };
  for (const point of points) {
    for (const name of Object.keys(total) as Sum[]) total[name] += point[name];
  }
  return total;
}
