// A frontend on another origin: it asks Hanko about the session and calls the API with the browser's cookie.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import react from "@vitejs/plugin-react";
import { chromium } from "playwright-core";
import { build, preview } from "vite";

const target = fileURLToPath(new URL("../../target/", import.meta.url));
const screenshots = join(target, "frontend");
mkdirSync(screenshots, { recursive: true });

const API_PORT = "8000";
const ALLOWED = "http://localhost:3000";
const NOT_ALLOWED = "http://localhost:3001";

let dev;
let browser;
const pages = [];

before(async () => {
  // The default of CORS_ALLOWED_ORIGINS lets the one origin in, and not the other.
  dev = spawn(join(target, "debug/poem-hanko"), ["dev"], {
    cwd: mkdtempSync(join(tmpdir(), "poem-hanko-")),
    env: { PORT: API_PORT, RUST_LOG: "warn" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let hanko;
  for await (const line of createInterface({ input: dev.stdout })) {
    hanko ??= line.match(/^Local Hanko +(\S+)/)?.[1];
    if (hanko) break;
  }
  assert.ok(hanko, `the API did not start: is port ${API_PORT} taken?`);
  process.env.VITE_API_URL = `http://localhost:${API_PORT}`;
  process.env.VITE_HANKO_API_URL = hanko;
  const config = {
    configFile: false,
    logLevel: "warn",
    root: fileURLToPath(new URL("page", import.meta.url)),
    build: { outDir: join(screenshots, "dist"), emptyOutDir: true },
    plugins: [react()],
  };
  await build(config);
  for (const origin of [ALLOWED, NOT_ALLOWED]) {
    const { port, hostname } = new URL(origin);
    pages.push(await preview({ ...config, preview: { host: hostname, port: Number(port), strictPort: true } }));
  }
  browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
});

after(async () => {
  await browser?.close();
  for (const page of pages) await page.close();
  dev?.kill();
});

async function visit(page, origin) {
  await page.goto(origin);
  const text = async (id) => {
    const element = page.getByTestId(id);
    await element.filter({ hasNotText: "…" }).waitFor();
    return element.innerText();
  };
  return { session: await text("session"), greeting: await text("greeting") };
}

test("a frontend sees 401 signed out, the greeting signed in, and nothing from a foreign origin", async () => {
  const page = await browser.newPage();
  assert.deepEqual(await visit(page, ALLOWED), { session: "signed out", greeting: "401: Missing credentials" });
  assert.ok(await page.getByText("finds no session token").isVisible());
  await page.screenshot({ path: join(screenshots, "signed-out.png") });

  await page.getByRole("link", { name: "Sign in" }).click();
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`http://localhost:${API_PORT}/docs`);
  assert.deepEqual(await visit(page, ALLOWED), { session: "signed in", greeting: "Hello from protected route!" });
  assert.ok(await page.getByText("finds a session token in the cookie").isVisible());
  await page.screenshot({ path: join(screenshots, "signed-in.png") });

  const { greeting } = await visit(page, NOT_ALLOWED);
  assert.match(greeting, /^The browser blocked it/);
  await page.screenshot({ path: join(screenshots, "not-allowed.png") });
});
