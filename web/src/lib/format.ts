// Numbers, times and foreign text as people read them. Pure.

const KEEP = 160;

/** Text from elsewhere, on one line: control and direction characters become visible, length ends. */
export function safe(text: string | null | undefined, keep = KEEP): string {
  if (!text) return "";
  let out = "";
  let length = 0;
  for (const char of text) {
    if (length++ >= keep) return out + "…";
    const code = char.codePointAt(0) ?? 0;
    if (code < 0x20) out += String.fromCodePoint(0x2400 + code);
    else if (code === 0x7f) out += "\u2421";
    else if (isInvisible(code)) out += "\ufffd";
    else out += char;
  }
  return out;
}

function isInvisible(code: number): boolean {
  return (
    (code >= 0x80 && code < 0xa0) || // C1 controls
    (code >= 0x200b && code <= 0x200f) ||
    (code >= 0x2028 && code <= 0x202e) || // line ends, direction overrides
    (code >= 0x2060 && code <= 0x206f) ||
    (code >= 0xd800 && code <= 0xdfff) ||
    code === 0xfeff
  );
}

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];

/** Bytes by thousands, three digits: 49.3 GB. */
export function bytes(count: number | null | undefined): string {
  let value = Math.max(0, count ?? 0);
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${digits(value, unit === 0)} ${UNITS[unit]}`;
}

/** Memory as it is sold: powers of 1024, named GB by habit. */
export function memory(count: number | null | undefined): string {
  const gib = Math.max(0, count ?? 0) / 2 ** 30;
  if (gib >= 1024) return `${digits(gib / 1024, false)} TB`;
  if (gib < 1) return `${Math.round(gib * 1024)} MB`;
  return `${digits(gib, false)} GB`;
}

function digits(value: number, whole: boolean): string {
  if (whole || value >= 99.95) return String(Math.round(value));
  const text = value >= 9.995 ? value.toFixed(1) : value.toFixed(value >= 0.995 ? 1 : 2);
  return text.replace(/\.0+$/, "");
}

/** A duration in ms: 0.4 ms, 82 ms, 1.24 s, 3 m 20 s. Negative: not reached. */
export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const sign = value < 0 ? "−" : "";
  const size = Math.abs(value);
  if (size < 0.05) return "0 ms";
  if (size < 9.95) return `${sign}${size.toFixed(1)} ms`;
  if (size < 999.5) return `${sign}${Math.round(size)} ms`;
  if (size < 9_995) return `${sign}${(size / 1000).toFixed(2)} s`;
  if (size < 99_950) return `${sign}${(size / 1000).toFixed(1)} s`;
  return sign + seconds(size / 1000);
}

/** A duration in seconds as two units: 45 s, 3 m 20 s, 2 h 5 m, 4 d. */
export function seconds(value: number): string {
  const s = Math.max(0, Math.round(value));
  if (s < 60) return `${s} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 ? `${m} m ${s % 60} s` : `${m} m`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 ? `${h} h ${m % 60} m` : `${h} h`;
  return `${Math.floor(h / 24)} d`;
}

/** How long ago, from -> now, both seconds. */
export function ago(then_s: number, now_s: number): string {
  const age = now_s - then_s;
  return age < 2 ? "now" : `${seconds(age)} ago`;
}

/** Counts with thin groups; from 100,000 on shortened. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (value >= 999_500_000) return `${(value / 1e9).toFixed(1)} G`;
  if (value >= 999_500) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 100_000) return `${Math.round(value / 1000)} k`;
  return Math.round(value).toLocaleString("en-US").replace(/,/g, "\u202f");
}

/** A context length: 8K, 128K. */
export function context(tokens: number | null | undefined): string {
  if (!tokens) return "–";
  if (tokens % 1024 === 0) return `${tokens / 1024}K`;
  return tokens >= 10_000 ? `${Math.round(tokens / 1000)}k` : String(tokens);
}

export function percent(share: number): string {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

/** Local time of day, with the date when it was another day. */
export function clock(time_s: number, now_s: number): string {
  const then = new Date(time_s * 1000);
  const time = then.toLocaleTimeString(undefined, { hour12: false });
  if (then.toDateString() === new Date(now_s * 1000).toDateString()) return time;
  return `${then.toLocaleDateString(undefined, { month: "short", day: "numeric" })} ${time}`;
}

/** Tokens per second of an answer, null when nothing tells. */
export function rate(row: {
  output_tokens: number | null;
  decode_ms: number | null;
  ttft_ms: number;
  total_ms: number;
}): number | null {
  const tokens = row.output_tokens ?? 0;
  const span = row.decode_ms ?? (row.ttft_ms >= 0 ? row.total_ms - row.ttft_ms : 0);
  return tokens > 1 && span > 1 ? (tokens * 1000) / span : null;
}

/** When a model leaves memory: "in 4 m", "stays", "". `expires` is RFC 3339. */
export function expiry(expires: string | undefined, now_s: number): string {
  const then = expires ? Date.parse(expires) / 1000 : NaN;
  if (!Number.isFinite(then)) return "";
  const rest = then - now_s;
  if (rest > 86400 * 365) return "stays";
  return rest <= 0 ? "leaving" : `${seconds(rest)} left`;
}
