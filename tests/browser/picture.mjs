// Takes the picture of README.md, while `cargo run -- dev` runs: npm ci --prefix tests/browser && node tests/browser/picture.mjs
import { chromium } from "playwright-core";
import { launchOptions } from "../chromium.mjs";

const API = "http://localhost:8000";
const PICTURE = new URL("../../docs/docs-page.png", import.meta.url).pathname;

const browser = await chromium.launch(launchOptions);
const page = await browser.newPage({ viewport: { width: 1000, height: 900 }, colorScheme: "light" });
await page.goto(`${API}/dev/sign-in`);
await page.locator("button[type=submit]").first().click();
await page.waitForLoadState();

await page.goto(`${API}/docs`);
const operation = page.locator("[id$=getMe]").first();
await operation.locator(".opblock-summary").click();
await operation.getByRole("button", { name: "Try it out" }).click();
await operation.getByRole("button", { name: "Execute" }).click();
const body = operation.locator(".live-responses-table .microlight").first();
await body.waitFor();
await page.mouse.move(0, 0);

// High enough for the whole page, so that the boxes are positions in the picture.
await page.setViewportSize({ width: 1000, height: 2500 });
const { y: top } = await operation.boundingBox();
const { y, height } = await body.boundingBox();
// From the title of the tag to the end of the body.
const [above, below] = [75, 15];
const clip = { x: 0, y: top - above, width: 1000, height: y + height - top + above + below };
await page.screenshot({ path: PICTURE, clip });
await browser.close();
