import assert from "node:assert/strict";

function variable(name: string): string {
  const value = process.env[name];
  assert(value, `${name} is not set`);
  return value;
}

export const api = variable("API");
export const token = variable("TOKEN");
export const cookie = variable("COOKIE");
export const unverified = variable("UNVERIFIED");

/** Runs the checks of a client and prints how many there were. A failed check ends the program. */
export async function run(client: string, checks: Record<string, () => Promise<void>>) {
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
    } catch (error) {
      console.error(`${client}: ${name}: failed`);
      throw error;
    }
  }
  console.log(`${client}: ${Object.keys(checks).length} checks passed`);
}
