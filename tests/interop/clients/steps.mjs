// What the JavaScript clients share: `ok NAME RESULT` or `FAIL NAME REASON`, a line a step.

export const URL = process.argv[2];
export const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
};
export const TOOL = {
  type: "function",
  function: { name: "weather", description: "Weather of a city", parameters: WEATHER },
};

/** All of an async iterable, each item mapped. */
export async function all(items, map = (item) => item) {
  const found = [];
  for await (const item of items) found.push(map(item));
  return found;
}

/** What `work` must be refused with: these fields of the error. */
export async function refused(work, ...fields) {
  try {
    await work();
  } catch (error) {
    return [error.constructor.name, ...fields.map((field) => error[field] ?? null)];
  }
  throw new Error("was not refused");
}

/** Runs the steps in order, whatever happens to each. */
export async function run(steps) {
  for (const [name, work] of Object.entries(steps)) {
    let told;
    try {
      told = `ok ${name} ${JSON.stringify(await work(), withoutId)}`;
    } catch (error) {
      told = `FAIL ${name} ${error?.constructor?.name}: ${error?.message ?? error}`;
    }
    console.log(told.replaceAll("\n", "\\n"));
  }
}

function withoutId(key, value) {
  return key === "request_id" || key === "requestID" || key === "_request_id" ? undefined : value;
}
