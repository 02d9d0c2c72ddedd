// What a frontend developer does: sign in, try an operation out, authorize with a token.
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { launchOptions } from "../chromium.mjs";

// The API by its name, a session token, and where the screenshots go: `run` sets them.
const { API: api, TOKEN: token, SCREENSHOTS: screenshots } = process.env;
const apiByAddress = api.replace("localhost", "127.0.0.1");

/** A second visit may transfer less than this, in bytes. */
const REVISIT_LIMIT = 5_000;

let browser;
before(async () => (browser = await chromium.launch(launchOptions)));
after(() => browser?.close());

/** A page of a new person, which fails the test for what it should not do. */
async function open(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium reports every 401 there; that is what some of these tests are about.
    const isRefusal = / status of 401 \(Unauthorized\)$/.test(message.text());
    if (message.type() === "error" && !isRefusal) faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (!["data:", "about:"].includes(protocol) && ![api, apiByAddress].includes(origin)) faults.push(`request to ${request.url()}`);
  });
  await page.exposeFunction("reportViolation", (violation) => faults.push(`policy: ${violation}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sourceFile }) =>
      window.reportViolation(`${violatedDirective} blocked ${blockedURI} in ${sourceFile}`),
    );
  });
  page.assertFaultless = () => assert.deepEqual(faults, []);
  return page;
}

const operation = (page, id) => page.locator(`.opblock[id$="-${id}"]`);

/** Opens an operation, presses Try it out and Execute, and returns the response once Swagger UI shows its status. */
async function execute(page, id) {
  const block = operation(page, id);
  await block.waitFor();
  if (!(await hasClass(block, "is-open"))) await block.locator(".opblock-summary-control").click();
  // The same button takes it back; count() and its like do not wait, so this one is waited for first.
  const tryOut = block.locator(".try-out__btn");
  await tryOut.waitFor();
  if (!(await hasClass(tryOut, "cancel"))) await tryOut.click();
  const [response] = await Promise.all([
    page.waitForResponse((response) => response.request().resourceType() === "fetch"),
    block.locator(".btn.execute").click(),
  ]);
  const status = block.locator(".live-responses-table tbody .response-col_status");
  await status.filter({ hasText: new RegExp(`^\\s*${response.status()}`) }).first().waitFor();
  return response;
}

const hasClass = (locator, name) => locator.evaluate((element, name) => element.classList.contains(name), name);

async function signIn(page, base = api) {
  await page.goto(`${base}/dev/sign-in`);
  await page.getByLabel("E-mail address").fill("grace@example.com");
  await page.getByLabel("User name").fill("grace");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${base}/docs`);
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
  // The operation is in the URL, and Swagger UI opens it again.
  await page.locator('.opblock.is-open[id$="-getProtectedGreeting"]').waitFor();
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
  await signIn(page, apiByAddress);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("requests of the page itself may use unsafe methods", async () => {
  const page = await open();
  await page.goto(`${api}/docs`);
  await page.locator(".opblock").first().waitFor();
  const post = (path, fields) =>
    page.evaluate(
      async ([path, fields]) => {
        const response = await fetch(path, { method: "POST", body: new URLSearchParams(fields) });
        return [response.status, response.url];
      },
      [path, fields],
    );
  assert.deepEqual(await post("/dev/sign-in", { email: "linus@example.com" }), [200, `${api}/docs`]);
  const me = await execute(page, "getMe");
  assert.equal((await me.json()).email.address, "linus@example.com");
  // The cookie is the credential of this one.
  assert.deepEqual(await post("/dev/end-session", {}), [200, `${api}/dev/sign-in`]);
  assert.equal((await execute(page, "getMe")).status(), 401);
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
    await page.goto("about:blank");
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
