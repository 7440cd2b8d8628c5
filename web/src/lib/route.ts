// Where the reader is: `#/requests/<id>?model=x`. Pure.

export interface Route {
  page: string;
  id: string;
  query: Record<string, string>;
}

export function readRoute(hash: string, pages: readonly string[]): Route {
  const [path = "", search = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", id = ""] = path.split("/", 2);
  const query = Object.fromEntries([...new URLSearchParams(search)].filter(([, v]) => v));
  return { page: pages.includes(page) ? page : (pages[0] ?? ""), id: decoded(id), query };
}

export function writeRoute(page: string, id = "", query: Record<string, string> = {}): string {
  const given = Object.entries(query).filter(([, value]) => value);
  const search = new URLSearchParams(given).toString();
  return `#/${page}${id ? `/${encodeURIComponent(id)}` : ""}${search ? `?${search}` : ""}`;
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
