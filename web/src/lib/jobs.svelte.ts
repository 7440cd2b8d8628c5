// Pulls and deletions that somebody confirmed here. They go on while one looks at other pages.
import { failure, reason } from "./api";
import { after, begun, failed, TextLines, type Part } from "./pull";

export interface Target {
  node_id: string;
  name: string;
}

export class Job {
  parts = $state.raw<Part[]>([]);
  readonly #stop = new AbortController();

  constructor(
    readonly kind: "pull" | "delete",
    readonly model: string,
    readonly targets: Target[],
  ) {
    this.parts = targets.map((target) => begun(target.name));
  }

  get is_running(): boolean {
    return this.parts.some((part) => part.state === "running");
  }

  stop(): void {
    this.#stop.abort();
  }

  async run(): Promise<void> {
    await Promise.all(this.targets.map((target, index) => this.#one(target, index)));
  }

  async #one(target: Target, index: number): Promise<void> {
    try {
      const response = await fetch(this.kind === "pull" ? "/api/pull" : "/api/delete", {
        method: this.kind === "pull" ? "POST" : "DELETE",
        headers: {
          "Content-Type": "application/json",
          ...(target.node_id && { "X-Herd-Node": target.node_id }),
        },
        body: JSON.stringify({ model: this.model }),
        signal: this.#stop.signal,
      });
      if (!response.ok) throw await failure(response);
      if (this.kind === "pull") await this.#follow(response, index);
      else this.#set(index, (part) => ({ ...part, status: "deleted", state: "done" }));
    } catch (error) {
      const said = reason(error);
      this.#set(index, (part) =>
        said ? failed(part, said) : { ...part, status: "stopped", state: "stopped" },
      );
    }
    this.#set(index, (part) =>
      part.state === "running" ? failed(part, "the connection was lost") : part,
    );
  }

  async #follow(response: Response, index: number): Promise<void> {
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    const lines = new TextLines();
    for (;;) {
      const next = await reader?.read();
      if (!next || next.done) break;
      for (const line of lines.feed(next.value)) this.#set(index, (part) => after(part, line));
    }
  }

  #set(index: number, change: (part: Part) => Part): void {
    this.parts = this.parts.map((part, i) => (i === index ? change(part) : part));
  }
}

class Jobs {
  list = $state.raw<Job[]>([]);

  start(kind: Job["kind"], model: string, targets: Target[]): void {
    const job = new Job(kind, model, targets);
    this.list = [job, ...this.list];
    void job.run();
  }

  clear(job: Job): void {
    this.list = this.list.filter((one) => one !== job);
  }
}

export const jobs = new Jobs();
