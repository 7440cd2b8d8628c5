// What the page Health shows, from what the herd says. Pure.
import type { CheckState, Health, HealthChange, HealthPart, Severity } from "./types";

export const TONE: Record<Severity, string> = {
  ok: "ok",
  info: "accent",
  warning: "warn",
  critical: "bad",
};

/** One line above everything. */
export function headline(health: Health): string {
  const { critical, warning, info } = health.counts;
  const urgent = critical + warning;
  if (critical && urgent === 1) return "One thing to look at, and it is critical";
  if (critical) return `${things(urgent)} to look at, ${critical} of them critical`;
  if (urgent) return `${things(urgent)} to look at`;
  if (info) return `All is well; ${things(info).toLowerCase()} worth knowing`;
  return "All is well";
}

function things(count: number): string {
  return count === 1 ? "One thing" : `${count} things`;
}

/** The number beside the page's name; 0 shows none. */
export function badge(part: HealthPart | null): number {
  return part ? part.counts.critical + part.counts.warning : 0;
}

/** Checks that found something, the worst first, and those that found nothing, by title. */
export function sorted(checks: CheckState[]): { loud: CheckState[]; quiet: CheckState[] } {
  const quiet = checks.filter((check) => check.severity === "ok");
  quiet.sort((a, b) => a.title.localeCompare(b.title));
  return { loud: checks.filter((check) => check.severity !== "ok"), quiet };
}

/** Advice once for all findings of a check where it is the same. */
export function advice(check: CheckState): { shared: string; own: boolean } {
  const all = new Set(check.findings.map((finding) => finding.advice));
  return all.size === 1 ? { shared: [...all][0] ?? "", own: false } : { shared: "", own: true };
}

/** A sentence cut at its backticks: what is between two of them is to be typed. */
export function pieces(text: string): { text: string; typed: boolean }[] {
  const parts = text.split("`");
  if (parts.length % 2 === 0) return [{ text, typed: false }];
  return parts
    .map((part, index) => ({ text: part, typed: index % 2 === 1 }))
    .filter((part) => part.text);
}

/** "began", "over", or how it moved. */
export function movement(change: HealthChange): string {
  if (change.before === "ok") return "began";
  if (change.after === "ok") return "over";
  return change.after === "critical" || change.before === "info" ? "got worse" : "got better";
}
