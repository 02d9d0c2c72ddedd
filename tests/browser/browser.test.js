// What a frontend developer does: sign in, try an operation out, authorize with a token.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { launchOptions } from "../chromium.mjs";

// `run` sets the URL of the API, a session token and the folder of the screenshots.
const { API: api, TOKEN: token, SCREENSHOTS: screenshots } = process.env;
const apiByAddress = api.replace("localhost", "127.0.0.1");

/** A second visit must transfer less than this, in bytes. */
const REVISIT_LIMIT = 5_000;

/** The colors and widths in which each page is tested. */
const LOOKS = ["light", "dark"].flatMap((colorScheme) =>
  [1280, 360].map((width) => ({ name: `${colorScheme}-${width}`, colorScheme, viewport: { width, height: 800 } })),
);

/** The accessibility rules that Swagger UI's own elements break. The test requires exactly these, so the list stays current. */
const BROKEN_BY_SWAGGER_UI = [
  "button-name",
  "color-contrast",
  "heading-order",
  "label-content-name-mismatch",
  "nested-interactive",
  "select-name",
];

let browser;
before(async () => (browser = await chromium.launch(launchOptions)));
after(() => browser?.close());

/** Opens a page in a new browser context, which fails the test if the page has errors. */
async function open(options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const faults = [];
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium also reports responses with an error status, which some of these tests expect.
    const isRefusal = / status of (400|401|409) /.test(message.text());
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
  // The same button also cancels, and checks of its class do not wait, so wait for the button first.
  const tryOut = block.locator(".try-out__btn");
  await tryOut.waitFor();
  if (!(await hasClass(tryOut, "cancel"))) await tryOut.click();
  const [response] = await Promise.all([
    page.waitForResponse((response) => response.request().resourceType() === "fetch" && !response.url().endsWith("/docs/session")),
    block.locator(".btn.execute").click(),
  ]);
  const status = block.locator(".live-responses-table tbody .response-col_status");
  await status.filter({ hasText: new RegExp(`^\\s*${response.status()}`) }).first().waitFor();
  return response;
}

const axePath = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** Returns the violations of accessibility rules; for Swagger UI's own elements, only the names of the rules. */
async function inspect(page, where) {
  // As the page's policy allows no other script, the tool is evaluated.
  await page.evaluate(await readFile(axePath, "utf8"));
  const found = await page.evaluate(async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.flatMap(({ id, help, nodes }) =>
      nodes.map(({ target }) => ({ id, text: `${id}: ${help}: ${target}`, isOfSwaggerUi: document.querySelector(target[0])?.closest(".swagger-ui") != null })),
    );
  });
  const ours = found.filter(({ isOfSwaggerUi }) => !isOfSwaggerUi);
  assert.deepEqual(ours.map(({ text }) => `${where}: ${text}`), []);
  return found.map(({ id }) => id);
}

/** Takes a picture, and fails the test if the page is wider than the window. */
async function look(page, name) {
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage: true });
  const widest = await page.evaluate(() =>
    [...document.querySelectorAll("body *")]
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
      .slice(0, 5)
      .map((element) => `${element.tagName}.${element.className} ${element.getBoundingClientRect().right}`),
  );
  const overflows = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
  assert.equal(overflows, false, `${name} is too wide: ${widest.join(", ")}`);
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

test("the pages look good and are accessible, light and dark, wide and narrow", async () => {
  const brokenBySwaggerUi = new Set();
  for (const { name, ...options } of LOOKS) {
    const page = await open(options);
    await page.goto(`${api}/`);
    await look(page, `root-${name}`);
    assert.deepEqual(await inspect(page, `root-${name}`), []);

    await page.goto(`${api}/dev/sign-in`);
    await page.getByText("Methods, time and custom claims").click();
    await look(page, `sign-in-${name}`);
    assert.deepEqual(await inspect(page, `sign-in-${name}`), []);

    await page.getByLabel("Custom claims").fill('{"email": 1}');
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("`email` cannot be a custom claim").waitFor();
    await look(page, `mistake-${name}`);
    assert.deepEqual(await inspect(page, `mistake-${name}`), []);

    await page.goto(`${api}/docs`);
    assert.equal((await execute(page, "getMe")).status(), 401);
    await operation(page, "getMe").getByText("neither a Bearer token nor the cookie `hanko`").first().waitFor();
    await look(page, `refused-${name}`);
    for (const rule of await inspect(page, `refused-${name}`)) brokenBySwaggerUi.add(rule);

    await signIn(page);
    await look(page, `docs-${name}`);
    for (const rule of await inspect(page, `docs-${name}`)) brokenBySwaggerUi.add(rule);
    await execute(page, "getMe");
    await look(page, `operation-${name}`);
    for (const rule of await inspect(page, `operation-${name}`)) brokenBySwaggerUi.add(rule);
    await page.locator(".auth-wrapper .btn.authorize").first().click();
    await page.locator("#auth-bearer-value").waitFor();
    await page.screenshot({ path: join(screenshots, `authorize-${name}.png`) });
    for (const rule of await inspect(page, `authorize-${name}`)) brokenBySwaggerUi.add(rule);

    await page.goto(`${api}/dev/sign-in`);
    await look(page, `sign-in-again-${name}`);
    assert.deepEqual(await inspect(page, `sign-in-again-${name}`), []);
    const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(background === "rgb(20, 22, 31)", options.colorScheme === "dark", background);
    page.assertFaultless();
    await page.context().close();
  }
  assert.deepEqual([...brokenBySwaggerUi].sort(), BROKEN_BY_SWAGGER_UI);
});

test("Swagger UI changes between light and dark with the system", async () => {
  const page = await open({ colorScheme: "light" });
  await page.goto(`${api}/docs`);
  await page.locator(".opblock").first().waitFor();
  const color = () => page.evaluate(() => getComputedStyle(document.querySelector(".swagger-ui")).color);
  const light = await color();
  await page.emulateMedia({ colorScheme: "dark" });
  await page.waitForFunction(() => document.documentElement.classList.contains("dark-mode"));
  assert.notEqual(await color(), light);
  page.assertFaultless();
  await page.context().close();
});

test("after signing in, Try it out works without a pasted token", async () => {
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

test("a pasted token is forgotten at a reload, and so is one that was stored", async () => {
  const page = await open();
  await page.goto(`${api}/docs`);
  const detail = async () => (await (await execute(page, "getProtectedGreeting")).json()).detail;
  assert.equal(await detail(), "No credentials were sent, neither a Bearer token nor the cookie `hanko`.");
  // As Swagger UI's `persistAuthorization` stores it.
  await page.evaluate(() => {
    const schema = { type: "http", scheme: "bearer" };
    localStorage.setItem("authorized", JSON.stringify({ bearer: { name: "bearer", schema, value: "of an ended session" } }));
  });
  await signIn(page);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);

  await page.locator(".auth-wrapper .btn.authorize").first().click();
  await page.locator("#auth-bearer-value").fill("not a token");
  await page.getByRole("button", { name: "Apply credentials" }).first().click();
  await page.locator(".close-modal").click();
  assert.equal(await detail(), "The token is not a compact JWS. The Bearer token was examined.");
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);

  await page.reload();
  // The operation is in the URL, and Swagger UI opens it again.
  await page.locator('.opblock.is-open[id$="-getProtectedGreeting"]').waitFor();
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("Authorize asks for a Bearer token only, and has the focus there", async () => {
  const page = await open();
  await signIn(page);
  const cookies = () => page.evaluate(() => document.cookie);
  const before = await cookies();
  await page.locator(".auth-wrapper .btn.authorize").first().focus();
  await page.keyboard.press("Enter");
  await page.locator("#auth-bearer-value").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "auth-bearer-value");
  assert.equal(await page.locator(".dialog-ux input").count(), 1);
  await page.locator(".dialog-ux").getByText("hanko.getSessionToken()").waitFor();
  await page.keyboard.type(token);
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Remove authorization" }).click();
  assert.equal(await cookies(), before);
  // The scheme is in the document all the same.
  const document = await (await fetch(`${api}/openapi.json`)).json();
  assert.equal(document.components.securitySchemes.cookie.in, "cookie");
  page.assertFaultless();
  await page.context().close();
});

test("the page shows who is signed in, also after a change in another tab", async () => {
  const page = await open();
  await page.goto(`${api}/docs`);
  const status = page.locator("#session");
  await status.getByText("Nobody is signed in").waitFor();
  await page.getByRole("link", { name: "Sign in or out" }).click();
  await page.getByRole("button", { name: "Sign in" }).click();
  await status.getByText("Signed in as ada@example.com by the cookie hanko").waitFor();

  const other = await page.context().newPage();
  await other.goto(`${api}/dev/sign-in`);
  await other.getByRole("button", { name: "End this session" }).click();
  await other.getByText("The session has ended.").waitFor();
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await status.getByText("The cookie hanko is rejected: the session has ended.").waitFor();
  await page.screenshot({ path: join(screenshots, "rejected.png") });
  page.assertFaultless();
  await page.context().close();
});

test("before its scripts have arrived, the page says that it is loading", async () => {
  const page = await open();
  let release;
  const released = new Promise((resolve) => (release = resolve));
  await page.route(/docs\/.*\.(js|css)$/, async (route) => {
    await released;
    await route.continue();
  });
  await page.goto(`${api}/docs`, { waitUntil: "commit" });
  await page.getByText("Loading…").waitFor();
  // Wait until it is painted, not only parsed: only then does an animation end.
  await page.getByText("If nothing more appears").waitFor({ timeout: 20_000 });
  await page.screenshot({ path: join(screenshots, "loading.png") });
  release();
  await page.locator(".opblock").first().waitFor();
  assert.equal(await page.getByText("Loading…").count(), 0);
  page.assertFaultless();
  await page.context().close();
});

test("if Swagger UI cannot be loaded, the page says so", async () => {
  const page = await open();
  const { src } = await firstScript();
  await page.route(`${api}/${src}`, (route) => route.abort());
  await page.goto(`${api}/docs`);
  await page.getByRole("alert").getByText("Swagger UI could not be loaded").waitFor();
  await page.screenshot({ path: join(screenshots, "not-loaded.png") });
  await page.getByRole("link", { name: "openapi.json" }).first().click();
  await page.waitForURL(`${api}/openapi.json`);
  await page.context().close();
});

/** The first script of the page, which is Swagger UI. */
async function firstScript() {
  const html = await (await fetch(`${api}/docs`)).text();
  return { src: html.match(/<script src="([^"]+)"/)[1] };
}

test("the operations of the application come first", async () => {
  const page = await open();
  await page.goto(`${api}/docs`);
  await page.locator(".opblock").first().waitFor();
  const ids = await page.locator(".opblock .opblock-summary-operation-id").allInnerTexts();
  const places = ["getGreeting", "getMe", "receiveHankoWebhook", "getLiveness"].map((id) => ids.indexOf(id));
  assert.ok(places.every((place, index) => place > (places[index - 1] ?? -1)), ids.join(", "));
  // A tag without operations would be an empty section, and operations without a tag are in the section "default".
  const tags = await page.locator(".opblock-tag").evaluateAll((elements) => elements.map(({ dataset }) => dataset.tag));
  assert.deepEqual(tags, ["Greeting", "Session", "Webhooks", "Health"]);
  assert.equal(await page.getByRole("link", { name: "Hanko's documentation" }).getAttribute("href"), "https://docs.hanko.io/");
  page.assertFaultless();
  await page.context().close();
});

test("somebody without a mouse signs in, tries an operation out and signs out", async () => {
  const page = await open();
  await page.goto(`${api}/`);
  const tabTo = async (locator) => {
    for (let presses = 0; presses < 60; presses++) {
      if (await locator.evaluate((element) => element === document.activeElement)) return;
      await page.keyboard.press("Tab");
    }
    assert.fail("the focus does not get there");
  };
  await tabTo(page.getByRole("link", { name: "Sign in or out" }));
  await page.keyboard.press("Enter");
  await page.waitForURL(`${api}/dev/sign-in`);
  assert.equal(await page.evaluate(() => document.activeElement.id), "email");
  await page.keyboard.press("Enter");
  await page.waitForURL(`${api}/docs`);
  const block = operation(page, "getProtectedGreeting");
  const tryOut = async () => {
    await block.waitFor();
    await tabTo(block.locator(".opblock-summary-control"));
    await page.keyboard.press("Enter");
    await tabTo(block.locator(".try-out__btn"));
    await page.keyboard.press("Enter");
    await tabTo(block.locator(".btn.execute"));
    const [response] = await Promise.all([page.waitForResponse(`${api}/protected`), page.keyboard.press("Enter")]);
    return response.status();
  };
  assert.equal(await tryOut(), 200);

  await page.goto(`${api}/dev/sign-in`);
  // The form has the focus; the button comes before it.
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByText("The session has ended.").waitFor();

  await page.goto(`${api}/docs`);
  assert.equal(await tryOut(), 401);
  await block.getByText("The session has ended. The cookie `hanko` was examined.").first().waitFor();
  page.assertFaultless();
  await page.context().close();
});

test("the sign-in page sets claims, methods and a sign-in time for guards", async () => {
  const page = await open();
  await page.goto(`${api}/dev/sign-in`);
  await page.getByLabel("not verified").check();
  await page.getByText("Methods, time and custom claims").click();
  await page.getByLabel("totp").check();
  await page.getByLabel("How long ago").fill("2h");
  await page.getByLabel("Custom claims").fill('{"role": "admin"}');
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.waitForURL(`${api}/docs`);
  const me = await (await execute(page, "getMe")).json();
  assert.equal(me.email.is_verified, false);
  assert.deepEqual(me.claims, { role: "admin", amr: ["pwd", "totp"] });
  const age = Date.now() - Date.parse(me.issued_at);
  assert.ok(age > 7_190_000 && age < 7_290_000, `${age} ms`);
  page.assertFaultless();
  await page.context().close();
});

test("an address that only the browser accepts gets an error page", async () => {
  const page = await open();
  await page.goto(`${api}/dev/sign-in`);
  await page.getByLabel("E-mail address").evaluate((input) => (input.type = "text"));
  await page.getByLabel("E-mail address").fill("ada");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("This is not an e-mail address.").waitFor();
  assert.equal(await page.getByLabel("E-mail address").inputValue(), "ada");
  assert.equal(await page.evaluate(() => document.activeElement.id), "email");
  page.assertFaultless();
  await page.context().close();
});

test("the button of an older tab ends no session of a newer one", async () => {
  const page = await open();
  await signIn(page);
  await page.goto(`${api}/dev/sign-in`);
  const other = await page.context().newPage();
  await other.goto(`${api}/dev/sign-in`);
  await other.getByLabel("E-mail address").fill("linus@example.com");
  await other.getByRole("button", { name: "Sign in" }).click();
  await other.waitForURL(`${api}/docs`);
  await page.getByRole("button", { name: "End this session" }).click();
  await page.getByText("another one has started in this browser").waitFor();
  await page.getByText("Signed in as linus@example.com").waitFor();
  assert.equal((await execute(other, "getMe")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("a session that is ended at Hanko is rejected at once", async () => {
  const page = await open();
  await signIn(page);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  await page.goto(`${api}/dev/sign-in`);
  await page.getByText("Signed in as grace@example.com").waitFor();
  await page.screenshot({ path: join(screenshots, "sign-in-again.png") });
  await page.getByRole("button", { name: "End this session" }).click();
  await page.waitForURL(`${api}/dev/sign-in`);
  await page.getByText("The session has ended.").waitFor();
  assert.equal(await page.getByText("Signed in as").count(), 0);
  await page.goto(`${api}/docs`);
  const refusal = await execute(page, "getProtectedGreeting");
  assert.equal(refusal.status(), 401);
  assert.equal((await refusal.json()).detail, "The session has ended. The cookie `hanko` was examined.");
  page.assertFaultless();
  await page.context().close();
});

test("the pages work at 127.0.0.1 as well as at localhost", async () => {
  const page = await open();
  await signIn(page, apiByAddress);
  assert.equal((await execute(page, "getProtectedGreeting")).status(), 200);
  page.assertFaultless();
  await page.context().close();
});

test("requests from the page itself may use unsafe methods", async () => {
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
  // The cookie is the credential of this request.
  assert.deepEqual(await post("/dev/end-session", {}), [200, `${api}/dev/sign-in`]);
  assert.equal((await execute(page, "getMe")).status(), 401);
  page.assertFaultless();
  await page.context().close();
});

test("a second visit transfers very little", async () => {
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

test("only the page's own scripts may run", async () => {
  const response = await fetch(`${api}/docs`);
  const policy = response.headers.get("content-security-policy");
  const scripts = policy.split(";").find((directive) => directive.trim().startsWith("script-src"));
  assert.equal(scripts.trim(), "script-src 'self'");
  assert.ok(policy.startsWith("default-src 'none'"));
});
