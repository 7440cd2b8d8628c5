// What the page Settings shows and sends. Pure.
import type { Setting } from "./types";

/** Where a value comes from, in words. */
export function origin(one: Setting): string {
  switch (one.source) {
    case "dashboard":
      return "changed here";
    case "default":
      return "default";
    default:
      return one.where || one.source;
  }
}

/** A value as text; "none" for nothing, lists with commas. */
export function written(value: unknown): string {
  if (value === null || value === undefined || value === "") return "none";
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

/** What was typed as the number to send; null for what is none. */
export function typed(text: string): number | null {
  const value = Number(text.trim());
  return text.trim() && Number.isFinite(value) ? value : null;
}

/** The JSON text of a value in the record of changes, for people. */
export function recorded(text: string): string {
  if (!text) return "as configured";
  try {
    return written(JSON.parse(text));
  } catch {
    return text;
  }
}

/** allow_destructive -> Allow destructive */
export function label(name: string): string {
  const words = name
    .replace(/_s$/, " (s)")
    .replace(/_bytes$/, " (bytes)")
    .replaceAll("_", " ");
  return (words.charAt(0).toUpperCase() + words.slice(1)).replace(/^Sse\b/, "SSE");
}
