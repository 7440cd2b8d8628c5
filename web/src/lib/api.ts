// Questions to the herd. All go to where the page came from.

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly field = "",
  ) {
    super(message);
  }
}

export async function ask<T>(
  path: string,
  query: Record<string, string | number> = {},
  signal?: AbortSignal,
): Promise<T> {
  const given = Object.entries(query).filter(([, value]) => value !== "");
  const search = new URLSearchParams(given.map(([k, v]) => [k, String(v)])).toString();
  const response = await fetch(`${path}${search ? `?${search}` : ""}`, {
    signal: signal ?? null,
    headers: { Accept: "application/json" },
  });
  if (!response.ok) throw await failure(response);
  return (await response.json()) as T;
}

/** A change. The answer's JSON; {} when it has none. */
export async function tell<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(path, {
    method,
    headers: { Accept: "application/json", "Content-Type": "application/json" },
    body: body === undefined ? null : JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  const text = await response.text();
  return (text ? JSON.parse(text) : {}) as T;
}

/** What a refusal says. Where the reader has to log in (again), the page goes there. */
export async function failure(response: Response): Promise<ApiError> {
  if (response.status === 401) location.assign("/dashboard/login");
  const text = await response.text();
  try {
    const body = JSON.parse(text) as { error?: unknown; field?: string };
    const said = typeof body.error === "string" ? body.error : JSON.stringify(body.error);
    return new ApiError(response.status, said, body.field);
  } catch {
    return new ApiError(response.status, text.slice(0, 200) || `status ${response.status}`);
  }
}

/** What went wrong, in words; "" when it was only us who stopped asking. */
export function reason(error: unknown): string {
  if (error instanceof DOMException && error.name === "AbortError") return "";
  if (error instanceof ApiError) return error.message;
  return "The herd does not answer.";
}
