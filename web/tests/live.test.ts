import { describe, expect, it } from "vitest";
import { applyDelta, fromSnapshot, NOTHING, stateOf, type Delta } from "../src/lib/live";

const delta = (seq: number, set: Record<string, unknown>, gone: string[] = []): Delta => ({
  seq,
  time_s: 1,
  set,
  gone,
});

describe("deltas", () => {
  it("set, replace and take away parts, and leave the state before alone", () => {
    const first = fromSnapshot(delta(4, { a: 1, b: { x: 1 } }));
    const second = applyDelta(first, delta(5, { b: { x: 2 }, c: 3 }, ["a"]));
    expect({ ...second?.parts }).toEqual({ b: { x: 2 }, c: 3 });
    expect({ ...first.parts }).toEqual({ a: 1, b: { x: 1 } });
  });

  it("that are old change nothing", () => {
    const live = fromSnapshot(delta(4, { a: 1 }));
    expect(applyDelta(live, delta(4, { a: 2 }))).toBe(live);
    expect(applyDelta(live, delta(2, { a: 2 }))).toBe(live);
  });

  it("after a gap ask for a snapshot", () => {
    expect(applyDelta(fromSnapshot(delta(4, {})), delta(6, {}))).toBeNull();
  });

  it("may carry names that objects have already", () => {
    const live = fromSnapshot(delta(1, JSON.parse('{"__proto__": 1, "constructor": 2}')));
    const next = applyDelta(live, delta(2, {}, ["constructor"]));
    expect(Object.keys(next?.parts ?? {})).not.toContain("constructor");
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  });

  it("end where one snapshot would", () => {
    let live = fromSnapshot(delta(0, { n: 0 }));
    for (let seq = 1; seq <= 500; seq++) {
      const next = applyDelta(
        live,
        delta(seq, { n: seq, [`k${seq % 7}`]: seq }, [`k${(seq + 1) % 7}`]),
      );
      if (!next) throw new Error("gap");
      live = next;
    }
    expect(live.parts.n).toBe(500);
    expect(Object.keys(live.parts).length).toBeLessThanOrEqual(8);
  });
});

describe("state", () => {
  const node = (id: string, name: string, status: string) => ({
    node_id: id,
    name,
    status,
    vitals: {},
    platform: {},
  });

  it("of nothing is empty", () => {
    const state = stateOf(NOTHING.parts);
    expect(state.nodes).toEqual([]);
    expect(state.queue.in_flight).toBe(0);
  });

  it("joins engines to nodes; those that are gone come last", () => {
    const state = stateOf({
      "node:1": node("1", "b-10", "online"),
      "node:2": node("2", "b-9", "online"),
      "node:3": node("3", "a", "offline"),
      "engines:1": [{ engine_id: "e", models: [], loaded: [] }],
    });
    expect(state.nodes.map((one) => one.name)).toEqual(["b-9", "b-10", "a"]);
    expect(state.nodes.map((one) => one.engines.length)).toEqual([0, 1, 0]);
  });
});
