// A frontend on another origin: Hanko's own SDK finds the session, and the API accepts the allowed origins.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { preview } from "vite";
import { launchOptions } from "../chromium.mjs";

// The API and its local Hanko, and where the screenshots go: `run` sets them, and has built the page for them.
const { API: api, HANKO: hanko, SCREENSHOTS: screenshots } = process.env;
/** `dev` allows every http origin on loopback. */
const ALLOWED = "http://localhost:5173";
const OTHER_PORT = "http://localhost:3001";
/** Another name of this machine, which is not one of those that `dev` knows. */
const NOT_ALLOWED = "http://app.localhost:3001";

let browser;
const sites = [];

before(async () => {
  for (const origin of [ALLOWED, OTHER_PORT]) {
    const { hostname: host, port } = new URL(origin);
    const root = fileURLToPath(new URL(".", import.meta.url));
    sites.push(await preview({ root, preview: { host, port: Number(port), strictPort: true, allowedHosts: [".localhost"] } }));
  }
  browser = await chromium.launch(launchOptions);
});

after(async () => {
  await browser?.close();
  for (const site of sites) await site.close();
});

/** Opens a page in a new browser context, which records its errors. */
async function open() {
  const context = await browser.newContext();
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    const isRefusal = / status of 401 \(Unauthorized\)$/.test(message.text());
    if (message.type() === "error" && !isRefusal) page.faults.push(message.text());
  });
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (protocol !== "data:" && ![ALLOWED, OTHER_PORT, NOT_ALLOWED, api, hanko].includes(origin)) {
      page.faults.push(`request to ${request.url()}`);
    }
  });
  return page;
}

async function signIn(page) {
  await page.getByLabel("E-mail address").fill("grace@example.com");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${api}/docs`);
}

const shown = (page, id) => page.getByTestId(id).innerText();

test("signed out, the API's 401 is shown", async () => {
  const page = await open();
  await page.goto(ALLOWED);
  assert.equal(await shown(page, "hanko"), "Nobody is signed in");
  assert.equal(await shown(page, "greeting"), "401 Missing credentials");
  await page.screenshot({ path: join(screenshots, "signed-out.png") });
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("signed in, the API's greeting is shown, until the SDK signs out", async () => {
  const page = await open();
  await page.goto(ALLOWED);
  await page.getByRole("link", { name: "Sign in" }).click();
  await signIn(page);
  const [{ value: token }] = await page.context().cookies(ALLOWED);

  await page.goto(ALLOWED);
  assert.equal(await shown(page, "hanko"), "Signed in as grace@example.com");
  assert.equal(await shown(page, "greeting"), "Hello from protected route!");
  assert.equal(await shown(page, "me"), "Signed in as grace@example.com");
  await page.screenshot({ path: join(screenshots, "signed-in.png") });

  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByText("Nobody is signed in").waitFor();
  assert.equal(await shown(page, "greeting"), "401 Missing credentials");
  assert.deepEqual(await page.context().cookies(ALLOWED), []);
  // A copy of the token is useless: the API has received Hanko's webhook.
  const response = await fetch(`${api}/protected`, { headers: { Authorization: `Bearer ${token}` } });
  assert.equal(response.status, 401);
  assert.equal((await response.json()).type, "/problems/invalid-token");
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("from any port of localhost, the API's greeting is shown", async () => {
  const page = await open();
  await page.goto(`${api}/dev/sign-in`);
  await signIn(page);
  await page.goto(OTHER_PORT);
  assert.equal(await shown(page, "hanko"), "Signed in as grace@example.com");
  assert.equal(await shown(page, "greeting"), "Hello from protected route!");
  assert.equal(await shown(page, "me"), "Signed in as grace@example.com");
  assert.deepEqual(page.faults, []);
  await page.context().close();
});

test("from an origin that is not allowed, the browser blocks the API's responses", async () => {
  const page = await open();
  await page.goto(NOT_ALLOWED);
  await page.getByRole("alert").waitFor();
  page.faults = [];
  const isBlocked = (path, options) =>
    page.evaluate(([url, options]) => fetch(url, options).then(() => false, () => true), [api + path, options]);
  assert.ok(await isBlocked("/protected", { credentials: "include" }));
  assert.ok(await isBlocked("/me", { headers: { Authorization: "Bearer any" } }));
  await page.screenshot({ path: join(screenshots, "not-allowed.png") });
  const faults = page.faults.filter((fault) => fault !== "Failed to load resource: net::ERR_FAILED");
  assert.equal(faults.length, 2, faults.join("\n"));
  for (const fault of faults) {
    assert.ok(fault.startsWith(`Access to fetch at '${api}/`), fault);
    assert.ok(fault.includes(`from origin '${NOT_ALLOWED}' has been blocked by CORS policy`), fault);
  }
  await page.context().close();
});
