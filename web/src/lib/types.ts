// What the herd says over /dashboard/events and /dashboard/api; names are those of the Python side.

export type Status = "online" | "late" | "offline" | "restored";

export interface Gpu {
  name: string;
  vendor?: string;
  memory_total_bytes?: number;
  memory_free_bytes?: number;
  utilisation_percent?: number | null;
  temperature_c?: number | null;
  unified?: boolean;
}

export interface Vitals {
  memory_total_bytes?: number;
  memory_available_bytes?: number;
  swap_used_bytes?: number;
  cpu_count?: number;
  cpu_percent?: number;
  load_1m?: number | null;
  disk_total_bytes?: number;
  disk_free_bytes?: number;
  temperature_c?: number | null;
  throttled?: boolean;
  pressure?: "normal" | "warn" | "critical";
  gpus?: Gpu[];
  doing?: string[];
  quiet_until?: string;
}

export interface NodePart {
  node_id: string;
  name: string;
  address: string;
  status: Status;
  draining: boolean;
  heard_s: number;
  agent_version: string;
  has_agent?: boolean;
  platform: { system?: string; release?: string; machine?: string; chip?: string };
  vitals: Vitals;
}

export interface ModelPart {
  name: string;
  digest?: string;
  size_bytes?: number;
  family?: string;
  parameter_size?: string;
  quantization?: string;
  context_length?: number;
  capabilities?: string[];
}

export interface LoadedPart {
  name: string;
  size_bytes?: number;
  vram_bytes?: number;
  context_length?: number;
  expires_at?: string;
}

export interface EnginePart {
  engine_id: string;
  kind: "ollama" | "openai";
  version: string;
  path: "relay" | "direct";
  address: string;
  slots: number | null;
  error: string;
  models: ModelPart[];
  loaded: LoadedPart[];
}

export interface ReplicaQueue {
  node_id: string;
  engine_id: string;
  model: string;
  runner: string;
  in_flight: number;
  waiting: number;
  slots: number;
  is_loaded: boolean;
}

export interface WaitingPart {
  request_id: string;
  model: string;
  client: string;
  position: number;
  since_s: number;
  expected_wait_s: number;
  node_id: string;
}

export interface QueuePart {
  in_flight: number;
  waiting: number;
  replicas: ReplicaQueue[];
  requests: WaitingPart[];
}

export interface TotalsPart {
  version: string;
  nodes: number;
  nodes_usable: number;
  models: number;
  requests: number;
}

export interface TracesPart {
  written: number;
  dropped: number;
  pending: number;
  last_error: string;
  last_error_s: number;
  file_bytes: number;
}

export interface TraceRow {
  request_id: string;
  started_s: number;
  model: string;
  model_asked: string;
  node_id: string;
  client: string;
  key_name: string;
  path: string;
  kind: string;
  dialect: string;
  status: number;
  error: string;
  outcome: string;
  tags: string[];
  queue_ms: number;
  ttft_ms: number;
  total_ms: number;
  decode_ms: number | null;
  prompt_tokens: number | null;
  output_tokens: number | null;
  attempt_count: number;
  hedged: boolean;
  continued: boolean;
  predicted_ttft_ms: number | null;
  predicted_total_ms: number | null;
}

export interface Attempt {
  node_id: string;
  engine_id: string;
  model: string;
  outcome: string;
  status: number;
  started_ms: number;
  first_byte_ms: number;
  ended_ms: number;
  detail: string;
}

export interface Candidate {
  node_id: string;
  engine_id: string;
  model: string;
  is_loaded: boolean;
  starts_now: boolean;
  cost: Record<string, number>;
}

export interface Rejected {
  node_id: string;
  engine_id: string;
  reason: string;
  detail: string;
}

export interface Decision {
  model_key: string;
  candidates: Candidate[];
  eliminated: Rejected[];
  candidate_count: number;
  eliminated_count: number;
}

export interface TraceView {
  row: TraceRow;
  reason: string;
  stream: boolean;
  prefill_ms: number | null;
  load_ms: number | null;
  predicted_ttft_ms: number | null;
  predicted_total_ms: number | null;
  prompt_tokens_estimate: number;
  max_tokens: number | null;
  load_options: [string, number | boolean][];
  priority: number;
  fallback_models: string[];
  is_load_only: boolean;
  done_reason: string;
  decision: Decision | null;
  attempts: Attempt[];
  refusal: { kind: string; message: string; retry_after_s: number } | null;
  earlier: Decision[];
}

export interface TracePage {
  traces: TraceRow[];
  next: string;
}

export interface TrendPoint {
  bucket_s: number;
  requests: number;
  failed: number;
  cancelled: number;
  retried: number;
  prompt_tokens: number;
  output_tokens: number;
  mean_queue_ms: number;
  mean_total_ms: number;
  ttft_p50_ms: number | null;
  ttft_p90_ms: number | null;
  ttft_p99_ms: number | null;
}

export interface TrendAnswer {
  from_s: number;
  until_s: number;
  step_s: number;
  points: TrendPoint[];
}

export type Severity = "ok" | "info" | "warning" | "critical";

export interface HealthPart {
  overall: Severity;
  counts: Record<Severity, number>;
}

export interface Finding {
  severity: Severity;
  subject: string;
  name: string;
  seen: string;
  advice: string;
  since_s: number;
  node_id: string;
  model: string;
}

export interface CheckState {
  code: string;
  title: string;
  severity: Severity;
  seen: string;
  since_s: number;
  meaning: string;
  advice: string;
  findings: Finding[];
}

export interface Health extends HealthPart {
  time_s: number;
  checks: CheckState[];
}

export interface HealthChange {
  time_s: number;
  code: string;
  subject: string;
  name: string;
  before: Severity;
  after: Severity;
  seen: string;
}

export interface Setting {
  name: string;
  value: unknown;
  configured: unknown;
  default: unknown;
  source: string;
  where: string;
  help: string;
  is_live: boolean;
  locked: string;
}

export interface SettingChange {
  time_s: number;
  name: string;
  before: string;
  after: string;
  who: string;
}

export interface Pin {
  model: string;
  node: string;
  kept_on: string;
  is_loaded: boolean;
  reason: string;
}

/** A machine that asks to be a node; times in seconds since 1970. */
export interface WaitingNode {
  node_id: string;
  name: string;
  address: string;
  first_s: number;
  last_s: number;
}

export interface Joining {
  mode: "auto" | "key" | "approve";
  waiting: WaitingNode[];
}
