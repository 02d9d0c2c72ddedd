import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import { api, cookie, run, token, unverified } from "./checks.js";
import type { components, paths } from "./openapi-typescript.js";

const anonymous = createClient<paths>({ baseUrl: api });
const bearer = createClient<paths>({ baseUrl: api, headers: { Authorization: `Bearer ${token}` } });
const withCookie = createClient<paths>({ baseUrl: api, headers: { Cookie: cookie } });

await run("openapi-fetch", {
  "/ without credentials": async () => {
    const { data } = await anonymous.GET("/");
    assert.equal(data?.message, "Poem x Hanko!");
  },
  "/protected with a Bearer token": async () => {
    const { data } = await bearer.GET("/protected");
    assert.equal(data?.message, "Hello from protected route!");
  },
  "/me with a Bearer token": async () => {
    const { data } = await bearer.GET("/me");
    assert(data);
    assert.match(data.user_id, /^[0-9a-f-]{36}$/);
    assert.equal(data.email?.address, "ada@example.com");
    assert.equal(data.username, undefined);
    assert(new Date(data.expires_at) > new Date());
    const claims: { [name: string]: unknown } = data.claims;
    assert.deepEqual(claims, {});
  },
  "/protected with the cookie": async () => {
    const { data } = await withCookie.GET("/protected");
    assert.equal(data?.message, "Hello from protected route!");
  },
  "/me with the cookie": async () => {
    const { data } = await withCookie.GET("/me");
    assert.equal(data?.username, "grace");
  },
  "401 without credentials": async () => {
    const { data, error, response } = await anonymous.GET("/me");
    assert.equal(data, undefined);
    const problem: components["schemas"]["Problem"] | undefined = error;
    assert.equal(response.status, 401);
    assert.equal(response.headers.get("www-authenticate"), "Bearer");
    assert.equal(problem?.status, 401);
    assert.equal(problem?.type, "/problems/missing-credentials");
  },
  "401 with a bad token": async () => {
    const { error, response } = await bearer.GET("/protected", {
      headers: { Authorization: "Bearer not.a.token" },
    });
    assert.equal(response.status, 401);
    assert.equal(error?.type, "/problems/invalid-token");
  },
  "403 of a guard": async () => {
    const { data, error, response } = await bearer.GET("/verified", {
      headers: { Authorization: `Bearer ${unverified}` },
    });
    assert.equal(data, undefined);
    const problem: components["schemas"]["Problem"] | undefined = error;
    assert.equal(response.status, 403);
    assert.equal(problem?.type, "/problems/insufficient-permission");
    assert.equal(problem.detail, "Requires a verified e-mail address. The Bearer token was examined.");
  },
});
