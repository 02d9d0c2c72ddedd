// What a frontend developer does: sign in, try an operation out, authorize with a token.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const target = fileURLToPath(new URL("../../target/", import.meta.url));
const screenshots = join(target, "browser");
mkdirSync(screenshots, { recursive: true });

/** A second visit may transfer less than this, in bytes. */
const REVISIT_LIMIT = 5_000;

let dev;
let browser;
/** The API by its name, and the session token that `dev` prints. */
let api;
let token;

before(async () => {
  dev = spawn(join(target, "debug/poem-hanko"), ["dev"], {
    cwd: mkdtempSync(join(tmpdir(), "poem-hanko-")),
    env: { PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: dev.stdout })) {
    api ??= line.match(/^API +(\S+)/)?.[1];
    token ??= line.match(/^eyJ\S+$/)?.[0];
    if (api && token) break;
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
  dev?.kill();
});

/** A page of a new person, which fails the test for what it should not do. */
async function open(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const faults = [];
  const own = new Set([new URL(api).host, new URL(api).host.replace("localhost", "127.0.0.1")]);
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium reports every 401 there; that is what some of these tests are about.
    const isRefusal = message.text().includes("401");
    if (message.type() === "error" && !isRefusal) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol !== "data:" && !own.has(host)) faults.push(`request to ${request.url()}`);
  });
  page.assertFaultless = () => assert.deepEqual(faults, []);
  return page;
}

const operation = (page, id) => page.locator(`.opblock[id$="-${id}"]`);

/** Presses Try it out and Execute, and returns the status that Swagger UI shows. */
async function execute(page, id) {
  const block = operation(page, id);
  if ((await block.locator(".opblock-body").count()) === 0) await block.locator(".opblock-summary-control").click();
  const tryOut = block.locator(".try-out__btn:not(.cancel)");
  if ((await tryOut.count()) > 0) await tryOut.click();
  const answered = page.waitForResponse((response) => response.request().resourceType() === "fetch");
  await block.locator(".btn.execute").click();
  const response = await answered;
  const shown = await block.locator(".live-responses-table tbody .response-col_status").first().innerText();
  assert.equal(shown.trim().split(/\s/)[0], String(response.status()));
  return response;
}

async function signIn(page) {
  await page.goto(`${api}/dev/sign-in`);
  await page.getByLabel("E-mail address").fill("grace@example.com");
  await page.getByLabel("User name").fill("grace");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${api}/docs`);
  await page.locator(".opblock").first().waitFor();
}

test("the sign-in page looks good, light, dark and on a phone", async () => {
  for (const [name, options] of Object.entries({
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    phone: { viewport: { width: 360, height: 700 } },
  })) {
    const page = await open(options);
    await page.goto(`${api}/dev/sign-in`);
    await page.screenshot({ path: join(screenshots, `sign-in-${name}.png`) });
    const overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.equal(overflows, false);
    page.assertFaultless();
    await page.context().close();
  }
});

test("after signing in, Try it out answers without a pasted token", async () => {
  const page = await open();
  await signIn(page);
  assert.equal(await page.title(), "poem-hanko");
  const response = await execute(page, "getProtectedGreeting");
  assert.equal(response.status(), 200);
  assert.deepEqual(await response.json(), { message: "Hello from protected route!" });
  assert.ok(await page.getByText("getProtectedGreeting").first().isVisible(), "operation ids are shown");
  const block = operation(page, "getProtectedGreeting");
  assert.match(await block.innerText(), /Request duration\s+\d+ ms/i);
  await page.screenshot({ path: join(screenshots, "signed-in.png"), fullPage: true });
  const me = await execute(page, "getMe");
  assert.equal((await me.json()).username, "grace");
  page.assertFaultless();
  await page.context().close();
});

test("signed out it is 401, and a pasted Bearer token is kept over a reload", async () => {
  const page = await open();
  await page.goto(`${api}/docs`);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 401);

  await page.locator(".auth-wrapper .btn.authorize").first().click();
  await page.locator("#auth-bearer-value").fill(token);
  await page.getByRole("button", { name: "Apply credentials" }).first().click();
  await page.screenshot({ path: join(screenshots, "authorize.png") });
  await page.locator(".close-modal").click();
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);

  await page.reload();
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("a session that is ended at Hanko is refused at once", async () => {
  const page = await open();
  await signIn(page);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  await page.goto(`${api}/dev/sign-in`);
  await page.getByText("Signed in as grace@example.com").waitFor();
  await page.screenshot({ path: join(screenshots, "sign-in-again.png") });
  await page.getByRole("button", { name: "End this session" }).click();
  await page.waitForURL(`${api}/dev/sign-in`);
  assert.equal(await page.getByText("Signed in as").count(), 0);
  await page.goto(`${api}/docs`);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 401);
  page.assertFaultless();
  await page.context().close();
});

test("it works by the address as well as by the name", async () => {
  const page = await open();
  await page.goto(`${api.replace("localhost", "127.0.0.1")}/docs`);
  assert.equal((await execute(page, "getGreeting")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("a second visit transfers next to nothing", async () => {
  const page = await open();
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  let transferred = 0;
  session.on("Network.loadingFinished", ({ encodedDataLength }) => (transferred += encodedDataLength));
  const visit = async () => {
    transferred = 0;
    await page.goto(`${api}/docs`, { waitUntil: "networkidle" });
    await page.locator(".opblock").first().waitFor();
    return transferred;
  };
  const first = await visit();
  const second = await visit();
  console.log(`/docs transfers ${first} bytes at first and ${second} at the second visit`);
  assert.ok(second < REVISIT_LIMIT, `${second} bytes`);
  page.assertFaultless();
  await page.context().close();
});

test("scripts are restricted to our own", async () => {
  const response = await fetch(`${api}/docs`);
  const policy = response.headers.get("content-security-policy");
  const scripts = policy.split(";").find((directive) => directive.trim().startsWith("script-src"));
  assert.equal(scripts.trim(), "script-src 'self'");
  assert.ok(policy.startsWith("default-src 'none'"));
});
