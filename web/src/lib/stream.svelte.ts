// Follows the herd by server-sent events and holds the only live state of the page.
import { ask } from "./api";
import { applyDelta, fromSnapshot, NOTHING, stateOf, type Delta, type Live } from "./live";

export type Link = "connecting" | "live" | "lost";

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const STALE_MS = 15_000; // three pings of the herd: a frozen router closes no connection

class Herd {
  #live = $state.raw<Live>(NOTHING);
  link = $state<Link>("connecting");
  now_s = $state(Date.now() / 1000);
  heard_ms = $state(0); // on the browser's clock
  key = $state(""); // whose key the reader is logged in with; "" where none is needed
  state = $derived(stateOf(this.#live.parts));
  known = $derived(this.#live.seq >= 0);
  names = $derived(new Map(this.state.nodes.map((node) => [node.node_id, node.name])));

  #source: EventSource | null = null;
  #offset_s = 0;
  #opened_ms = 0;
  #failures = 0;
  #timer = 0;

  start(): void {
    this.#open();
    void this.#knock();
    setInterval(() => {
      this.now_s = Date.now() / 1000 + this.#offset_s;
      this.#doubt();
    }, 1000);
    const again = () => {
      if (document.visibilityState !== "visible") return;
      if (this.link !== "live") this.#open();
      else this.#doubt();
    };
    document.addEventListener("visibilitychange", again);
    addEventListener("online", again);
    addEventListener("pagehide", () => this.#source?.close());
  }

  /** A node's name, its id when it is no longer known. */
  name(id: string): string {
    return this.names.get(id) ?? id;
  }

  /** No news for too long, on a connection that looks open: what is shown may be old. */
  #doubt(): void {
    if (Date.now() - Math.max(this.heard_ms, this.#opened_ms) < STALE_MS) return;
    if (this.link === "live") this.link = "lost";
    this.#open();
  }

  #open(): void {
    clearTimeout(this.#timer);
    this.#opened_ms = Date.now();
    this.#source?.close();
    const source = new EventSource("/dashboard/events");
    this.#source = source;
    source.addEventListener("snapshot", (event) => {
      const snapshot = JSON.parse(event.data as string) as Delta;
      this.#live = fromSnapshot(snapshot);
      this.#heard(snapshot);
    });
    source.addEventListener("delta", (event) => {
      const delta = JSON.parse(event.data as string) as Delta;
      const next = applyDelta(this.#live, delta);
      if (next === null) return this.#open();
      this.#live = next;
      this.#heard(delta);
    });
    source.addEventListener("ping", () => (this.heard_ms = Date.now()));
    source.onerror = () => {
      source.close(); // our own retries: the browser's give up at a 503
      if (source !== this.#source) return;
      this.link = "lost";
      const wait = RETRY_MS[Math.min(this.#failures++, RETRY_MS.length - 1)];
      this.#timer = window.setTimeout(() => this.#open(), wait);
      void this.#knock();
    };
  }

  /** A session that has ended looks like a lost connection to an EventSource; `ask` tells. */
  async #knock(): Promise<void> {
    try {
      this.key = (await ask<{ key: string }>("/dashboard/api/session")).key;
    } catch {
      // The herd does not answer, and the link says so; or the login page is on its way.
    }
  }

  #heard(delta: Delta): void {
    this.link = "live";
    this.#failures = 0;
    this.heard_ms = Date.now();
    this.#offset_s = delta.time_s - Date.now() / 1000;
    this.now_s = delta.time_s;
  }
}

export const herd = new Herd();
