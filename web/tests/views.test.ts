import { describe, expect, it } from "vitest";
import { Lines } from "../src/lib/chat";
import { loads, machineLine, modelRows, runningOn, tagged } from "../src/lib/fleet";
import { after, begun, failed, sum, TextLines } from "../src/lib/pull";
import { stateOf } from "../src/lib/live";
import { readRoute, writeRoute } from "../src/lib/route";
import { reach, terms, tries } from "../src/lib/signals";
import { joined } from "../src/lib/traces";
import { isolated, series, sums } from "../src/lib/trends";
import type { TraceRow, TraceView } from "../src/lib/types";
import { lanes, marks } from "../src/lib/waterfall";

describe("progress of a pull", () => {
  const line = (value: object) => JSON.stringify(value);

  it("adds up the layers that were named", () => {
    let part = begun("studio");
    for (const one of [
      { status: "pulling manifest" },
      { status: "pulling a", digest: "sha256:a", total: 100 },
      { status: "pulling a", digest: "sha256:a", total: 100, completed: 40 },
      { status: "pulling b", digest: "sha256:b", total: 10, completed: 10 },
    ]) {
      part = after(part, line(one));
    }
    expect(part.layers.length).toBe(2);
    expect(sum(part)).toEqual({ completed: 50, total: 110 });
    expect(part.state).toBe("running");
    expect(after(part, line({ status: "success" })).state).toBe("done");
    expect(after(part, line({ error: "no such model" })).error).toBe("no such model");
    expect(failed(part, "gone").state).toBe("failed");
  });

  it("is not led astray by what is no line of it", () => {
    const part = begun("");
    for (const text of ["null", "[]", "3", '"x"', "{", '{"digest":7,"total":"x"}']) {
      expect(after(part, text).layers).toEqual([]);
      expect(after(part, text).state).toBe("running");
    }
  });

  it("comes in lines that are cut anywhere", () => {
    const lines = new TextLines();
    expect(lines.feed('{"a"')).toEqual([]);
    expect(lines.feed(":1}\n\n{}\n{")).toEqual(['{"a":1}', "{}"]);
  });
});

describe("what a route went through", () => {
  it("is told where it was more than one try", () => {
    const plain = { attempt_count: 1, hedged: false, continued: false };
    expect(tries(plain)).toBe("");
    expect(tries({ ...plain, attempt_count: 2 })).toBe("2 attempts");
    expect(tries({ attempt_count: 3, hedged: true, continued: true })).toMatch(
      /^3 attempts; two at once.*; the answer broke off/,
    );
  });
});

describe("routes", () => {
  const pages = ["fleet", "requests"];

  it("survive a round trip with any text", () => {
    const query = { model: "a/b:c & d=1#?", tag: "über %" };
    const route = readRoute(writeRoute("requests", "x/y?z", query), pages);
    expect(route).toEqual({ page: "requests", id: "x/y?z", query });
  });

  it("of pages that are none lead to the first", () => {
    expect(readRoute("#/nowhere/%E0%A4%A", pages).page).toBe("fleet");
    expect(readRoute("", pages).page).toBe("fleet");
  });
});

describe("chat lines", () => {
  it("come whole, wherever they are cut", () => {
    const text = '{"message":{"content":"hé"}}\n\n{"done":true}\n{"error":"x"}';
    for (let cut = 0; cut <= text.length; cut++) {
      const lines = new Lines();
      const found = [
        ...lines.feed(text.slice(0, cut)),
        ...lines.feed(text.slice(cut)),
        ...lines.end(),
      ];
      expect(found).toEqual([{ message: { content: "hé" } }, { done: true }, { error: "x" }]);
    }
  });

  it("that are no JSON are an error", () => {
    expect(new Lines().feed("<html>\n")[0]?.error).toBeTruthy();
  });
});

describe("a machine", () => {
  const state = stateOf({
    "node:a": {
      node_id: "a",
      name: "a",
      status: "online",
      address: "10.0.0.7",
      vitals: {},
      platform: {},
      has_agent: false,
    },
  });

  it("without an agent says so", () => {
    expect(machineLine(state.nodes[0]!)).toEqual(["no agent", "10.0.0.7"]);
  });
});

describe("models", () => {
  const engine = (models: object[], loaded: object[] = []) => [
    { engine_id: "e", kind: "ollama", models, loaded, slots: 2, error: "" },
  ];
  const node = (id: string, status = "online") => ({
    node_id: id,
    name: id,
    status,
    vitals: {},
    platform: {},
  });

  it("are one wherever they live, and known by their tag", () => {
    const state = stateOf({
      "node:a": node("a"),
      "node:b": node("b"),
      "engines:a": engine(
        [
          { name: "qwen3:8b", digest: "1" },
          { name: "Qwen3:8B", digest: "1" }, // told twice
        ],
        [{ name: "qwen3:8b", size_bytes: 5 }],
      ),
      "engines:b": engine([{ name: "Qwen3:8b", digest: "2" }, { name: "llama3" }]),
      queue: {
        in_flight: 1,
        waiting: 2,
        requests: [],
        replicas: [
          { node_id: "a", engine_id: "e", model: "qwen3:8b", in_flight: 1, waiting: 2, slots: 4 },
        ],
      },
    });
    const rows = modelRows(state);
    expect(rows.map((row) => [tagged(row.name), row.places.length, row.loaded])).toEqual([
      ["llama3:latest", 1, 0],
      ["qwen3:8b", 2, 1],
    ]);
    expect(rows[1]).toMatchObject({ in_flight: 1, waiting: 2, has_conflict: true });
    const running = runningOn(state.nodes[0]!, loads(state));
    expect(running).toHaveLength(1);
    expect(running[0]).toMatchObject({ name: "qwen3:8b", slots: 4 });
  });

  it("in flight but not in memory are on their way there", () => {
    const state = stateOf({
      "node:a": node("a"),
      "engines:a": engine([{ name: "m:1" }]),
      queue: {
        in_flight: 1,
        waiting: 0,
        requests: [],
        replicas: [
          { node_id: "a", engine_id: "e", model: "m:1", in_flight: 1, waiting: 0, slots: 1 },
        ],
      },
    });
    expect(runningOn(state.nodes[0]!, loads(state))).toMatchObject([{ name: "m:1", loaded: null }]);
  });
});

describe("traces", () => {
  it("are listed once, in the order they came in", () => {
    const rows = (...ids: string[]) => ids.map((request_id) => ({ request_id }) as TraceRow);
    const found = joined(rows("d", "c", "c"), rows("c", "b", "a", "a"));
    expect(found.map((row) => row.request_id)).toEqual(["d", "c", "b", "a"]);
  });
});

describe("decisions", () => {
  it("split a cost into what adds and what takes off", () => {
    const cost = {
      total_ms: 70,
      loaded_state_ms: 100,
      prefix_affinity_ms: -30,
      queue_depth_ms: 0.01,
    };
    const { plus, minus } = terms(cost);
    expect(plus.map((term) => term.signal.name)).toEqual(["Loaded state"]);
    expect(minus.map((term) => term.ms)).toEqual([-30]);
    expect(reach(cost)).toBe(100);
  });
});

describe("waterfall", () => {
  const attempt = (
    outcome: string,
    started_ms: number,
    first_byte_ms: number,
    ended_ms: number,
  ) => ({
    node_id: "n",
    engine_id: "e",
    model: "m",
    outcome,
    status: 0,
    started_ms,
    first_byte_ms,
    ended_ms,
    detail: "",
  });
  const trace = (attempts: object[], more: object = {}) =>
    ({
      row: { queue_ms: 5, total_ms: 100, decode_ms: null },
      attempts,
      load_ms: null,
      prefill_ms: null,
      ...more,
    }) as unknown as TraceView;

  it("shows failed attempts and the one that served", () => {
    const found = lanes(
      trace([attempt("unreachable", 5, -1, 20), attempt("completed", 20, 60, 100)]),
    );
    expect(found.map((lane) => [lane.label, lane.failed])).toEqual([
      ["Waiting", false],
      ["Attempt 1", true],
      ["Attempt 2", false],
    ]);
    expect(found[2]?.bars.map((bar) => [bar.kind, bar.from, bar.to])).toEqual([
      ["head", 20, 60],
      ["body", 60, 100],
    ]);
  });

  it("of a request that was never sent is only waiting", () => {
    const found = lanes(trace([]));
    expect(found).toHaveLength(1);
    expect(found[0]?.bars[0]?.to).toBe(100);
  });

  it("has bars that never run backwards", () => {
    for (const lane of lanes(trace([attempt("cancelled", -1, -1, -1)], { load_ms: 9000 }))) {
      for (const bar of lane.bars) expect(bar.to).toBeGreaterThanOrEqual(bar.from);
    }
  });

  it("has few round marks", () => {
    for (const end of [0, 0.3, 7, 99, 1234, 1e7]) {
      const found = marks(end);
      expect(found.length).toBeGreaterThan(0);
      expect(found.length).toBeLessThanOrEqual(7);
    }
  });
});

describe("trends", () => {
  const point = {
    bucket_s: 120,
    requests: 3,
    failed: 1,
    cancelled: 0,
    retried: 0,
    prompt_tokens: 10,
    output_tokens: 20,
    mean_queue_ms: 1,
    mean_total_ms: 2,
    ttft_p50_ms: null,
    ttft_p90_ms: null,
    ttft_p99_ms: null,
  };

  it("have quiet buckets as zero, and no time where nothing was answered", () => {
    const drawn = series({ from_s: 30, until_s: 241, step_s: 60, points: [point] });
    expect(drawn.times).toEqual([60, 120, 180, 240]);
    expect(drawn.requests).toEqual([0, 3, 0, 0]);
    expect(drawn.p50).toEqual([null, null, null, null]);
  });

  it("know which values stand alone", () => {
    expect(isolated([1, null, 2, 3, null, null, 4])).toEqual([0, 6]);
    expect(isolated([null, undefined])).toEqual([]);
    expect(isolated([])).toEqual([]);
  });

  it("add up", () => {
    expect(sums([point, point])).toMatchObject({ requests: 6, failed: 2, output_tokens: 40 });
  });
});
