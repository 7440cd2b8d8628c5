// The stream of /api/chat: lines of JSON, cut anywhere. Pure.

export interface ChatLine {
  message?: { content?: string; thinking?: string };
  done?: boolean;
  error?: string;
  eval_count?: number;
  eval_duration?: number;
  prompt_eval_count?: number;
}

/** Feed it text as it comes; gives the whole lines of it. */
export class Lines {
  #rest = "";

  feed(text: string): ChatLine[] {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    return lines.map(parsed).filter((line) => line !== null);
  }

  end(): ChatLine[] {
    const last = parsed(this.#rest);
    this.#rest = "";
    return last ? [last] : [];
  }
}

function parsed(line: string): ChatLine | null {
  if (!line.trim()) return null;
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : null;
  } catch {
    return { error: "the answer could not be read" };
  }
}
